"""`convcg train`: the two towers on Ray Train, fed by Ray Data; an interrupted run goes on where it was.

python -m ray_jobs.train --recipe demo --workdir runs/demo
"""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device

from convcg.bundle import MODEL
from convcg.checkpoint import read_progress
from convcg.config import RunConfig
from convcg.data.prepared import Prepared
from convcg.errors import ConfigError, TrainingError
from convcg.model.loss import width_weights
from convcg.storage import copy_file, delete_directory, locate, write_bytes
from convcg.train import TrainConfig, train
from ray_jobs import graph
from ray_jobs.assemble import Catalogue, advertisers_of, mix_of, trained_on
from ray_jobs.cluster import ENVIRONMENT
from ray_jobs.feed import Feed, examples_of
from ray_jobs.run import Run, Stage, stage_main, summary_of
from ray_jobs.tracking import Tracker, followed

_log = logging.getLogger(__name__)
_SCORE = "score"
#: Two so that the best one stays beside the latest.
_CHECKPOINTS_KEPT = 2


def work(run: Run) -> None:
    """Train (or go on training) and leave the best checkpoint's weights in `run.model`."""
    config = run.config.train
    check_resources(config)
    data = Prepared.open(run.prepared)
    mix = mix_of(data, config)
    # Workers do the same; here what is wrong is said before they start.
    width_weights(run.config.model, run.config.loss)
    advertisers_of(data, run.config.loss)
    with followed(_metrics_directory(run), total_steps=config.epochs * max(1, mix.num_batches)):
        result = _trainer(run).fit()
    if result.error is not None or not result.best_checkpoints:
        raise TrainingError(f"training ended without a checkpoint: {result.error}")
    checkpoint, metrics = max(result.best_checkpoints, key=lambda item: (item[1][_SCORE], item[1]["step"]))
    step, recall = metrics["step"], metrics["validation_recall_at_100"]
    _log.info("the model is the checkpoint of step %d (validation recall@100 %.4f)", step, recall)
    delete_directory(run.model)
    with checkpoint.as_directory() as directory:
        copy_file(locate(Path(directory) / MODEL), run.model / MODEL)
    write_bytes(run.model / "step.txt", f"{int(step)}\n".encode())


def check_resources(config: TrainConfig) -> None:
    """Ray waits for what it does not have: right where a cluster grows on demand, for ever where it cannot.

    Raises:
        ConfigError: the Ray that was started here, which does not grow, has too little.
    """
    has = ray.cluster_resources()
    # One CPU must remain for the tasks that read the data.
    wanted = {"CPU": config.num_workers * config.cpus_per_worker + 1, "GPU": config.num_workers * config.use_gpu}
    short = [
        f"{wanted[kind]:g} {kind}s, it has {has.get(kind, 0):g}" for kind in wanted if wanted[kind] > has.get(kind, 0)
    ]
    if not short:
        return
    needs = (
        f"train.num_workers = {config.num_workers} with train.cpus_per_worker = {config.cpus_per_worker:g} and "
        f"train.use_gpu = {str(config.use_gpu).lower()} needs (with one CPU for reading data) {'; '.join(short)}."
    )
    if os.environ.get("RAY_ADDRESS"):
        _log.warning("%s Waiting for the cluster to grow.", needs)
    else:
        raise ConfigError(f"{needs} Lower the settings, or join a larger Ray with RAY_ADDRESS.")


def _trainer(run: Run) -> TorchTrainer:
    config = run.config.train
    data = Prepared(run.prepared)
    return TorchTrainer(
        train_worker,
        train_loop_config={
            "config": run.config.model_dump(mode="json"),
            "prepared": run.prepared.uri,
            "graph": run.graph.uri,
            "metrics": str(_metrics_directory(run)),
            "run_id": _run_name(run),
        },
        datasets={task: examples_of(data, task) for task in mix_of(data, config).rows},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            # The same name finds the checkpoints of an interrupted run; another config or input makes another name.
            name=_run_name(run),
            storage_path=(run.workdir / "train").path,
            storage_filesystem=None if run.workdir.is_local else run.workdir.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=_CHECKPOINTS_KEPT, checkpoint_score_attribute=_SCORE, checkpoint_score_order="max"
            ),
            worker_runtime_env={"env_vars": _worker_environment()},
        ),
    )


def _run_name(run: Run) -> str:
    return f"run-{STAGE.fingerprint(run)}"


def _metrics_directory(run: Run) -> Path:
    """Beside the run's checkpoints; where those are in a bucket, under the machine of rank 0's current directory."""
    return Path((run.workdir / "train").path if run.workdir.is_local else "runs") / _run_name(run)


def _worker_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("WANDB_") or name in ENVIRONMENT}


def train_worker(arguments: dict[str, Any]) -> None:
    """What every training worker runs."""
    config = RunConfig.model_validate(arguments["config"])
    ray_context = ray.train.get_context()
    rank, world_size = ray_context.get_world_rank(), ray_context.get_world_size()
    torch.set_num_threads(config.train.threads_per_worker or max(1, (os.cpu_count() or 1) // world_size))
    data = Prepared.open(locate(arguments["prepared"]))
    catalogue = Catalogue.of_run(config, data, locate(arguments["graph"]))
    # Data-parallel training copies rank 0's start to the others; a checkpoint replaces it.
    towers = catalogue.towers(config, start=rank == 0 and ray.train.get_checkpoint() is None)
    mix = mix_of(data, config.train)
    feed = Feed(
        shards={task: ray.train.get_dataset_shard(task) for task in mix.rows},
        examples=data.summary().num_train,
        mix=mix,
        features=catalogue.shapes.user,
        world_size=world_size,
        shuffle_buffer=config.train.shuffle_buffer,
        seed=config.train.seed,
    )
    trained = trained_on(config, data, catalogue, feed, validates=rank == 0)
    with _resume_directory() as resume:
        context = _RayContext(rank=rank, world_size=world_size, device=get_device())
        if rank == 0:
            context.tracker = Tracker(
                Path(arguments["metrics"]),
                run_id=arguments["run_id"],
                config=arguments["config"],
                from_step=0 if resume is None else read_progress(resume).step,
            )
        try:
            train(towers, config.train, config.loss, trained, context, resume)
        finally:
            context.close()


@contextmanager
def _resume_directory() -> Iterator[Path | None]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as directory:
        yield Path(directory)


@dataclass(kw_only=True)
class _RayContext:
    """`convcg.train.Context` on Ray Train."""

    rank: int
    world_size: int
    device: torch.device
    tracker: Tracker | None = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        assert self.tracker is not None
        self.tracker.log(step, metrics)

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        if self.rank != 0:
            ray.train.report(metrics)
            return
        directory = Path(tempfile.mkdtemp(prefix="convcg-checkpoint-"))
        try:
            write(directory)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(directory))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.close()


STAGE = Stage(
    name="train",
    parts=("model", "loss", "train"),
    after=(graph.STAGE,),
    work=work,
    output=lambda run: run.model / MODEL,
)
main = stage_main(STAGE.execute, name="train", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
