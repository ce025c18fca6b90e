"""`convcg ladder`: what each change from one recipe to another is worth, added and left out, over seeds.

python -m ray_jobs.ladder --recipe ladder --seeds 3 --workdir runs/ladder

Every run has a workdir of its own, WORKDIR/SETTING/seed-N, in which finished stages are not done again: the command
can be stopped and started at any time. Writes WORKDIR/ladder.json.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from convcg import log
from convcg.commands import invoke
from convcg.compare import numbers_of, print_rows
from convcg.config import load_config
from convcg.differences import System, compared, plain_rows
from convcg.errors import ConfigError, ConvcgError, TrainingError
from convcg.ladder import Direction, Plan, Rung, plan, read_ladder
from convcg.ranks import Measured, check_aligned, measured
from convcg.storage import Location, copy_file, delete_directory, is_directory, list_files, locate, write_bytes
from ray_jobs import pipeline, publish
from ray_jobs.cluster import connected
from ray_jobs.failures import unwrapped
from ray_jobs.run import Run, SetOption, Stage, VerboseOption, summary_of

_log = logging.getLogger(__name__)
#: In the workdir: the tables, and what failed.
RESULT = "ladder.json"
_STAGES = tuple(stage for stage in pipeline.STAGES if stage is not publish.STAGE)
#: Stages whose result is taken from another run that has it, and what in the workdir it is.
_SHARED = {"prepare": "prepared", "graph": "graph.arrow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that failed, and why."""

    setting: str
    seed: int
    error: str


def run_all(start: str, planned: Plan, *, seeds: int, workdir: Location, verbose: bool = False) -> list[Failure]:
    """Bring every setting up to date with every seed; returns what failed. Ray must be connected."""
    holders: dict[tuple[str, str], Run] = {}
    failures = []
    todo = [(setting, seed) for setting in planned.settings for seed in range(seeds)]
    for number, (setting, seed) in enumerate(todo):
        settings = [*setting.overrides, f"train.seed={seed}", "evaluate.gate={}"]
        if number:  # the baselines are the same for all
            settings.append("evaluate.baselines=[]")
        run = Run(config=load_config(start, settings), workdir=place(workdir, setting.name, seed), verbose=verbose)
        _log.info("run %d of %d: %s, seed %d", number + 1, len(todo), setting.name, seed)
        try:
            with unwrapped():
                bring_up_to_date(run, holders, _STAGES)
        except Exception as error:  # whatever it is, it must not cost the other runs
            _log.error("%s, seed %d: %s", setting.name, seed, error, exc_info=not isinstance(error, ConvcgError))
            failures.append(Failure(setting=setting.name, seed=seed, error=f"{type(error).__name__}: {error}"))
    return failures


def place(workdir: Location, setting: str, seed: int) -> Location:
    """The workdir of one run."""
    return workdir / setting / f"seed-{seed}"


def bring_up_to_date(run: Run, holders: dict[tuple[str, str], Run], stages: Sequence[Stage]) -> None:
    """Do what is to be done of the stages. `holders`: (stage, fingerprint) -> the run that has its result; added to."""
    for stage in stages:
        key = (stage.name, stage.fingerprint(run))
        if stage.is_done(run):
            _log.info("%s: skipped, nothing has changed", stage.name)
        elif stage.name in _SHARED and key in holders:
            _take_over(stage, holders[key], run)
        else:
            stage.execute(run)
        holders.setdefault(key, run)


def _take_over(stage: Stage, source: Run, target: Run) -> None:
    """Make another run's result of a stage this run's, too."""
    _log.info("%s: taken from %s", stage.name, source.workdir.uri)
    written = source.workdir / _SHARED[stage.name]
    if is_directory(written):
        delete_directory(target.workdir / written.name)
    record = stage.record_location(source)
    for file in (*list_files(written), record):  # the record comes last: until then it is not done
        inside = file.path[len(source.workdir.path) + 1 :].split("/")
        to = target.workdir
        for name in inside:
            to = to / name
        _link(file, to)


def _link(source: Location, target: Location) -> None:
    """A second name for a local file, which takes no room (files are replaced, never written into); else a copy."""
    if not (source.is_local and target.is_local):
        return copy_file(source, target)
    path = Path(target.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(source.path, path)
    except OSError:  # another disk, or one that has no links
        copy_file(source, target)
    return None


def results(planned: Plan, *, seeds: int, workdir: Location, failures: Sequence[Failure]) -> dict[str, Measured]:
    """The settings that were measured, each with the seeds that did not fail.

    Raises:
        DataError: they were asked different queries.
    """
    failed = {(each.setting, each.seed) for each in failures}
    found = {}
    for setting in planned.settings:
        good = [place(workdir, setting.name, seed) for seed in range(seeds) if (setting.name, seed) not in failed]
        if good:
            found[setting.name] = measured(setting.name, good)
    if found:
        check_aligned([*found.values()])
    return found


def tell(
    start: str, planned: Plan, *, seeds: int, ks: Sequence[int], workdir: Location, failures: Sequence[Failure] = ()
) -> None:
    """Print the tables of what was measured, and leave them in WORKDIR/ladder.json.

    Raises:
        DataError: the runs were asked different queries.
    """
    found = results(planned, seeds=seeds, workdir=workdir, failures=failures)
    tables: list[dict[str, Any]] = []
    for direction, rungs in planned.tables.items():
        if rows := pairs(rungs, found):
            compared_rows = compared(rows, ks=ks)
            queries = rows[0][0].run.num_queries
            print_rows(compared_rows, title=f"{direction}, {seeds} seeds, {queries:,} queries")
            tables.append({"direction": direction.value, "rows": plain_rows(compared_rows)})
    stored = {
        "start": start,
        "seeds": seeds,
        "ks": list(ks),
        "settings": {setting.name: list(setting.overrides) for setting in planned.settings},
        "failures": [asdict(failure) for failure in failures],
        "tables": tables,
    }
    write_bytes(workdir / RESULT, json.dumps(stored, indent=1).encode())


def pairs(rungs: Sequence[Rung], found: dict[str, Measured]) -> list[tuple[System, System | None]]:
    """The rows of a table whose runs, and those that they are compared with, were measured."""

    def system(rung: Rung) -> System:
        return System(name=rung.label, run=found[rung.setting])

    return [
        (system(rung), system(rung.against) if rung.against else None)
        for rung in rungs
        if rung.setting in found and (rung.against is None or rung.against.setting in found)
    ]


def directions_of(text: str) -> list[Direction]:
    """Directions that `--directions` names, with commas between.

    Raises:
        ConfigError: one is none.
    """
    known = [direction for direction in Direction if direction is not Direction.VARIANTS]
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--directions {','.join(unknown)} is not known. Directions: {', '.join(known)}.")
    return [Direction(name) for name in names]


_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command(help=summary_of(__doc__))
def _command(
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A named ladder, or the path of a YAML file.")
    ] = "ladder",
    overrides: SetOption = [],  # noqa: B006 (typer copies it)
    workdir: Annotated[str, typer.Option("--workdir", "-w", help="Where the runs go. [default: runs/LADDER]")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every setting, with train.seed from 0.")] = 3,
    directions: Annotated[str, typer.Option(help="How steps are measured.")] = "cumulative,add,out",
    ks: Annotated[str, typer.Option(help="Where recall is compared.")] = "20,100,1000",
    verbose: VerboseOption = False,
) -> None:
    log.set_up(verbose=verbose)
    chosen, ways = numbers_of(ks, option="--ks"), directions_of(directions)
    ladder = read_ladder(recipe)
    planned = plan(ladder, overrides=overrides, directions=ways)
    where = locate(workdir or f"runs/{Path(recipe).stem}")
    _log.info("%d settings, %d seeds each, in %s", len(planned.settings), seeds, where.uri)
    with connected(verbose=verbose):
        failures = run_all(ladder.start, planned, seeds=seeds, workdir=where, verbose=verbose)
    tell(ladder.start, planned, seeds=seeds, ks=chosen, workdir=where, failures=failures)
    if failures:
        lines = [f"{each.setting}, seed {each.seed}: {each.error}" for each in failures]
        raise TrainingError("\n  ".join([f"{len(failures)} runs failed; the same command tries them again:", *lines]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return invoke(_app, argv, name="convcg ladder")


if __name__ == "__main__":
    sys.exit(main())
