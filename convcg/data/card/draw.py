"""The plots of the data card. `name` is a plot's own on its page."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import shorten
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from convcg.page.svg import COLOURS, PER_CENT, Colour, count_axis, short, svg

_BAR_CHARACTERS = 58
_FEW_PERIODS, _NAMED_PERIODS = 40, 4


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
            at, drawn = range(len(periods)), COLOURS[colour]
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
            axes.yaxis.set_major_formatter(PER_CENT)
            axes.set_ylim(bottom=0)
        axes.set_xlim(-0.5, len(periods) - 0.5)
        for number, (start, end) in enumerate(shaded):
            axes.axvspan(start, end, color=COLOURS["mark"], alpha=0.1 + 0.1 * (number % 2), linewidth=0)
        named = range(0, len(periods), -(-len(periods) // _NAMED_PERIODS))
        axes.set_xticks(named, [periods[place] for place in named])
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.grid(axis="y")

    return svg(name, draw)


def shares(name: str, names: Sequence[str], values: Sequence[float], said: Sequence[str], *, x_name: str) -> str:
    """A horizontal bar for each share in [0, 1], with its name above and what is said of it at its end."""

    def draw(axes: Axes) -> None:
        longest = max(values) or 1.0
        room = 1 + 0.025 * max(map(len, said))  # for the words at the end of the longest bar
        axes.barh(range(len(values)), list(values), height=0.4, color=COLOURS["plain"])
        for row, (bar, value, words) in enumerate(zip(names, values, said, strict=True)):
            axes.text(0, row - 0.27, shorten(bar, _BAR_CHARACTERS, placeholder=" …"), va="bottom")
            axes.text(value + 0.02 * longest, row, words, va="center", color=COLOURS["faint"])
        axes.set_ylim(len(values) - 0.6, -0.9)
        axes.set_xlim(0, longest * room)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        ticks = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(0, longest)
        axes.set_xticks([tick for tick in ticks if tick <= longest * room and tick <= 1])
        axes.xaxis.set_major_formatter(PER_CENT)
        axes.set_xlabel(x_name)

    return svg(name, draw, height=60 + 40 * len(values))


def cumulative(
    name: str, upto: Sequence[float], share: Sequence[float], *, x_name: str, y_name: str, marks: Mapping[str, float]
) -> str:
    """The share in [0, 1] that has come up to each of the positive, ascending values, on a logarithmic axis.

    `marks` are values that get a vertical line and their name.
    """

    def draw(axes: Axes) -> None:
        axes.plot(upto, share, color=COLOURS["plain"], marker="o", markersize=3)
        axes.set_xscale("log")
        low, high = min(upto[0], *marks.values()) * 0.8, max(upto[-1], *marks.values()) * 1.25
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1.08)
        for mark, value in marks.items():
            axes.axvline(value, color=COLOURS["mark"], linewidth=1, linestyle=(0, (4, 3)))
            axes.text(value, 1.08, mark, color=COLOURS["mark"], ha="center", va="bottom", fontsize=11)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(PER_CENT)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.grid(axis="y")

    return svg(name, draw)


def histogram(
    name: str, edges: Sequence[float], counts: Sequence[int], *, x_name: str, y_name: str, marks: Mapping[str, float]
) -> str:
    """Counts between ascending, positive edges on a logarithmic axis; marks as in `cumulative`."""

    def draw(axes: Axes) -> None:
        for (left, right), count in zip(pairwise(edges), counts, strict=True):
            axes.bar(left, count, width=right - left, align="edge", color=COLOURS["plain"], linewidth=0)
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, max(counts) * 1.05 or 1)
        for mark, value in marks.items():
            axes.axvline(value, color=COLOURS["mark"], linewidth=1, linestyle=(0, (4, 3)))
            axes.text(value, max(counts) * 1.05, mark, color=COLOURS["mark"], ha="center", va="bottom", fontsize=11)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        count_axis(axes)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)

    return svg(name, draw)


def columns(name: str, names: Sequence[str], counts: Sequence[int], *, x_name: str, y_name: str) -> str:
    """A column for each name."""

    def draw(axes: Axes) -> None:
        axes.bar(range(len(counts)), counts, width=0.86, color=COLOURS["plain"], linewidth=0)
        axes.set_xticks(range(len(names)), names)
        if sum(map(len, names)) > 36:
            axes.tick_params(axis="x", labelrotation=40)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
                label.set_rotation_mode("anchor")
        count_axis(axes)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)

    return svg(name, draw)
