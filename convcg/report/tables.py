"""The sections of the report that come from `convcg compare` and `convcg ladder`."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from convcg.differences import Row, rows_of
from convcg.errors import DataError
from convcg.page.html import Row as Cells
from convcg.page.html import box, no_plot, paragraph, plot, section, table
from convcg.page.svg import Colour
from convcg.report import draw
from convcg.report.words import plain

_CLAIM = (
    "A change is called better or worse only where its interval leaves out 0, where it stays unlikely to be chance "
    "after Holm's correction for all rows of the table (p below .05), and where every seed agrees. Anything else is "
    "not shown: it may be small, or nothing."
)
_DIRECTIONS = {
    "cumulative": ("One change more each", "Every row is compared with the one before it."),
    "add": ("Each change alone", "Every row is the start with one change, compared with the start."),
    "out": ("Each change left out", "Every row is the end without one change, compared with the end: less is bad."),
    "variants": ("Variants", "Every row is compared with the start."),
}
_COLOURS: dict[str, Colour] = {"better": "checkout", "worse": "mark", "not shown": "faint"}


def comparison(stored: Mapping[str, Any], *, source: str) -> str:
    """The section about runs that were compared.

    Raises:
        DataError: `stored` is not what `convcg compare` writes.
    """
    content = []
    for each in _tables(stored, source):
        sliced = each.get("slice")
        title = "On all queries" if sliced is None else f"By {sliced}"
        content.append(_table(f"compare-{sliced}", title, "", rows_of(each.get("rows"), source=source), stored["ks"]))
    return section("Compared with other runs", _CLAIM, content)


def ladder(stored: Mapping[str, Any], *, source: str) -> str:
    """The section about changes, one at a time.

    Raises:
        DataError: `stored` is not what `convcg ladder` writes.
    """
    content = []
    for each in _tables(stored, source):
        title, said = _DIRECTIONS.get(each.get("direction", ""), ("Changes", ""))
        name = f"ladder-{each.get('direction')}"
        content.append(_table(name, title, said, rows_of(each.get("rows"), source=source), stored["ks"]))
    failed = [f"{each['setting']}, seed {each['seed']}: {each['error']}" for each in stored.get("failures", [])]
    if failed:
        content.append(box(paragraph("Runs that failed, and are not in these tables:"), *map(paragraph, failed)))
    return section("What each change is worth", _CLAIM, content)


def _tables(stored: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    tables = stored.get("tables") if isinstance(stored, dict) else None
    if not isinstance(tables, list) or not isinstance(stored.get("ks"), list):
        raise DataError(f"{source} holds no tables of convcg compare or ladder. Give the file that one of them wrote.")
    return tables


def _table(name: str, title: str, said: str, rows: Sequence[Row], ks: Sequence[int]) -> str:
    """A plot of the differences at the main k, the table behind it, and one with every k folded away."""
    k = 100 if 100 in ks else ks[len(ks) // 2]
    main = f"recall@{k}"
    dots = [
        (_label(row), {_COLOURS[shown.verdict]: (shown.mean, shown.low, shown.high)})
        for row in rows
        if (shown := row.difference.get(main))
    ]
    if not dots:
        return no_plot(title, "There is nothing to compare with.")
    svg = draw.intervals(name, dots, x_name=f"difference in {main}, percentage points", differences=True)
    reading = f"{said} Green: better; red: worse; grey: not shown. Lines are 95 % intervals.".strip()
    all_ks = table(["", *_HEADER], [[which, *_cells(row, which)] for row in rows for which in row.recall])
    drawn = plot(f"{title}: {_said(rows, main)}", svg, reading, all_ks)
    beside = box(f"<h3>{escape(f'{title}, {main}')}</h3>", table(_HEADER, [_cells(row, main) for row in rows]))
    return f'<div class="beside">{drawn}{beside}</div>'


_HEADER = ("", "verdict", "recall, %", "difference", "95 %", "p (Holm)", "seeds", "over seeds")


def _cells(row: Row, which: str) -> Cells:
    recall, shown = row.recall[which], row.difference.get(which)
    spread = f"{100 * recall.low:.2f} to {100 * recall.high:.2f}" if row.num_seeds > 1 else "one seed"
    mean = f"{100 * recall.mean:.2f}"
    if shown is None:
        return [_label(row), "", mean, "", "", "", "", spread]
    interval = f"{100 * shown.low:+.2f} to {100 * shown.high:+.2f}"
    difference, p_holm = f"{100 * shown.mean:+.2f}", f"{shown.p_holm:.4f}"
    return [_label(row), shown.verdict, mean, difference, interval, p_holm, shown.agree, spread]


def _label(row: Row) -> str:
    return plain(f"{row.value}: {row.name}" if row.value is not None else row.name)


def _said(rows: Sequence[Row], key: str) -> str:
    verdicts = [row.difference[key].verdict for row in rows if key in row.difference]
    counts = [(verdicts.count(verdict), verdict) for verdict in _COLOURS]
    return ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
