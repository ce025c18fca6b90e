"""The plots of the data card about shares of a whole: rules, surfaces, attribution, advertisers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from convcg.data.card import draw
from convcg.page.html import Row, no_plot, number, per_cent, plot, table

_ENDLESS = 1e8


def endless(edge: float | None) -> bool:
    """Whether the last edge of a histogram means that there is no end: none, or one beyond all that can be meant."""
    return edge is None or edge >= _ENDLESS


def advertiser_sizes(sizes: Mapping[str, Any] | None) -> str:
    """How many pins advertisers have."""
    title = "Pins per advertiser"
    if not sizes or not sum(sizes["counts"]):
        return no_plot(title, "No pin names its advertiser.")
    counts = sizes["counts"]
    names = [_whole(left, right) for left, right in pairwise(sizes["edges"])]
    most = max(range(len(counts)), key=lambda at: counts[at])
    svg = draw.columns("advertisers", names, counts, x_name="pins of an advertiser", y_name="advertisers")
    return plot(
        f"{per_cent(counts[most] / sum(counts))} of advertisers have {names[most]} "
        f"{'pin' if names[most] == '1' else 'pins'}",
        svg,
        "Each column counts the advertisers with so many pins. Where few advertisers have most of the pins, a cap on "
        "candidates per advertiser matters.",
        table(["pins", "advertisers"], [*zip(names, counts, strict=True)]),
    )


def dropped(rules: Sequence[Mapping[str, Any]]) -> str:
    """What share each rule drops."""
    title = "What each rule drops"
    if not rules:
        return no_plot(title, "No rule was applied.")
    share = [each["dropped"] / each["of"] if each["of"] else 0.0 for each in rules]
    most = max(range(len(rules)), key=lambda at: share[at])
    rows = [
        [each["rule"], each["what"], each["dropped"], each["of"], per_cent(part)]
        for each, part in zip(rules, share, strict=True)
    ]
    numbers = table(["rule", "what", "dropped", "of", "share"], rows)
    svg = draw.shares(
        "dropped",
        [each["rule"] for each in rules],
        share,
        [f"{per_cent(part)} of {each['what']}" for each, part in zip(rules, share, strict=True)],
        x_name="share dropped",
    )
    if not share[most]:
        said = "No rule drops anything"
    else:
        said = f"The rule that drops most takes {per_cent(share[most])}: {rules[most]['rule']}"
    reading = "Each bar is the share that one rule takes away from what came to it."
    return plot(said, svg, reading, numbers)


_LEVELS = {
    "pin_click": "a click on the same pin",
    "pin_impression": "an impression of the same pin",
    "advertiser_click": "a click on another pin of the advertiser",
    "advertiser_impression": "an impression of another pin of the advertiser",
    "none": "nothing that is known",
}


def attribution(levels: Mapping[str, int]) -> str:
    """What led to conversions."""
    return _parts_of_a_whole(
        "attribution",
        {_LEVELS.get(level, level): count for level, count in levels.items()},
        title="What led to conversions",
        nothing="There are no conversions to attribute.",
        said="of conversions came after",
        what="conversions",
        reading="Each conversion counts once: under the first of these, from the top, that its past holds.",
    )


def surfaces(found: Mapping[str, int]) -> str:
    """Where events happen."""
    return _parts_of_a_whole(
        "surfaces",
        {surface.replace("_", " "): count for surface, count in found.items()},
        title="Where events happen",
        nothing="There are no events.",
        said="of events happen on one surface:",
        what="events",
        reading="A surface is a place where pins are shown. Where it is unknown, an event counts as the home feed's.",
    )


def _parts_of_a_whole(
    name: str, counts: Mapping[str, int], *, title: str, nothing: str, said: str, what: str, reading: str
) -> str:
    total = sum(counts.values())
    if not total:
        return no_plot(title, nothing)
    share = [count / total for count in counts.values()]
    most = max(counts, key=lambda key: counts[key])
    texts = [f"{number(count)} ({per_cent(part)})" for count, part in zip(counts.values(), share, strict=True)]
    svg = draw.shares(name, [*counts], share, texts, x_name=f"share of {what}")
    rows: list[Row] = [[key, count, per_cent(part)] for (key, count), part in zip(counts.items(), share, strict=True)]
    return plot(f"{per_cent(counts[most] / total)} {said} {most}", svg, reading, table(["", what, "share"], rows))


def _whole(left: int, right: int | None) -> str:
    """The whole numbers from `left` to just below `right`."""
    if right is None or endless(right):
        return f"{left}+"
    return f"{left}" if right == left + 1 else f"{left}–{right - 1}"
