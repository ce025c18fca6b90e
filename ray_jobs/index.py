"""`convcg index`: embed the catalogue and write the bundle.

python -m ray_jobs.index --recipe demo --workdir runs/demo
"""

import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from convcg import bundle as bundles
from convcg.data import prepared
from convcg.data.prepared import Prepared
from convcg.errors import StorageError
from convcg.index.shard import shard_bounds
from convcg.log import progress
from convcg.storage import copy_file, delete_directory, exists, locate, sha256_of
from ray_jobs import train
from ray_jobs.embed import embed_pins
from ray_jobs.run import Run, Stage, stage_main, summary_of

_log = logging.getLogger(__name__)
#: Pins embedded at once; fixed, so that the same model gives the same bits.
_BATCH = 4096


def work(run: Run) -> None:
    """Write the bundle to `run.bundle`; nothing is visible there until it is complete."""
    data = Prepared.open(run.prepared)
    dim = run.config.model.served_dim(run.config.index.dim)
    weights = run.model / bundles.MODEL
    if not exists(weights):
        raise StorageError(f"{weights.uri} does not exist. Run the train stage first.")
    build = Path(tempfile.mkdtemp(prefix="convcg-bundle-"))
    try:
        (build / "shards").mkdir()
        for name in (prepared.PINS, prepared.USERS, prepared.ENCODERS):
            copy_file(data.location / name, locate(build / name))
        copy_file(weights, locate(build / bundles.MODEL))
        shards = _write_embeddings(run, build, data, dim)
        manifest = bundles.seal(build, config=run.config.model_dump(mode="json"), shards=shards)
        delete_directory(run.bundle)
        bundles.copy_bundle(locate(build), run.bundle, manifest)
    finally:
        shutil.rmtree(build, ignore_errors=True)
    _log.info("bundle %s: %d shards in %s", manifest.model_version, len(shards), run.bundle.uri)


def _write_embeddings(run: Run, build: Path, data: Prepared, dim: int) -> tuple[str, ...]:
    """Embed every pin with Ray Data; write inputs and shards as memory-mapped arrays, so that no part is held whole."""
    num_pins, width = data.summary().num_pins, run.config.model.input_width(data.encoders().shapes.pin)
    bounds = shard_bounds(num_pins, run.config.index.num_shards)
    names = tuple(f"shards/{number:05d}.npy" for number in range(len(bounds)))
    seen = _new_array(build / bundles.PIN_INPUTS, num_pins, width)
    vectors = [_new_array(build / name, end - first, dim) for name, (first, end) in zip(names, bounds, strict=True)]
    with progress("embedding pins", total=num_pins) as meter:
        for batch in _embedded(run, num_pins, dim).iter_batches(batch_format="pyarrow", batch_size=None):
            rows = batch["row"].to_numpy()
            seen[rows] = _matrix(batch, "seen", width)
            embedding = _matrix(batch, "embedding", dim)
            for array, (first, end) in zip(vectors, bounds, strict=True):
                inside = (rows >= first) & (rows < end)
                array[rows[inside] - first] = embedding[inside]
            meter.advance(len(rows))
    for array in (seen, *vectors):
        array.flush()
    return names


def _new_array(path: Path, num_rows: int, width: int) -> "np.memmap[Any, Any]":
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(num_rows, width))


def _embedded(run: Run, num_pins: int, dim: int) -> Any:
    weights = run.model / bundles.MODEL
    return ray.data.range(num_pins, override_num_blocks=max(1, -(-num_pins // _BATCH))).map_batches(
        embed_pins,
        fn_kwargs={
            "prepared": run.prepared.uri,
            "graph": run.graph.uri,
            "weights": weights.uri,
            "digest": sha256_of(weights),
            "model": run.config.model.model_dump_json(),
            "dim": dim,
        },
        batch_format="pyarrow",
        batch_size=_BATCH,
        num_gpus=1 if run.config.train.use_gpu else None,
    )


def _matrix(batch: pa.Table, name: str, width: int) -> "np.ndarray[Any, Any]":
    return np.asarray(batch[name].combine_chunks().flatten()).reshape(-1, width)


STAGE = Stage(
    name="index",
    parts=("index", "retrieval", "serve"),
    after=(train.STAGE,),
    work=work,
    output=lambda run: run.bundle / bundles.MANIFEST,
)
main = stage_main(STAGE.execute, name="index", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
