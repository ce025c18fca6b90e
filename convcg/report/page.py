"""The report: one page that says what a run finds, for people who never saw the code."""

from collections.abc import Mapping
from html import escape
from typing import Any

from convcg.page.html import Row, box, legend, no_plot, number, page, paragraph, per_cent, plot, section, table, tiles
from convcg.page.svg import Colour
from convcg.report import draw, tables
from convcg.report.facts import MODEL, ORACLE, Facts, Share
from convcg.report.people import people
from convcg.report.words import SLICES, SYSTEMS, WORDS, plain

_CURVES = {
    "loss": ("Training loss", "How surprised the model is by what people did; lower is better.", False),
    "validation_recall_at_100": (
        "Recall on validation queries",
        "Asked after each epoch, about days that the model has not seen. The best epoch becomes the model, or the last "
        "one, as the recipe says.",
        True,
    ),
    "temperature": ("Temperature", "How sharply the model tells pins apart; it is learned. Lower is sharper.", False),
}


def report_page(
    facts: Facts, *, comparison: Mapping[str, Any] | None = None, ladder: Mapping[str, Any] | None = None
) -> str:
    """One self-contained HTML page: no scripts, fonts or images from elsewhere; the same facts give the same bytes.

    `comparison` and `ladder` are what `convcg compare` and `convcg ladder` stored.

    Raises:
        DataError: one of these is something else.
    """
    return page(
        f"Report: {facts.name}",
        [
            f"<header><h1>{escape(facts.name)}: what the model finds</h1>",
            paragraph(_in_one_sentence(facts)),
            "</header>",
            _first_figures(facts),
            section("What was asked", "How this was measured.", [box(*map(paragraph, _asked(facts)))]),
            section(
                "How much is found", "Of all queries, the share whose bought pin is among the first.", _found(facts)
            ),
            section(
                "For whom, and what",
                f"The same queries, told apart. Found among the first {facts.main_k}; lines are 95 % intervals.",
                [_legend(facts), _plots(*(_slice(facts, name) for name in facts.slices))],
            ),
            *([tables.comparison(comparison, source="the comparison")] if comparison is not None else []),
            *([tables.ladder(ladder, source="the ladder")] if ladder is not None else []),
            section(
                "How it was trained",
                "A line for each seed. A step is one batch of examples.",
                [_plots(*(_curve(facts, name) for name in _CURVES))],
            ),
            section(
                "How varied the candidates are",
                "Finding much with few pins is not hard; a catalogue of which most is never shown is of no use.",
                [box(_coverage(facts))],
            ),
            section(
                "A few people",
                "Real answers of the model. What was bought is marked.",
                people(facts.samples) or [box(paragraph("The run has left no samples.", "faint"))],
            ),
            section("Words", "As they are used on this page.", [box(table(["word", "what it means"], WORDS))]),
            section("Settings", "The recipe of the first seed's run.", [box(_settings(facts))]),
        ],
    )


def _in_one_sentence(facts: Facts) -> str:
    best, k = facts.best_baseline, facts.main_k
    model = facts.recall[MODEL][k]
    beside = ""
    if best:
        beside = f", where the best simple method, {plain(best)}, finds it in {per_cent(facts.recall[best][k].mean)}"
    return (
        f"A person is about to buy something. Asked for {k} candidates a moment before, the model has the very pin "
        f"among them in {per_cent(model.mean)} of {number(facts.num_queries)} cases{beside}."
    )


def _first_figures(facts: Facts) -> str:
    k, best = facts.main_k, facts.best_baseline
    named = [(f"recall@{k} of the model", per_cent(facts.recall[MODEL][k].mean))]
    if best:
        named.append((f"of {plain(best)}, the best baseline", per_cent(facts.recall[best][k].mean)))
    if ORACLE in facts.recall and facts.recall[ORACLE][k].mean:
        share = facts.recall[MODEL][k].mean / facts.recall[ORACLE][k].mean
        named.append(("of what could be known (the oracle)", per_cent(share)))
    named += [("test queries", number(facts.num_queries)), ("people", number(facts.num_users))]
    if "num_pins" in facts.metrics:
        named.append(("pins to choose from", number(facts.metrics["num_pins"])))
    return tiles([*named, ("seeds", number(facts.num_seeds))])


def _asked(facts: Facts) -> list[str]:
    pins = f"all {number(facts.metrics['num_pins'])} pins" if "num_pins" in facts.metrics else "all pins"
    seeds = (
        f"The model was trained {facts.num_seeds} times from different random numbers (seeds); figures are their means."
        if facts.num_seeds > 1
        else "The model was trained once; how much another random start would change is not measured here."
    )
    return [
        "Each query is a moment in days after those that the model learned from: a person opens the home feed, looks "
        "at a pin, or searches, and the visit ends with a product bought or put into the cart. The model is told what "
        f"was known at that moment and nothing later, and puts {pins} of the catalogue in order.",
        f"It has found the pin if that stands among the first {', '.join(map(str, facts.ks))}. Nothing is sampled: the "
        "order is exact, and pins with equal scores count against the model. Every method answers the same queries.",
        f"{seeds} Intervals say where a figure would lie in 95 of 100 repetitions with other people.",
    ]


def _found(facts: Facts) -> list[str]:
    rows: list[Row] = [
        [plain(name), *(_with_interval(found[k]) for k in facts.ks), SYSTEMS.get(name, "")]
        for name, found in facts.recall.items()
    ]
    header = ["method", *(f"among the first {k}" for k in facts.ks), "what it is"]
    dots = [(plain(name), {_colour(name): _dot(found[facts.main_k])}) for name, found in facts.recall.items()]
    svg = draw.intervals("systems", dots, x_name=f"recall@{facts.main_k}")
    all_methods = plot(
        f"Found among the first {facts.main_k}, by method",
        svg,
        "Each dot is a method; the line is its 95 % interval. Further to the right is better.",
        table(["method", "queries found"], [[row[0], row[1 + facts.ks.index(facts.main_k)]] for row in rows]),
    )
    return [box(table(header, rows)), '<div class="gap"></div>', _plots(all_methods, _among_served(facts))]


def _among_served(facts: Facts) -> str:
    title = "Among pins that were shown before"
    served = facts.metrics.get("served_recall")
    if not served:
        return no_plot(title, "The log does not say which pins were shown, or most of the catalogue never was.")
    ks = [k for k in facts.ks if f"recall@{k}" in next(iter(served.values()))]
    rows: list[Row] = [[plain(name), *(per_cent(found[f"recall@{k}"]) for k in ks)] for name, found in served.items()]
    count, queries = facts.metrics["num_served_pins"], facts.metrics["num_served_queries"]
    said = (
        f"The same lists with only those {number(count)} pins in them that were shown to anybody in the training time, "
        f"for the {number(queries)} queries whose pin is one of them: an easier question, and one that logs often ask."
    )
    header = ["method", *(f"first {k}" for k in ks)]
    return "\n".join(
        [f'<figure class="plot"><h3>{escape(title)}</h3>', table(header, rows), paragraph(said, "reading"), "</figure>"]
    )


def _slice(facts: Facts, name: str) -> str:
    title, reading = SLICES.get(name, (plain(name).capitalize(), ""))
    dots = [
        (
            f"{plain(part.value)} ({number(part.num_queries)} queries)",
            {_colour(s): _dot(f) for s, f in part.found.items()},
        )
        for part in facts.slices[name]
    ]
    rows: list[Row] = [
        [plain(part.value), part.num_queries, *(_with_interval(part.found[system]) for system in facts.shown)]
        for part in facts.slices[name]
    ]
    svg = draw.intervals(f"slice-{name}", dots, x_name=f"recall@{facts.main_k}")
    return plot(title, svg, reading, table(["", "queries", *map(plain, facts.shown)], rows))


def _curve(facts: Facts, name: str) -> str:
    title, reading, shares = _CURVES[name]
    lines = facts.curves.get(name)
    if not lines:
        return no_plot(title, "No record of the training is beside the run.")
    last = [line[-1] for line in lines]
    rows: list[Row] = [
        [seed, len(line), step, round(end, 4)] for seed, (line, (step, end)) in enumerate(zip(lines, last, strict=True))
    ]
    svg = draw.curves(f"curve-{name}", lines, x_name="step", y_name=title.lower(), shares=shares)
    return plot(title, svg, reading, table(["seed", "values", "last step", "last value"], rows))


def _coverage(facts: Facts) -> str:
    coverage = facts.metrics.get("coverage")
    if not coverage:
        return paragraph("Not measured.", "faint")
    k = facts.main_k
    rows: list[Row] = [
        [
            plain(name),
            per_cent(found[f"coverage@{k}"]),
            per_cent(found[f"advertiser_entropy@{k}"]) if f"advertiser_entropy@{k}" in found else "–",
        ]
        for name, found in coverage.items()
    ]
    said = (
        f"Pins in use: the share of the catalogue that is among anybody's first {k}. Evenness of shops: 100 % where "
        "every shop has as many places in these lists, 0 % where one has all (entropy over its maximum)."
    )
    return "\n".join([table(["method", "pins in use", "evenness of shops"], rows), paragraph(said, "faint")])


def _settings(facts: Facts) -> str:
    if not facts.settings:
        return paragraph("They are not beside the run.", "faint")
    return f"<details><summary>show</summary><pre>{escape(facts.settings)}</pre></details>"


def _legend(facts: Facts) -> str:
    return legend((_colour(name), plain(name)) for name in facts.shown)


def _colour(system: str) -> Colour:
    colours: dict[str, Colour] = {MODEL: "plain", ORACLE: "checkout"}
    return colours.get(system, "faint")


def _dot(share: Share) -> draw.Interval:
    return share.mean, share.low, share.high


def _with_interval(share: Share) -> str:
    return f"{per_cent(share.mean)} ({per_cent(share.low)} to {per_cent(share.high)})"


def _plots(*each: str) -> str:
    return "\n".join(['<div class="plots">', *each, "</div>"])
