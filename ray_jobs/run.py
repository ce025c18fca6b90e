"""A run: its config, its working directory, and the options that every stage takes."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from convcg import __version__, log
from convcg.commands import invoke
from convcg.config import RunConfig, dump_yaml, load_config
from convcg.storage import Location, exists, list_files, locate, read_bytes, write_bytes
from ray_jobs.cluster import connected
from ray_jobs.failures import unwrapped

_log = logging.getLogger(__name__)

RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="A named recipe, or the path of a YAML file.")]
SetOption = Annotated[list[str], typer.Option("--set", help="Override one setting: a.b=c. Can be repeated.")]
WorkdirOption = Annotated[str, typer.Option("--workdir", "-w", help="Where the stages meet. [default: runs/RECIPE]")]
PrintOption = Annotated[bool, typer.Option("--print-config", help="Print the resolved config and stop.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show Ray's own messages, too.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run's config and the directory (local or in a bucket) in which its stages meet."""

    config: RunConfig
    workdir: Location
    verbose: bool = False

    @property
    def prepared(self) -> Location:
        """What `prepare` writes."""
        return self.workdir / "prepared"

    @property
    def graph(self) -> Location:
        """What `graph` writes."""
        return self.workdir / "graph.arrow"

    @property
    def model(self) -> Location:
        """What `train` writes: the weights of the best checkpoint."""
        return self.workdir / "model"

    @property
    def bundle(self) -> Location:
        """What `index` writes."""
        return self.workdir / "bundle"

    @property
    def metrics(self) -> Location:
        """What `evaluate` writes."""
        return self.workdir / "metrics.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the pipeline.

    `parts` are the parts of the config that its result depends on, `after` the stages whose results it reads.
    `work` does it; `output` is what is there when it has.
    """

    name: str
    parts: tuple[str, ...]
    after: tuple["Stage", ...]
    work: Callable[[Run], None]
    output: Callable[[Run], Location]
    reads_tables: bool = False

    def fingerprint(self, run: Run) -> str:
        """A hash of everything that the stage's result depends on."""
        content: dict[str, Any] = {
            "version": __version__,
            "config": {part: run.config.model_dump(mode="json")[part] for part in self.parts},
            "after": [stage.fingerprint(run) for stage in self.after],
        }
        if self.reads_tables:
            content["tables"] = _table_stamps(run.config)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def is_done(self, run: Run) -> bool:
        """Whether the stage has finished in this workdir with this very config and input."""
        return self.record(run).get("fingerprint") == self.fingerprint(run) and exists(self.output(run))

    def record(self, run: Run) -> dict[str, Any]:
        """What the last finished execution left: fingerprint and seconds; empty without one."""
        location = self.record_location(run)
        record: dict[str, Any] = json.loads(read_bytes(location)) if exists(location) else {}
        return record

    def execute(self, run: Run) -> None:
        """Do the work and record that it is done."""
        _log.info("%s: starts", self.name)
        started = time.monotonic()
        write_bytes(run.workdir / "config.yaml", dump_yaml(run.config).encode())
        write_bytes(self.record_location(run), b"{}")  # until it is done it is not
        self.work(run)
        seconds = time.monotonic() - started
        record = {"fingerprint": self.fingerprint(run), "seconds": round(seconds, 1)}
        write_bytes(self.record_location(run), json.dumps(record).encode())
        _log.info("%s: done in %.0f s", self.name, seconds)

    def record_location(self, run: Run) -> Location:
        """Where `record` is kept."""
        return run.workdir / "stages" / f"{self.name}.json"


def _table_stamps(config: RunConfig) -> dict[str, list[tuple[str, int, int]]]:
    """Path, size and modification time of every input file: enough to notice a change without reading it."""
    stamps = {}
    for name in ("events", "pins", "users"):
        uri = getattr(config.data, name)
        if uri is not None:
            files = list_files(locate(uri))
            infos = [file.filesystem.get_file_info(file.path) for file in files]
            stamps[name] = [(info.path, info.size, info.mtime_ns or 0) for info in infos]
    return stamps


def read_run(*, recipe: str, overrides: Sequence[str], workdir: str, verbose: bool) -> Run:
    """The run that the common options describe.

    Raises:
        ConfigError, StorageError: the recipe, an override or the workdir cannot be used.
    """
    name = recipe.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    config = load_config(recipe, overrides)
    return Run(config=config, workdir=locate(workdir or f"runs/{name}"), verbose=verbose)


def stage_main(work: Callable[[Run], None], *, name: str, summary: str) -> Callable[..., int]:
    """The `main(argv)` of a stage: the common options, then `work` with Ray connected."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(help=summary)
    def command(
        recipe: RecipeOption = "demo",
        overrides: SetOption = [],  # noqa: B006 (typer copies it)
        workdir: WorkdirOption = "",
        print_config: PrintOption = False,
        verbose: VerboseOption = False,
    ) -> None:
        log.set_up(verbose=verbose)
        run = read_run(recipe=recipe, overrides=overrides, workdir=workdir, verbose=verbose)
        if print_config:
            typer.echo(dump_yaml(run.config), nl=False)
            return
        with connected(verbose=verbose), unwrapped():
            work(run)

    def main(argv: Sequence[str] | None = None) -> int:
        return invoke(app, argv, name=f"convcg {name}")

    return main


def summary_of(doc: str | None) -> str:
    """What a stage does, from the first line of its module's docstring (`convcg stage`: what it does)."""
    return (doc or "").partition("\n")[0].partition(": ")[2]
