"""What `prepare` costs beside the same result by Polars in one process: events a second and core, memory, scaling.

    python -m benchmarks.prepare --events 5000000 --repeat 3    # the table
    python -m benchmarks.prepare --scaling 1 3 10 30            # CPU seconds per million events, ours alone
    python -m benchmarks.prepare --events 5000000 --memory      # a memory budget of a third of the log

Both read one log of the built-in world, alternate, and run on the same cores. `benchmarks.process_tree` says how CPU
time and memory of Ray's many processes are measured. Ray's start-up is measured on a log of a few people. Both write
all training examples and evaluation queries with their histories, the user states and the served counts. Ours writes
what people did once and refers to it, so Polars is measured in that form, too, beside lists written out. Ours alone
checks the input, encodes features (as few as a recipe can have), and writes the data card and the tables of pins and
users.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.prepare_agreement import compare, our_rows, their_rows
from benchmarks.process_tree import Measured, measure
from convcg.data.world import WorldConfig, write_world
from convcg.storage import list_files, locate

POLARS = "Polars"
_PROBE_USERS, _TINY_USERS = 500, 30
_RECIPE: dict[str, Any] = {
    "split": {"validation_days": 2, "test_days": 2},
    "examples": {
        "weights": {"checkout": 1.0, "add_to_cart": 1.0, "repin": 0.3, "click": 0.1},
        "evaluation_actions": ["checkout"],
    },
    "history": {
        "length": 50,
        "actions": ["click", "repin", "add_to_cart", "checkout"],
        "exclude_target": False,
    },
    "features": {"pin": [{"name": "pin_id", "kind": "id"}], "user": []},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A written log of the built-in world: where its tables are, and how many events it has."""

    events: str
    pins: str
    users: str
    num_events: int


def log_of(events: int, workdir: Path) -> Log:
    """The built-in world with about so many events; written once, then found again in `workdir`."""
    probe = _world(_PROBE_USERS, workdir)
    return _world(round(_PROBE_USERS * events / probe.num_events), workdir)


def _world(num_users: int, workdir: Path) -> Log:
    directory = workdir / f"world-{num_users}"
    record = directory / "summary.json"
    if not record.exists():
        written = write_world(WorldConfig(num_users=num_users), str(directory))
        names = ("events", "pins", "users", "num_events")
        record.write_text(json.dumps({name: getattr(written, name) for name in names}))
    return Log(**json.loads(record.read_text()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where to work, and on how many cores."""

    workdir: Path
    cores: int

    def ours(self, log: Log, *overrides: str) -> Measured:
        """`convcg prepare` of a log, from nothing."""
        run = _emptied(self.workdir / "ours")
        recipe = self.workdir / "recipe.yaml"
        data = {"events": log.events, "pins": log.pins, "users": log.users}
        recipe.write_text(yaml.safe_dump({"data": data, **_RECIPE}))
        sets = [word for override in overrides for word in ("--set", override)]
        command = [sys.executable, "-m", "ray_jobs.prepare", "--recipe", str(recipe), "--workdir", str(run), *sets]
        return self._checked(command, {})

    def theirs(self, log: Log, *options: str) -> Measured:
        """The Polars competitor's answer."""
        out = _emptied(self.workdir / f"theirs{''.join(options)}")
        command = [sys.executable, "-m", "benchmarks.prepare_polars", "--events", locate(log.events).path]
        command += ["--pins", locate(log.pins).path, "--out", str(out), *options]
        return self._checked(command, {"POLARS_MAX_THREADS": str(self.cores)})

    def _checked(self, command: Sequence[str], environment: dict[str, str]) -> Measured:
        measured = measure(command, cores=self.cores, log=self.workdir / "output.txt", environment=environment)
        if measured.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {measured.returncode}:\n{measured.output[-4000:]}")
        print(f"  {command[2]}: {measured.wall:.1f} s, {measured.cpu:.1f} CPU s", file=sys.stderr, flush=True)
        return measured

    def agreement(self) -> str:
        """Whether the latest results of both are the same."""
        differences = compare(our_rows(self.workdir / "ours" / "prepared"), their_rows(self.workdir / "theirs"))
        if differences:
            return "Agreement: NO.\n" + "\n".join(f"* {difference}" for difference in differences)
        return "Agreement: the same examples and queries; the same histories, negatives and weights on a sample."


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    return directory


def side_by_side(bench: Bench, *, events: int, repeat: int) -> str:
    """Both in turn, `repeat` times, as a markdown table of medians with the smallest and the largest value."""
    log, tiny = log_of(events, bench.workdir), _world(_TINY_USERS, bench.workdir)
    sides: dict[str, Callable[[Log], Measured]] = {
        "convcg prepare": bench.ours,
        POLARS: bench.theirs,
        "Polars, histories by reference": lambda log: bench.theirs(log, "--references"),
    }
    starts: dict[str, list[Measured]] = {name: [] for name in sides}
    runs: dict[str, list[Measured]] = {name: [] for name in sides}
    for _ in range(repeat):
        for kept, used in ((starts, tiny), (runs, log)):
            for name, side in sides.items():
                kept[name].append(side(used))
    lines = [
        f"{log.num_events} events, {bench.cores} cores, {repeat} runs of each, load {os.getloadavg()[0]:.1f}\n",
        "| | wall s | CPU s | events/s | events/s and core | of Polars | start-up wall s | start-up CPU s "
        "| events/s and core without start-up | of Polars | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rates = {name: [log.num_events / run.cpu for run in repeated] for name, repeated in runs.items()}
    bare = {name: _without_start(log, runs[name], starts[name]) for name in sides}
    for name, repeated in runs.items():
        cells = [
            _spread([run.wall for run in repeated], 1),
            _spread([run.cpu for run in repeated], 1),
            _spread([log.num_events / run.wall for run in repeated], 0),
            _spread(rates[name], 0),
            _ratio(rates[name], rates[POLARS]),
            _spread([run.wall for run in starts[name]], 1),
            _spread([run.cpu for run in starts[name]], 1),
            _spread(bare[name], 0),
            _ratio(bare[name], bare[POLARS]),
            _spread([run.memory / 2**20 for run in repeated], 0),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", bench.agreement()])


def _without_start(log: Log, runs: Sequence[Measured], starts: Sequence[Measured]) -> list[float]:
    """Events per CPU second beyond the median start-up; nothing where start-up is most of it, so that noise decides."""
    start = statistics.median(run.cpu for run in starts)
    if any(run.cpu < 1.5 * start for run in runs):
        return []
    return [log.num_events / (run.cpu - start) for run in runs]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"{statistics.median(ours) / statistics.median(theirs):.3f}" if ours and theirs else "-"


def scaling(bench: Bench, *, millions: Sequence[float], repeat: int) -> str:
    """CPU time per million events, as a markdown table."""
    start = statistics.median(bench.ours(_world(_TINY_USERS, bench.workdir)).cpu for _ in range(repeat))
    lines = [
        f"`convcg prepare`, {bench.cores} cores, {repeat} runs of each; start-up {start:.1f} CPU s\n",
        "| events | wall s | CPU s | CPU s per million | without start-up | peak MiB | largest worker MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in millions:
        log = log_of(round(size * 1e6), bench.workdir)
        runs = [bench.ours(log) for _ in range(repeat)]
        scale = 1e6 / log.num_events
        cells = [
            _spread([run.wall for run in runs], 1),
            _spread([run.cpu for run in runs], 1),
            _spread([run.cpu * scale for run in runs], 2),
            _spread([(run.cpu - start) * scale for run in runs], 2),
            _spread([run.memory / 2**20 for run in runs], 0),
            _spread([run.resident.get("ray worker", 0) / 2**20 for run in runs], 0),
        ]
        lines.append(f"| {log.num_events} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def within_budget(bench: Bench, *, events: int) -> str:
    """A run whose tasks may use a third of the memory that the log takes; the resident sets of Ray's workers."""
    log = log_of(events, bench.workdir)
    files = list_files(locate(log.events), suffix=".parquet")
    size = sum(pq.read_table(file.path, filesystem=file.filesystem).nbytes for file in files)
    budget = round(size / 3 / 2**20)
    idle = bench.ours(_world(_TINY_USERS, bench.workdir))
    run = bench.ours(log, f"data.task_memory_mb={budget}")
    worker, idle_worker = (one.resident.get("ray worker", 0) / 2**20 for one in (run, idle))
    largest, together = max(run.resident.values()) / 2**20, run.memory / 2**20
    return (
        f"{log.num_events} events, {size / 2**20:.0f} MiB in memory as Arrow, budget of a task {budget} MiB: "
        f"{run.wall:.1f} s; largest resident set of a Ray worker {worker:.0f} MiB (on {_TINY_USERS} people's log "
        f"{idle_worker:.0f} MiB), of any process {largest:.0f} MiB; all together {together:.0f} MiB"
    )


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000, help="about so many events")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each")
    parser.add_argument("--workdir", type=Path, default=Path("runs/benchmark-prepare"))
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scaling", type=float, nargs="+", metavar="MILLIONS", help="cost of logs of these sizes")
    parser.add_argument("--memory", action="store_true", help="a run with a memory budget of a third of the log")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    bench = Bench(workdir=arguments.workdir.resolve(), cores=arguments.cores)
    if arguments.scaling:
        print(scaling(bench, millions=arguments.scaling, repeat=arguments.repeat))
    elif arguments.memory:
        print(within_budget(bench, events=arguments.events))
    else:
        print(side_by_side(bench, events=arguments.events, repeat=arguments.repeat))


if __name__ == "__main__":
    main()
