"""`convcg compare`: which of several runs finds more, and whether that is shown: intervals, seeds, Holm's correction.

python -m convcg.compare 2023=runs/2023 2025=runs/2025 --ks 20,100,1000 --slice surface --out compare.json

A run is a workdir with `ranks.parquet`, or a directory with one `seed-*` workdir a seed.
"""

import json
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from convcg import log
from convcg.commands import invoke
from convcg.differences import Row, compared, pairs_of, plain_rows
from convcg.errors import ConfigError
from convcg.ranks import read_aligned
from convcg.storage import locate, write_bytes

#: The narrowest table, in characters: one that wraps cannot be read.
_WIDTH = 126


def print_rows(rows: Sequence[Row], *, title: str) -> None:
    """A table for each k."""
    against = list(dict.fromkeys(row.against for row in rows if row.against))
    with_values = any(row.value is not None for row in rows)
    console = Console(width=max(Console().width, _WIDTH), highlight=False)
    for name in rows[0].recall:
        to = f"; differences to {against[0]}" if len(against) == 1 else ""
        table = Table(title=f"{name}, {title}{to}", box=SIMPLE_HEAD)
        for column in (*(["queries"] if with_values else []), "", *(["against"] if len(against) > 1 else [])):
            table.add_column(column, no_wrap=True)
        for column in ("recall", "difference [95 %]", "seeds", "p (Holm)", "verdict"):
            table.add_column(column, justify="right", no_wrap=True)
        for row, following in zip_longest(rows, rows[1:]):
            value = [f"{row.value} ({row.num_queries:,})"] if with_values else []
            than = [row.against or ""] if len(against) > 1 else []
            ends = following is not None and following.value != row.value
            table.add_row(*value, row.name, *than, *cells(row, name), end_section=ends)
        console.print(table)


def cells(row: Row, name: str) -> tuple[str, str, str, str, str]:
    """What a table says of one row's `recall@k`: recall, difference, seeds, p value, verdict."""
    recall, shown = row.recall[name], row.difference.get(name)
    spread = f" ({recall.low:.4f}..{recall.high:.4f})" if row.num_seeds > 1 else ""
    if shown is None:
        return f"{recall.mean:.4f}{spread}", "", str(row.num_seeds), "", ""
    return (
        f"{recall.mean:.4f}{spread}",
        f"{shown.mean:+.4f} [{shown.low:+.4f}, {shown.high:+.4f}]",
        shown.agree,
        f"{shown.p_holm:.4f}",
        shown.verdict,
    )


def numbers_of(text: str, *, option: str) -> list[int]:
    """Positive integers that an option names, with commas between.

    Raises:
        ConfigError: something else stands there.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"{option} {text!r} must be positive integers with commas between, as {option} 20,100,1000.")
    return list(dict.fromkeys(numbers))


_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command(help="which of several runs finds more, and whether that is shown")
def _command(
    runs: Annotated[list[str], typer.Argument(help="Workdirs, or directories of seed-* workdirs: PATH or NAME=PATH.")],
    ks: Annotated[str, typer.Option(help="Where recall is compared.")] = "20,100,1000",
    system: Annotated[str, typer.Option(help="What of the runs is compared.")] = "model",
    slices: Annotated[list[str], typer.Option("--slice", help="Also within each value of this. Repeatable.")] = [],  # noqa: B006
    out: Annotated[str, typer.Option(help="Store the tables as JSON: a file, local, s3:// or gs://.")] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    log.set_up(verbose=verbose)
    chosen = numbers_of(ks, option="--ks")
    measured = read_aligned(runs)
    pairs = pairs_of(measured, system)
    first = measured[0]
    title = f"{first.num_queries:,} queries of {len(set(first.users)):,} people"
    tables: list[dict[str, Any]] = []
    for name in (None, *slices):
        rows = compared(pairs, ks=chosen, slice_name=name)
        print_rows(rows, title=title if name is None else f"{title}, by {name}")
        tables.append({"slice": name, "rows": plain_rows(rows)})
    if min(len(run.places) for run in measured) == 1:
        typer.echo("A run with one seed says nothing of how much training varies from seed to seed.")
    if out:
        stored = {
            "system": system,
            "ks": chosen,
            "runs": [
                {"name": run.name, "places": [place.uri for place in run.places], "num_queries": run.num_queries}
                for run in measured
            ],
            "tables": tables,
        }
        write_bytes(locate(out), json.dumps(stored, indent=1).encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return invoke(_app, argv, name="convcg compare")


if __name__ == "__main__":
    sys.exit(main())
