"""`convcg publish`: make a bundle the current one of a channel; --rollback goes back.

python -m ray_jobs.publish --recipe demo --workdir runs/demo --set publish.channel=s3://bucket/candidates
"""

import json
import logging
import sys
from collections.abc import Sequence

import typer

from convcg import channel as channels
from convcg import log
from convcg.bundle import read_manifest
from convcg.commands import invoke
from convcg.errors import GateError
from convcg.evaluate import check_gate
from convcg.storage import Location, exists, locate, read_bytes
from ray_jobs import evaluate
from ray_jobs.run import RecipeOption, Run, SetOption, Stage, VerboseOption, WorkdirOption, read_run

_log = logging.getLogger(__name__)


def channel_of(run: Run) -> Location:
    """Where the run publishes."""
    configured = run.config.publish.channel
    return run.workdir / "channel" if configured is None else locate(configured)


def work(run: Run) -> None:
    """Publish `run.bundle` if its own metrics pass the gate.

    Raises:
        GateError: it was not evaluated, or is below the gate.
    """
    version = read_manifest(run.bundle).model_version
    metrics = json.loads(read_bytes(run.metrics)) if exists(run.metrics) else {}
    if metrics.get("model_version") != version:
        raise GateError(f"bundle {version} was not evaluated; {run.metrics.uri} is of {metrics.get('model_version')}.")
    check_gate(metrics, run.config.evaluate.gate)
    channels.publish(run.bundle, channel_of(run), keep=run.config.publish.keep)
    _log.info("published %s in %s", version, channel_of(run).uri)


STAGE = Stage(
    name="publish", parts=("publish",), after=(evaluate.STAGE,), work=work, output=lambda run: channel_of(run)
)

_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command(help="make a bundle the current one of a channel; --rollback goes back")
def _command(
    recipe: RecipeOption = "demo",
    overrides: SetOption = [],  # noqa: B006 (typer copies it)
    workdir: WorkdirOption = "",
    rollback: bool = typer.Option(False, "--rollback", help="Make the version before the current one current."),
    verbose: VerboseOption = False,
) -> None:
    log.set_up(verbose=verbose)
    run = read_run(recipe=recipe, overrides=overrides, workdir=workdir, verbose=verbose)
    if rollback:
        version = channels.rollback(channel_of(run))
        _log.info("%s: back at %s", channel_of(run).uri, version)
    else:
        STAGE.execute(run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return invoke(_app, argv, name="convcg publish")


if __name__ == "__main__":
    sys.exit(main())
