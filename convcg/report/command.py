"""`convcg report`: one page that says what a run finds, for people who never saw the code.

python -m convcg.report.command runs/demo --out report.html
"""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from convcg import log
from convcg.commands import invoke
from convcg.errors import DataError
from convcg.ranks import read_measured
from convcg.report.facts import read_facts
from convcg.report.page import report_page
from convcg.storage import locate, read_bytes, write_bytes

_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command(help="one page that says what a run finds, for people who never saw the code")
def _command(
    run: Annotated[str, typer.Argument(help="A workdir, or a directory of seed-* workdirs: PATH or NAME=PATH.")],
    out: Annotated[str, typer.Option(help="Where the page goes: local, s3:// or gs://.")] = "report.html",
    compare: Annotated[str, typer.Option(help="What `convcg compare --out` stored.")] = "",
    ladder: Annotated[str, typer.Option(help="The ladder.json that `convcg ladder` left.")] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    log.set_up(verbose=verbose)
    comparison, steps = (_stored(path) if path else None for path in (compare, ladder))
    page = report_page(read_facts(read_measured(run)), comparison=comparison, ladder=steps)
    write_bytes(locate(out), page.encode())
    typer.echo(f"the report is {locate(out).uri}")


def _stored(path: str) -> Any:
    location = locate(path)
    try:
        return json.loads(read_bytes(location))
    except ValueError as error:
        raise DataError(f"{location.uri} is no JSON: {error}. Give a file of convcg compare or ladder.") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return invoke(_app, argv, name="convcg report")


if __name__ == "__main__":
    sys.exit(main())
