"""The pin tower inside Ray Data's processes."""

import json
from functools import lru_cache

import pyarrow as pa
import torch
from safetensors.torch import load

from convcg.data.encode import PinEncoder
from convcg.data.prepared import Prepared
from convcg.data.split import DAY
from convcg.model.two_tower import ModelConfig, PinTower, prefix_of
from convcg.storage import locate, read_bytes
from ray_jobs.assemble import Catalogue


def embed_pins(
    block: pa.Table, *, prepared: str, graph: str, weights: str, digest: str, model: str, dim: int
) -> pa.Table:
    """Row numbers (column `id`) to row, seen ([D] float32 lists, what the query tower reads of a pin) and embedding
    ([dim] float32 lists, for conversions, as of the end of the training time).

    `prepared`, `graph` and `weights` are URIs, `digest` the hash of the weights' content, `model` a `ModelConfig` as
    JSON.
    """
    pins, day, tower, device = _loaded(prepared, graph, weights, digest, model)
    rows = torch.from_numpy(block["id"].to_numpy().copy())
    counts = pins.counts(rows, day)
    with torch.inference_mode():
        inputs = tower.inputs(pins.batch(rows).to(device))
        embedding = tower(inputs, None if counts is None else counts.to(device))
        seen = tower.seen(inputs, rows.to(device))
    return pa.table({"row": block["id"], "seen": _lists(seen), "embedding": _lists(prefix_of(embedding, dim))})


@lru_cache(maxsize=1)
def _loaded(prepared: str, graph: str, weights: str, digest: str, model: str) -> tuple[PinEncoder, int, PinTower, str]:
    """Once a process, which Ray uses for many blocks; `digest` tells new content at an old path."""
    data = Prepared.open(locate(prepared))
    catalogue = Catalogue.read(data, locate(graph))
    tower = PinTower(ModelConfig.model_validate(json.loads(model)), catalogue.shapes.pin)
    state = load(read_bytes(locate(weights)))
    tower.load_state_dict({key.removeprefix("pin."): state[key] for key in state if key.startswith("pin.")})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return catalogue.pins, data.summary().times.train // DAY, tower.to(device).eval(), device


def _lists(matrix: torch.Tensor) -> pa.Array:
    flat = matrix.cpu().numpy().ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix.shape[1])
