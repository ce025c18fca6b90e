"""The plots of the data card: matplotlib's axes as inline SVG that takes its colours and its font from the page.

The only module that imports matplotlib. The same data gives the same bytes. `name` is a plot's own on its page.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from itertools import pairwise
from textwrap import shorten
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

Colour = Literal["text", "faint", "line", "impression", "click", "repin", "add_to_cart", "checkout", "plain", "mark"]

# Matplotlib knows no CSS variable: each colour is drawn as one that nothing else has, and named in the SVG's text.
_COLOURS: dict[Colour, str] = {
    "text": "#010a01",
    "faint": "#010a02",
    "line": "#010a03",
    "impression": "#010a04",
    "click": "#010a05",
    "repin": "#010a06",
    "add_to_cart": "#010a07",
    "checkout": "#010a08",
    "plain": "#010a09",
    "mark": "#010a0a",
}
_WIDTH, _HEIGHT = 360, 235  # units of the SVG: about pixels on a phone, where a plot is as wide as the screen
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same on every machine
    "font.size": 11.5,
    "text.color": _COLOURS["text"],
    "text.parse_math": False,
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["faint"],
    "axes.labelsize": 11.5,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "xtick.color": _COLOURS["line"],
    "ytick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["faint"],
    "ytick.labelcolor": _COLOURS["faint"],
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_PER_CENT = FuncFormatter(lambda share, _: f"{100 * share:.6g} %")
_BAR_CHARACTERS = 58
_FEW_PERIODS, _NAMED_PERIODS = 40, 4
_FOR_A_PAGE = (
    (r"<style.*?</style>", ""),  # would hold for the whole page
    (r'<g id="[^"]*"', "<g"),  # the same in every plot
    (r"font-family: [^;]*; ", ""),  # the page has its own
    (r' width="[^"]*pt" height="[^"]*pt"', ""),  # as wide as its place on the page
    (r"xlink:href", "href"),
    (r"\n *", "\n"),
)


def over_time(
    name: str,
    periods: Sequence[str],
    series: Mapping[Colour, Sequence[float]],
    *,
    x_name: str,
    y_name: str,
    shaded: Sequence[tuple[float, float]],
    kind: Literal["counts", "share"],
) -> str:
    """A line for each series (NaN: a gap) over periods of equal length; `shaded` are ranges of their places.

    Counts have a logarithmic axis, which begins with 0 where there are zeros; shares a linear one, in per cent.
    """

    def draw(axes: Axes) -> None:
        marker, width = ("o", 2.0) if len(periods) <= _FEW_PERIODS else ("", 1.0)
        for colour, values in series.items():
            at, drawn = range(len(periods)), _COLOURS[colour]
            axes.plot(at, list(values), color=drawn, marker=marker, markersize=3, linewidth=width)
        if kind == "counts":
            if min(map(min, series.values())) > 0:
                axes.set_yscale("log")
            else:
                axes.set_yscale("symlog", linthresh=1)
                axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: short(count)))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_formatter(_PER_CENT)
            axes.set_ylim(bottom=0)
        axes.set_xlim(-0.5, len(periods) - 0.5)
        for number, (start, end) in enumerate(shaded):
            axes.axvspan(start, end, color=_COLOURS["mark"], alpha=0.1 + 0.1 * (number % 2), linewidth=0)
        named = range(0, len(periods), -(-len(periods) // _NAMED_PERIODS))
        axes.set_xticks(named, [periods[place] for place in named])
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.grid(axis="y")

    return _svg(name, draw)


def shares(name: str, names: Sequence[str], values: Sequence[float], said: Sequence[str], *, x_name: str) -> str:
    """A horizontal bar for each share in [0, 1], with its name above and what is said of it at its end."""

    def draw(axes: Axes) -> None:
        longest = max(values) or 1.0
        room = 1 + 0.025 * max(map(len, said))  # for the words at the end of the longest bar
        axes.barh(range(len(values)), list(values), height=0.4, color=_COLOURS["plain"])
        for row, (bar, value, words) in enumerate(zip(names, values, said, strict=True)):
            axes.text(0, row - 0.27, shorten(bar, _BAR_CHARACTERS, placeholder=" …"), va="bottom")
            axes.text(value + 0.02 * longest, row, words, va="center", color=_COLOURS["faint"])
        axes.set_ylim(len(values) - 0.6, -0.9)
        axes.set_xlim(0, longest * room)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        ticks = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(0, longest)
        axes.set_xticks([tick for tick in ticks if tick <= longest * room and tick <= 1])
        axes.xaxis.set_major_formatter(_PER_CENT)
        axes.set_xlabel(x_name)

    return _svg(name, draw, height=60 + 40 * len(values))


def cumulative(
    name: str, upto: Sequence[float], share: Sequence[float], *, x_name: str, y_name: str, marks: Mapping[str, float]
) -> str:
    """The share in [0, 1] that has come up to each of the positive, ascending values, on a logarithmic axis.

    `marks` are values that get a vertical line and their name.
    """

    def draw(axes: Axes) -> None:
        axes.plot(upto, share, color=_COLOURS["plain"], marker="o", markersize=3)
        axes.set_xscale("log")
        low, high = min(upto[0], *marks.values()) * 0.8, max(upto[-1], *marks.values()) * 1.25
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1.08)
        for mark, value in marks.items():
            axes.axvline(value, color=_COLOURS["mark"], linewidth=1, linestyle=(0, (4, 3)))
            axes.text(value, 1.08, mark, color=_COLOURS["mark"], ha="center", va="bottom", fontsize=11)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(_PER_CENT)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.grid(axis="y")

    return _svg(name, draw)


def histogram(
    name: str, edges: Sequence[float], counts: Sequence[int], *, x_name: str, y_name: str, marks: Mapping[str, float]
) -> str:
    """Counts between ascending, positive edges on a logarithmic axis; marks as in `cumulative`."""

    def draw(axes: Axes) -> None:
        for (left, right), count in zip(pairwise(edges), counts, strict=True):
            axes.bar(left, count, width=right - left, align="edge", color=_COLOURS["plain"], linewidth=0)
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, max(counts) * 1.05 or 1)
        for mark, value in marks.items():
            axes.axvline(value, color=_COLOURS["mark"], linewidth=1, linestyle=(0, (4, 3)))
            axes.text(value, max(counts) * 1.05, mark, color=_COLOURS["mark"], ha="center", va="bottom", fontsize=11)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        _count_axis(axes)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)

    return _svg(name, draw)


def columns(name: str, names: Sequence[str], counts: Sequence[int], *, x_name: str, y_name: str) -> str:
    """A column for each name."""

    def draw(axes: Axes) -> None:
        axes.bar(range(len(counts)), counts, width=0.86, color=_COLOURS["plain"], linewidth=0)
        axes.set_xticks(range(len(names)), names)
        if sum(map(len, names)) > 36:
            axes.tick_params(axis="x", labelrotation=40)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
                label.set_rotation_mode("anchor")
        _count_axis(axes)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)

    return _svg(name, draw)


def short(number: float) -> str:
    """A number in the room of an axis: 0.1, 20, 5k, 3M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def _count_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: short(count)))
    axes.grid(axis="y")


def _svg(name: str, draw: Callable[[Axes], None], height: float = _HEIGHT) -> str:
    out = StringIO()
    # The salt makes the ids of clip paths and markers differ from those of the other plots on the page.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(out, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].rstrip()
    for pattern, instead in _FOR_A_PAGE:
        svg = re.sub(pattern, instead, svg)
    for colour, drawn in _COLOURS.items():
        svg = svg.replace(drawn, f"var(--{colour})")
    return svg
