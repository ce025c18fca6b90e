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
from convcg.data.encode import PinEncoder
from convcg.data.prepared import Prepared
from convcg.errors import ConfigError, TrainingError
from convcg.features import Kind
from convcg.graph.vectors import GraphVectors, completed, start_of_pins
from convcg.model.advertiser import Advertisers
from convcg.model.loss import LossConfig, PinShares, width_weights
from convcg.model.two_tower import PinStart, TwoTower
from convcg.storage import copy_file, delete_directory, locate, write_bytes
from convcg.train import TrainConfig, Trained, train
from convcg.types import TASKS, Task
from convcg.validation import Validation
from ray_jobs import graph
from ray_jobs.cluster import ENVIRONMENT
from ray_jobs.feed import Feed, Mix, examples_of
from ray_jobs.run import Run, Stage, stage_main, summary_of
from ray_jobs.tracking import Tracker, followed

_log = logging.getLogger(__name__)
_SCORE = "validation_recall_at_100"
#: Two so that the best one stays beside the latest.
_CHECKPOINTS_KEPT = 2


def work(run: Run) -> None:
    """Train (or go on training) and leave the best checkpoint's weights in `run.model`."""
    config = run.config.train
    check_resources(config)
    data = Prepared.open(run.prepared)
    mix = _mix(data, config)
    # Workers do the same; here what is wrong is said before they start.
    width_weights(run.config.model, run.config.loss)
    advertisers_of(data, run.config.loss)
    completed(data.encoders().shapes, _graph(run.config, run.graph.uri, num_pins=len(data.pins())))
    with followed(_metrics_directory(run), total_steps=config.epochs * max(1, mix.num_batches)):
        result = _trainer(run).fit()
    if result.error is not None or not result.best_checkpoints:
        raise TrainingError(f"training ended without a checkpoint: {result.error}")
    scored = [(metrics[_SCORE], metrics["step"], checkpoint) for checkpoint, metrics in result.best_checkpoints]
    recall, step, checkpoint = max(scored, key=lambda item: item[:2])
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


def _mix(data: Prepared, config: TrainConfig) -> Mix:
    return Mix.of(
        data.summary().num_train,
        batch_size=config.batch_size,
        shares={task.value: share for task, share in config.shares.items()},
        max_repeats=config.max_repeats,
        world_size=config.num_workers,
    )


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
        datasets={task: examples_of(data, task) for task in _mix(data, config).rows},
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
    pins = data.pins()
    vectors = _graph(config, arguments["graph"], num_pins=len(pins))
    shapes = completed(data.encoders().shapes, vectors)
    torch.manual_seed(config.train.seed)
    towers = TwoTower(config.model, shapes)
    # Data-parallel training copies rank 0's start to the others; a checkpoint replaces it.
    if config.model.pin_start is PinStart.GRAPH and rank == 0 and ray.train.get_checkpoint() is None:
        assert vectors is not None
        towers.pin.start_from(torch.from_numpy(vectors.vector_Nd), torch.from_numpy(vectors.degree_N))
    pin_encoder = PinEncoder(pins, shapes.pin, data.pin_days(), None if vectors is None else vectors.vector_Nd)
    validates = rank == 0 and config.train.validation_queries
    validation = Validation(data, pin_encoder, limit=config.train.validation_queries) if validates else None
    mix = _mix(data, config.train)
    trained = Trained(
        pins=pin_encoder,
        shares=_shares(data),
        advertisers=advertisers_of(data, config.loss),
        num_batches=mix.num_batches,
        batches=Feed(
            shards={task: ray.train.get_dataset_shard(task) for task in mix.rows},
            mix=mix,
            features=shapes.user,
            world_size=world_size,
            shuffle_buffer=config.train.shuffle_buffer,
            seed=config.train.seed,
        ),
        validate=validation.recall if validation else None,
    )
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


def _graph(config: RunConfig, uri: str, *, num_pins: int) -> GraphVectors | None:
    """The vectors of the graph stage, where the model reads or starts from them.

    Raises:
        ConfigError: it starts from them, and there are none that fit.
    """
    starts = config.model.pin_start is PinStart.GRAPH
    if not starts and not any(feature.kind is Kind.GRAPH for feature in config.features.pin):
        return None
    vectors = GraphVectors.read(locate(uri), num_pins=num_pins)
    return start_of_pins(vectors, dim=config.model.feature_width) if starts else vectors


def _shares(data: Prepared) -> PinShares:
    """How each task's targets are spread over the pins, and what was served and not engaged."""
    counts = data.frequencies()

    def spread(name: str) -> torch.Tensor:
        count = counts[name].to_numpy()
        return torch.from_numpy(count / max(1, count.sum())).float()

    return PinShares(trained=torch.stack([spread(task.value) for task in TASKS]), served=spread("served"))


def advertisers_of(data: Prepared, loss: LossConfig) -> Advertisers | None:
    """Who advertises which pin, where the loss asks for it.

    Raises:
        ConfigError: the pin table does not say, or no advertiser can be used.
    """
    if not loss.names_advertisers:
        return None
    counts = data.frequencies()
    return Advertisers.of(
        data.pins().column("advertiser_id"),
        conversions=counts[Task.CONVERSION.value].to_numpy(),
        engagements=counts[Task.ENGAGEMENT.value].to_numpy(),
        config=loss.advertiser,
    )


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
