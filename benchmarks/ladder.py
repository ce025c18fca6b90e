"""`convcg ladder` for hundreds of small runs: a process a run, several at a time, without Ray in training.

    python -m benchmarks.ladder --recipe ladder_claims --seeds 3 --workdir runs/ladder_claims --processes 2

The same recipes, prepared data, batches, loop, weights and tables. Two things differ: training reads its examples in
this process; and ranks are those of the towers' own scores (float32, no index) in the whole catalogue, also among pins
that are sold out, not for the person's country, or the subject itself, which the command leaves out. Starting Ray's
workers and asking a retriever one request at a time take longer than training a small run does. Done runs are not done
again; `convcg compare` and `convcg report` read the workdirs.
"""

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import torch
import typer
from torch import Tensor

from convcg import log
from convcg.commands import invoke
from convcg.compare import numbers_of
from convcg.config import load_config
from convcg.data.prepared import Prepared, read_part
from convcg.data.split import DAY
from convcg.data.tables import write_parquet
from convcg.evaluate.evaluation import MODEL, ranks_table, scorers
from convcg.evaluate.queries import as_served, test_queries
from convcg.evaluate.ranking import Scores, rank_scores
from convcg.evaluate.slices import Past, slices_of
from convcg.ladder import plan, read_ladder
from convcg.model.two_tower import TwoTower
from convcg.ranks import RANKS
from convcg.storage import locate
from convcg.train import train as run_training
from convcg.validation import scorer
from ray_jobs import graph, prepare, train
from ray_jobs.assemble import Catalogue, mix_of, trained_on
from ray_jobs.cluster import connected
from ray_jobs.feed import Feed, columns_of, with_requests
from ray_jobs.ladder import bring_up_to_date, directions_of, place, tell
from ray_jobs.run import Run, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A task's training examples; to `Feed` what a Ray Data shard is."""

    data: Prepared
    task: str

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        """All of them, a table a file."""
        columns, history = columns_of(self.data.encoders().shapes), self.data.summary().history
        for file in self.data.files(self.task):
            yield with_requests(read_part(file), directory=self.data.location.uri, history=history, columns=columns)


@dataclass(slots=True)
class Kept:
    """`convcg.train.Context` that keeps the weights of the checkpoint that becomes the model."""

    towers: TwoTower
    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    score: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Nothing: the loss is not looked at."""

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Keep the weights if none had a higher score."""
        if metrics["score"] >= self.score:
            self.score = metrics["score"]
            self.weights = {name: weight.clone() for name, weight in self.towers.state_dict().items()}


def trained(run: Run) -> tuple[TwoTower, Catalogue]:
    """The towers of a run whose data are prepared, as `convcg train` would leave them."""
    config, data = run.config, Prepared.open(run.prepared)
    catalogue = Catalogue.of_run(config, data, run.graph)
    towers, mix, examples = catalogue.towers(config), mix_of(data, config.train), data.summary().num_train
    feed = Feed(
        shards={task: Stored(data, task) for task in mix.rows},
        examples=examples,
        mix=mix,
        features=catalogue.shapes.user,
        world_size=1,
        shuffle_buffer=max(examples.values()),  # all are held in memory, however many there are
        seed=config.train.seed,
    )
    kept = Kept(towers)
    run_training(
        towers, config.train, config.loss, trained_on(config, data, catalogue, feed, validates=True), kept, None
    )
    towers.load_state_dict(kept.weights)
    return towers.eval(), catalogue


def scores_of(towers: TwoTower, catalogue: Catalogue, data: Prepared) -> Callable[[pa.Table], Scores]:
    """What gives every pin a score ([B, N]) for a table of queries, with counts as of the end of the training time."""
    counts = catalogue.pins.all_counts(data.summary().times.train // DAY)
    return scorer(towers, catalogue.pins, counts, catalogue.shapes.user)


def measure(run: Run) -> None:
    """Train a run and leave the ranks of its test queries, and of the baselines that its config names."""
    torch.set_num_threads(1)
    config, data = run.config, Prepared.open(run.prepared)
    held_out, pins = test_queries(data, config.evaluate.max_queries), data.pins()
    queries, past = as_served(held_out, config.retrieval), Past.read(data, len(pins))
    world = config.world if config.data.events is None else None
    towers, catalogue = trained(run)
    model = (MODEL, scores_of(towers, catalogue, data))
    ranked = {
        name: rank_scores(name, score, queries, num_pins=len(pins), ks=config.evaluate.ks, served_N=past.served_N)
        for name, score in chain([model], scorers(data, pins, config.evaluate, world))
    }
    write_parquet(ranks_table(queries, slices_of(held_out, pins, past), ranked), run.workdir / RANKS)


STAGE = Stage(
    name="measured",
    parts=("retrieval", "evaluate"),
    after=(train.STAGE,),
    work=measure,
    output=lambda run: run.workdir / RANKS,
)


_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command(help="`convcg ladder` for hundreds of small runs")
def _command(
    recipe: Annotated[str, typer.Option("--recipe", "-r")] = "ladder",
    overrides: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006 (typer copies it)
    workdir: Annotated[str, typer.Option("--workdir", "-w", help="[default: runs/LADDER]")] = "",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    directions: Annotated[str, typer.Option(help="Of a ladder of steps: how they are measured.")] = "cumulative",
    baselines: Annotated[str, typer.Option(help="Asked in the start's first run, with commas between.")] = "",
    ks: str = "20,100,1000",
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time; each computes with one thread.")] = 2,
) -> None:
    log.set_up(verbose=False)
    ladder, ways, cuts = read_ladder(recipe), directions_of(directions), numbers_of(ks, option="--ks")
    planned = plan(ladder, overrides=overrides, directions=ways)
    where = locate(workdir or f"runs/{Path(recipe).stem}")
    runs = []
    for seed in range(seeds):
        for setting in planned.settings:
            asked = baselines if setting is planned.settings[0] and seed == 0 else ""
            settings = [*setting.overrides, f"train.seed={seed}", f"evaluate.baselines=[{asked}]"]
            config = load_config(ladder.start, settings)
            runs.append(Run(config=config, workdir=place(where, setting.name, seed)))
    todo = [run for run in runs if not STAGE.is_done(run)]
    if todo:
        with connected(verbose=False):
            holders: dict[tuple[str, str], Run] = {}
            for run in todo:
                bring_up_to_date(run, holders, (prepare.STAGE, graph.STAGE))
    spawned = multiprocessing.get_context("spawn")  # a fork would share Ray's and torch's threads
    with ProcessPoolExecutor(processes, mp_context=spawned) as pool:
        for number, done in enumerate(as_completed([pool.submit(STAGE.execute, run) for run in todo]), start=1):
            done.result()
            _log.info("%d of %d runs measured", number, len(todo))
    tell(ladder.start, planned, seeds=seeds, ks=cuts, workdir=where)


if __name__ == "__main__":
    sys.exit(invoke(_app, None, name="benchmarks.ladder"))
