"""The plots of the report. `name` is a plot's own on its page."""

from collections.abc import Mapping, Sequence
from textwrap import shorten

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from convcg.page.svg import COLOURS, PER_CENT, Colour, short, svg

#: Mean, low and high end.
Interval = tuple[float, float, float]
_POINTS = FuncFormatter(lambda share, _: f"{100 * share:+.6g}")
_CHARACTERS = 52
#: Heights within a row, in units of the SVG: its words, a dot, and the space below.
_WORDS, _DOT, _BELOW = 19, 13, 8


def intervals(
    name: str, rows: Sequence[tuple[str, Mapping[Colour, Interval]]], *, x_name: str, differences: bool = False
) -> str:
    """A row for each name, above its dots with their intervals; shares in per cent, or differences in points."""

    most = max(len(dots) for _, dots in rows)
    height = _WORDS + _DOT * most + _BELOW  # of a row, in units of the SVG

    def draw(axes: Axes) -> None:
        for at, (words, dots) in enumerate(rows):
            named = shorten(words, _CHARACTERS, placeholder=" …")
            axes.text(0, at + _WORDS / height, named, va="bottom", transform=axes.get_yaxis_transform())
            for number, (colour, (mean, low, high)) in enumerate(dots.items()):
                y, drawn = at + (_WORDS + _DOT * (number + 0.5)) / height, COLOURS[colour]
                axes.plot([low, high], [y, y], color=drawn, linewidth=2, alpha=0.6)
                axes.plot([mean], [y], color=drawn, marker="o", markersize=5.5, linewidth=0)
        axes.set_ylim(len(rows), 0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(_POINTS if differences else PER_CENT)
        if differences:
            axes.axvline(0, color=COLOURS["mark"], linewidth=1, linestyle=(0, (4, 3)))
            widest = max(abs(end) for _, dots in rows for dot in dots.values() for end in dot)
            axes.set_xlim(-1.1 * (widest or 1), 1.1 * (widest or 1))
        else:
            axes.set_xlim(left=0)
        axes.set_xlabel(x_name)
        axes.grid(axis="x")

    return svg(name, draw, height=46 + height * len(rows))


def curves(
    name: str, lines: Sequence[Sequence[tuple[float, float]]], *, x_name: str, y_name: str, shares: bool = False
) -> str:
    """A line of (x, y) for each seed."""

    def draw(axes: Axes) -> None:
        for line in lines:
            few = len(line) <= 40
            axes.plot(
                [x for x, _ in line], [y for _, y in line], color=COLOURS["plain"], marker="o" if few else "",
                markersize=3, linewidth=2 if few else 1.2, alpha=1 if len(lines) == 1 else 0.6,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: short(step)))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        if shares:
            axes.yaxis.set_major_formatter(PER_CENT)
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.grid(axis="y")

    return svg(name, draw)
