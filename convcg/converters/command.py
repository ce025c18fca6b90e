"""`convcg import`: a log that people already have, as the three tables.

python -m convcg.converters.command rees46 2019-Nov.csv.gz --out s3://bucket/rees46
"""

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

import typer

from convcg import log
from convcg.commands import invoke
from convcg.converters import ali_display_ads, dunnhumby, jd_dwell, otto, rees46, retailrocket
from convcg.converters.output import Output, written_whole
from convcg.storage import Location, locate
from convcg.types import ACTIONS


class Format(StrEnum):
    """The formats that can be imported."""

    REES46 = "rees46"
    RETAILROCKET = "retailrocket"
    OTTO = "otto"
    ALI_DISPLAY_ADS = "ali_display_ads"
    DUNNHUMBY = "dunnhumby"
    JD_DWELL = "jd_dwell"


_CONVERT: dict[Format, Callable[[Location, Output], None]] = {
    Format.REES46: rees46.convert,
    Format.RETAILROCKET: retailrocket.convert,
    Format.OTTO: otto.convert,
    Format.ALI_DISPLAY_ADS: ali_display_ads.convert,
    Format.DUNNHUMBY: dunnhumby.convert,
    Format.JD_DWELL: jd_dwell.convert,
}

_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def import_log(name: Format, path: str, out: str) -> Output:
    """Convert the log at `path` to `out`/events, `out`/pins.parquet and, where it tells of users, `out`/users.parquet.

    Raises:
        ConfigError: something is at `out` already.
        DataError: the log is not of the format that `name` says; nothing is left at `out`.
        StorageError: the log cannot be read, or the tables not written; nothing is left at `out`.
    """
    with written_whole(locate(out), title=f"import {name}") as output:
        _CONVERT[name](locate(path), output)
    return output


@_app.command()
def _command(
    name: Annotated[Format, typer.Argument(help="The format of the log.")],
    path: Annotated[str, typer.Argument(help="The log: a file or a directory, local, s3:// or gs://.")],
    out: Annotated[str, typer.Option(help="Where the tables go: an empty or new directory, local, s3:// or gs://.")],
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """Convert a log that people already have to events, pins and users."""
    log.set_up(verbose=verbose)
    output = import_log(name, path, out)
    for table, rows in output.rows.items():
        typer.echo(f"{table}: {rows:,} rows")
    typer.echo(", ".join(f"{action} {output.actions[action]:,}" for action in ACTIONS if output.actions[action]))
    files = {"events": "events", "pins": "pins.parquet", "users": "users.parquet"}
    settings = [f"--set data.{table}={(locate(out) / files[table]).uri}" for table in files if output.rows[table]]
    typer.echo("to use them: " + " ".join(settings))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return invoke(_app, argv, name="convcg import")


if __name__ == "__main__":
    sys.exit(main())
