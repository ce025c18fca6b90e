"""Plots as inline SVG that takes its colours and its font from the page: what all plots of all pages share.

The same data gives the same bytes. A plot's `name` is its own on its page.
"""

import re
from collections.abc import Callable
from io import StringIO
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

Colour = Literal["text", "faint", "line", "impression", "click", "repin", "add_to_cart", "checkout", "plain", "mark"]

# Matplotlib knows no CSS variable: each colour is drawn as one that nothing else has, and named in the SVG's text.
COLOURS: dict[Colour, str] = {
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
_WIDTH, HEIGHT = 360, 235  # units of the SVG: about pixels on a phone, where a plot is as wide as the screen
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same on every machine
    "font.size": 11.5,
    "text.color": COLOURS["text"],
    "text.parse_math": False,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["faint"],
    "axes.labelsize": 11.5,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["faint"],
    "ytick.labelcolor": COLOURS["faint"],
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
PER_CENT = FuncFormatter(lambda share, _: f"{100 * share:.6g} %")
_FOR_A_PAGE = (
    (r"<style.*?</style>", ""),  # would hold for the whole page
    (r'<g id="[^"]*"', "<g"),  # the same in every plot
    (r"font-family: [^;]*; ", ""),  # the page has its own
    (r' width="[^"]*pt" height="[^"]*pt"', ""),  # as wide as its place on the page
    (r"xlink:href", "href"),
    (r"\n *", "\n"),
)


def short(number: float) -> str:
    """A number in the room of an axis: 0.1, 20, 5k, 3M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def count_axis(axes: Axes) -> None:
    """A vertical axis of counts, from few round ones."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: short(count)))
    axes.grid(axis="y")


def svg(name: str, draw: Callable[[Axes], None], height: float = HEIGHT) -> str:
    """What `draw` draws, as the text of an SVG that is as wide as its place on the page, which counts as 360 units."""
    out = StringIO()
    # The salt makes the ids of clip paths and markers differ from those of the other plots on the page.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(out, format="svg", transparent=True, metadata=_NO_METADATA)
    text = out.getvalue()
    text = text[text.index("<svg") :].rstrip()
    for pattern, instead in _FOR_A_PAGE:
        text = re.sub(pattern, instead, text)
    for colour, drawn in COLOURS.items():
        text = text.replace(drawn, f"var(--{colour})")
    return text
