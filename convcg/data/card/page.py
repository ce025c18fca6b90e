"""The data card: one page that says what a log is, what was made of it and what was left out, for whoever asks.

"Datasheets for Datasets" (Gebru et al., 2018) asks for such a page; this one is written anew by every `prepare`.
"""

from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import Any

from convcg.data.card import over_time, shares
from convcg.page.html import Row, box, bullets, number, page, paragraph, per_cent, section, table, tiles

_ACTIONS = {
    "impression": "a pin was shown to a person",
    "click": "a person opened a pin",
    "repin": "a person saved a pin",
    "add_to_cart": "a person put the product into a cart: a conversion",
    "checkout": "a person bought the product: a conversion",
}
_EXAMPLES = {
    "conversion": ("conversions", "training examples whose answer was put into a cart or bought"),
    "engagement": ("engagements", "training examples whose answer was clicked or saved"),
    "requests": ("requests", "page loads with an answer, in the training time"),
    "served_not_engaged": ("shown, not engaged", "pins of these requests that nobody touched: negatives"),
    "validation": ("validation queries", "asked while training, to see how it goes"),
    "test": ("test queries", "asked once, at the end; the recall that is reported"),
}
_PARTS = (
    ("first", "train", "train", "training", "what the model learns from: no more than was known at its end"),
    ("train", "validation", "between", "gap", "left out, as the model would be this old when it is asked"),
    ("validation", "test", "validation", "validation", "what training is watched with"),
    ("test", "end", "test", "test", "what the result is measured on"),
)
_WORDS = (
    ("pin", "one product ad, shown as a picture with a link to a shop"),
    ("advertiser", "the shop that a pin belongs to"),
    ("surface", "where pins are shown: home feed, related pins (below a pin), search"),
    ("conversion", "something was put into a cart or bought"),
    ("touch", "the click or impression that led to a conversion"),
    ("dwell time", "how long a person stayed after a click"),
    ("query", "the moment at which candidates are asked for: who, where, and what was done before"),
    ("quarantine", "broken events that were set aside and kept, not used"),
)


def card_page(card: Mapping[str, Any]) -> str:
    """One self-contained HTML page: no scripts, fonts or images from elsewhere; the same card gives the same bytes.

    `card` is plain, as from JSON. Histograms have one more edge than counts; a last edge that is null, or 1e8 and more,
    has no end. Times are ISO 8601 and UTC; training ends at `train`, and each other part begins at its own.

        title: str    created: time    notes: [str]    bytes: {stored, flat}
        rows: {events, pins, users, quarantined}       time: {first, train, validation, test, end}
        actions, surfaces, attribution: {name: count}
        examples: {conversion, engagement, requests, validation, test, served_not_engaged}
        rules: [{rule, what, dropped, of}]             by_day: [{day, and a count for each action}]
        dwell: {edges (seconds), counts, missing, absurd, median or null}
        report_delay, conversion_delay: {edges_hours, counts} or null
        advertiser_sizes: {edges (pins), counts} or null
    """
    times, by_day = card["time"], card["by_day"]
    return page(
        card["title"],
        [
            f"<header><h1>{escape(card['title'])}</h1>",
            paragraph(_in_one_sentence(card)),
            paragraph(f"Data card, written {_moment(card['created'])}.", "faint"),
            "</header>",
            _first_figures(card),
            _split(times),
            section(
                "What people did",
                "An event is one action of one person with one pin.",
                [box(_actions(card["actions"])), _gap(), _plots(
                    over_time.events_by_day(by_day, times),
                    over_time.conversion_rate_by_day(by_day, times),
                    shares.surfaces(card["surfaces"]),
                )],
            ),
            section(
                "How late, how long",
                "Purchases are rare and come late; both decide what can be learned.",
                [_plots(
                    over_time.conversion_delay(card["conversion_delay"]),
                    over_time.report_delay(card["report_delay"]),
                    over_time.dwell(card["dwell"]),
                )],
            ),
            section(
                "What was made of it",
                "Each example is a question, asked at one moment with nothing but what was known then, and its answer.",
                [box(_examples(card["examples"]), _stored(card["bytes"])), _gap(), _plots(
                    shares.attribution(card["attribution"]),
                    shares.dropped(card["rules"]),
                    shares.advertiser_sizes(card.get("advertiser_sizes")),
                )],
            ),
            section("Notes", "What the tables lack, and what falls away for it.", [box(_notes(card["notes"]))]),
            section("Words", "As they are used on this page.", [box(table(["word", "what it means"], _WORDS))]),
        ],
    )  # fmt: skip


def _in_one_sentence(card: Mapping[str, Any]) -> str:
    rows, times = card["rows"], card["time"]
    kept = (
        "None was broken." if not rows["quarantined"] else f"{number(rows['quarantined'])} broken ones were set aside."
    )
    return (
        f"{number(rows['events'])} events of {number(rows['users'])} people with {number(rows['pins'])} pins, from "
        f"{times['first'][:10]} to {times['end'][:10]}. {kept}"
    )


def _first_figures(card: Mapping[str, Any]) -> str:
    rows, examples = card["rows"], card["examples"]
    return tiles(
        [
            ("events", number(rows["events"])),
            ("pins", number(rows["pins"])),
            ("people", number(rows["users"])),
            ("in quarantine", number(rows["quarantined"])),
            ("conversions to learn from", number(examples["conversion"])),
            ("engagements to learn from", number(examples["engagement"])),
            ("test queries", number(examples["test"])),
        ]
    )


def _split(times: Mapping[str, str]) -> str:
    moments = {name: datetime.fromisoformat(moment) for name, moment in times.items()}
    total = (moments["end"] - moments["first"]).total_seconds() or 1.0
    bars, rows = [], []
    for start, end, kind, name, meaning in _PARTS:
        seconds = (moments[end] - moments[start]).total_seconds()
        if seconds <= 0:
            continue
        bars.append(f'<div class="{kind}" style="width: {100 * seconds / total:.2f}%"></div>')
        key = f'<i class="{kind}"></i>{escape(name)}'
        rows.append(
            f'<tr><td class="key">{key}</td><td>{_when(times[start])}</td><td>{_when(times[end])}</td>'
            f'<td class="number">{seconds / 86_400:,.4g}</td><td class="text">{escape(meaning)}</td></tr>'
        )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("part", "from", "to, not included"))
    heads += '<th scope="col" class="number">days</th><th scope="col" class="text">what it is for</th>'
    body = [f'<div class="span" aria-hidden="true">{"".join(bars)}</div>']
    body += [f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>', *rows, "</tbody></table></div>"]
    said = "The log is cut at the same moments for everybody: the model learns from the past and is asked about later."
    return section("The time", said, [box(*body)])


def _actions(actions: Mapping[str, int]) -> str:
    total = sum(actions.values()) or 1
    rows: list[Row] = [
        [name.replace("_", " "), count, per_cent(count / total), _ACTIONS.get(name, "")]
        for name, count in actions.items()
    ]
    return table(["action", "events", "share", "what it is"], rows)


def _examples(examples: Mapping[str, int]) -> str:
    rows: list[Row] = [[name, examples[key], meaning] for key, (name, meaning) in _EXAMPLES.items()]
    return table(["what", "how many", "what it is"], rows)


def _stored(size: int) -> str:
    return paragraph(f"Stored in {number(size)} bytes.", "faint")


def _notes(notes: list[str]) -> str:
    return bullets(notes) if notes else paragraph("Nothing is missing.", "faint")


def _plots(*each: str) -> str:
    return "\n".join(['<div class="plots">', *each, "</div>"])


def _gap() -> str:
    return '<div class="gap"></div>'


def _moment(moment: str) -> str:
    at = datetime.fromisoformat(moment)
    return at.strftime("%Y-%m-%d" if (at.hour, at.minute, at.second) == (0, 0, 0) else "%Y-%m-%d %H:%M UTC")


def _when(moment: str) -> str:
    day, _, rest = _moment(moment).partition(" ")
    return f"<time>{day}</time> {rest}"
