"""The data card: one page that stands on its own, holds every number that it was given, and is always the same."""

import json
import re
import subprocess
import sys
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from convcg.data.card.page import card_page

SVG = "{http://www.w3.org/2000/svg}"
PLOTS = 9
ACTIONS = ("impression", "click", "repin", "add_to_cart", "checkout")


def a_card(num_days: int = 12, **changed: Any) -> dict[str, Any]:
    """A card with every number different, so that each can be looked for."""
    first = date(2025, 1, 6)
    by_day = [
        {"day": str(first + timedelta(days=day)), **{name: 7_001 + 1_000 * at + day for at, name in enumerate(ACTIONS)}}
        for day in range(num_days)
    ]

    def midnight(day: int) -> str:
        return f"{first + timedelta(days=day)}T00:00:00+00:00"

    card = {
        "title": "January",
        "created": "2025-02-03T04:05:06+00:00",
        "rows": {"events": 123_451, "pins": 123_452, "users": 123_453, "quarantined": 123_454},
        "time": {
            "first": "2025-01-06T01:02:03+00:00",
            "train": midnight(num_days - 5),
            "validation": midnight(num_days - 3),
            "test": midnight(num_days - 2),
            "end": midnight(num_days),
        },
        "actions": {name: 223_451 + at for at, name in enumerate(ACTIONS)},
        "surfaces": {"home_feed": 323_451, "search": 323_452, "unknown": 323_453},
        "examples": {
            "conversion": 423_451,
            "engagement": 423_452,
            "requests": 423_453,
            "validation": 423_454,
            "test": 423_455,
            "served_not_engaged": 423_456,
        },
        "attribution": {
            "pin_click": 523_451,
            "pin_impression": 523_452,
            "advertiser_click": 523_453,
            "advertiser_impression": 523_454,
            "none": 523_455,
        },
        "rules": [
            {"rule": "reported twice under one event id", "what": "events", "dropped": 623_451, "of": 623_999},
            {"rule": "beyond the cap", "what": "conversions", "dropped": 0, "of": 0},
        ],
        "by_day": by_day,
        "dwell": {
            "edges": [0, 1, 3, 30, 300],
            "counts": [723_451, 723_452, 723_453, 723_454],
            "missing": 723_455,
            "absurd": 723_456,
            "median": 12.5,
        },
        "report_delay": {"edges_hours": [0.0, 0.5, 1.0, 24.0, 1e9], "counts": [823_451, 823_452, 823_453, 823_454]},
        "conversion_delay": {"edges_hours": [0, 2, 20, 200], "counts": [923_451, 923_452, 923_453]},
        "advertiser_sizes": {"edges": [1, 2, 5, None], "counts": [33_451, 33_452, 33_453]},
        "bytes": 43_451,
        "notes": ["events.query is absent: search has no query as context"],
    }
    return json.loads(json.dumps(card | changed))


@pytest.fixture(scope="module")
def page() -> str:
    return card_page(a_card())


def no_card() -> dict[str, Any]:
    """A card about nothing."""

    def zeros(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: zeros(each) for key, each in value.items()}
        return 0 if isinstance(value, int) else value

    card = a_card()
    for name in ("rows", "actions", "surfaces", "examples", "attribution", "bytes"):
        card[name] = zeros(card[name])
    dwell = {"edges": [0, 1, 2], "counts": [0, 0], "missing": 0, "absurd": 0, "median": None}
    delays = {"report_delay": None, "conversion_delay": {"edges_hours": [0, 1], "counts": [0]}}
    return card | delays | {"dwell": dwell, "advertiser_sizes": None, "rules": [], "by_day": [], "notes": []}


def parsed(page: str) -> ElementTree.Element:
    """The page as a tree, which only well-formed text becomes."""
    return ElementTree.fromstring(page)


def shown(page: str) -> str:
    """All text of the page, that of its style left out."""
    parts = [part for part in parsed(page).iter() if part.tag != "style"]
    return " ".join(text for part in parts for text in (part.text, part.tail) if text)


def ids_of(page: str) -> list[str]:
    """The ids of all elements."""
    return re.findall(r' id="([^"]*)"', page)


def integers(value: Any) -> list[int]:
    """Every integer within plain data."""
    if isinstance(value, dict):
        return [number for each in value.values() for number in integers(each)]
    if isinstance(value, list):
        return [number for each in value for number in integers(each)]
    return [value] if isinstance(value, int) else []


def test_the_page_has_all_plots_and_every_number(page):
    card = a_card()
    assert len([*parsed(page).iter(f"{SVG}svg")]) == PLOTS
    text = shown(page)
    assert not [number for number in integers(card) if not re.search(rf"(?<![\d,]){number:,}(?!,?\d)", text)]
    for said in ("12.5 seconds", "0.5 to 1 h", "24 and more h", "2–4", "5+", "2025-02-03 04:05 UTC", *card["notes"]):
        assert said in text
    for rule in card["rules"]:
        assert rule["rule"] in text


def test_every_plot_has_a_title_axis_names_and_help_to_read_it(page):
    plots = [*parsed(page).iter("figure")]
    assert len(plots) == PLOTS
    axes = {
        "events a day", "conversions per click", "share of events", "hours from the touch to the conversion",
        "hours from the conversion to its report", "dwell time, seconds", "share of conversions", "share dropped",
        "pins of an advertiser", "day (UTC)",
    }  # fmt: skip
    words = set()
    for plot in plots:
        title, help_to_read = plot.findtext("h3"), plot.findtext("figcaption")
        assert plot.find(f"{SVG}svg").get("aria-label") == title
        assert help_to_read.rstrip().endswith(".")
        words |= {text.text for text in plot.iter(f"{SVG}text")}
    assert axes <= words


def test_titles_say_what_is_seen():
    card = a_card()
    card["actions"]["click"] = 100
    for day in card["by_day"]:
        day.update(impression=900, click=100, repin=0, add_to_cart=3, checkout=2)
    card["report_delay"] = {"edges_hours": [0, 1, 24, 48], "counts": [60, 30, 10]}
    card["conversion_delay"] = {"edges_hours": [0, 2, 20, 200], "counts": [50, 30, 20]}
    card["surfaces"] = {"home_feed": 3, "search": 1}
    card["attribution"] = {"pin_click": 1, "pin_impression": 0, "none": 9}
    card["rules"][0].update(dropped=1, of=40)
    card["advertiser_sizes"]["counts"] = [9, 1, 0]
    titles = [plot.findtext("h3").replace("\N{NO-BREAK SPACE}", " ") for plot in parsed(card_page(card)).iter("figure")]
    assert (
        titles
        == [
            "90 % of all events are of one kind: impression",
            "A hundred clicks bring 5 conversions",
            "75 % of events happen on one surface: home feed",
            "About 25 % of conversions follow their touch within an hour, about 80 % within a day",
            "60 % of conversions are known within an hour, 90 % within a day",
            "After half of the clicks, people stay at most 12.5 seconds",
            "90 % of conversions came after nothing that is known",
            "The rule that drops most takes 2.5 %: reported twice under one event id",
            "90 % of advertisers have 1 pin",
        ][: len(titles)]
    )


def test_nothing_becomes_sentences_instead_of_plots():
    page = card_page(no_card())
    assert not [*parsed(page).iter(f"{SVG}svg")]
    why = [plot.findtext("p") for plot in parsed(page).iter("figure")]
    assert len(why) == PLOTS
    assert all(sentence.endswith(".") for sentence in why)
    assert "No pin names its advertiser." in why


@pytest.mark.parametrize(
    "changed",
    [
        {"advertiser_sizes": None},
        {"by_day": [{"day": "2025-01-06", "impression": 5, "click": 0, "repin": 0, "add_to_cart": 0, "checkout": 1}]},
        {"by_day": [{"day": "2025-01-06", "impression": 5, "click": 5, "repin": 0, "add_to_cart": 0, "checkout": 0}]},
        {"dwell": {"edges": [1, 5, None], "counts": [0, 3], "missing": 0, "absurd": 0, "median": 1e6}},
        {"report_delay": {"edges_hours": [0, 1, None], "counts": [0, 3]}},
        {"conversion_delay": {"edges_hours": [0, 1000], "counts": [1]}},
        {"rules": [{"rule": "a", "what": "events", "dropped": 0, "of": 9}]},
        {"surfaces": {"home_feed": 1}},
    ],
)
def test_data_that_is_there_in_part_makes_a_page(changed):
    assert "nan" not in shown(card_page(a_card(**changed)))


def test_days_without_events_are_shown_as_such():
    card = a_card()
    card["by_day"] = [card["by_day"][0], card["by_day"][4]]
    rows = [[cell.text for cell in row] for row in parsed(card_page(card)).iter("tr")]
    assert ["2025-01-08", "0", "0", "0", "0", "0"] in rows
    assert ["2025-01-08", "0", "0", "no clicks"] in rows


def test_the_parts_of_the_time_are_named_with_their_lengths(page):
    parts = [["".join(cell.itertext()).strip() for cell in row] for row in parsed(page).iter("tr")]
    assert [part[:4] for part in parts if part[0] in ("training", "gap", "validation", "test")] == [
        ["training", "2025-01-06 01:02 UTC", "2025-01-13", "6.957"],
        ["gap", "2025-01-13", "2025-01-15", "2"],
        ["validation", "2025-01-15", "2025-01-16", "1"],
        ["test", "2025-01-16", "2025-01-18", "2"],
    ]


def test_years_of_days_become_months_and_the_page_stays_small():
    long = card_page(a_card(num_days=750))
    assert "2025-01-06" in shown(long)
    years = card_page(a_card(num_days=6000))
    assert "month (UTC)" in shown(years)
    assert sum(7_001 + day for day in range(26)) == 182_351
    assert "182,351" in shown(years)
    assert max(len(long), len(years)) < 1_000_000


def test_the_page_stands_on_its_own(page):
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|@font-face", page)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) <= {
        f"#{name}" for name in re.findall(r' id="([^"]*)"', page)
    }
    assert set(re.findall(r"https?://[^\"' ]*", page)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"#010a[0-9a-f]{2}", page), "a colour of a plot does not follow the page's"


def test_ids_are_distinct_and_those_that_plots_refer_to_are_there(page):
    ids = ids_of(page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)
    assert len(re.findall("<style", page)) == 1


def test_every_element_is_closed_as_html_wants_it(page):
    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            assert tag == "meta" or "svg" in self.open, f"<{tag}/> stays open in HTML"

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []


def test_texts_are_escaped_wherever_they_stand():
    attack = '</h1><script>alert("1")</script>&amp;$x_1$'
    card = a_card(title=attack, notes=[attack])
    card["rules"][0]["rule"] = card["rules"][0]["what"] = attack
    card["surfaces"] = {attack: 3}
    card["attribution"] = {attack: 3}
    card["actions"] = {attack: 3}
    page = card_page(card)
    assert "<script" not in page
    assert shown(page).count(attack) >= 8
    assert parsed(page).findtext("head/title") == attack


def test_the_same_card_gives_the_same_bytes_in_another_process_too(page, tmp_path: Path):
    card = a_card()
    assert card_page(card) == page
    assert card == a_card(), "the card was changed"
    (tmp_path / "card.json").write_text(json.dumps(card))
    write = (
        "import json, sys; from pathlib import Path; from convcg.data.card.page import card_page; "
        "sys.stdout.buffer.write(card_page(json.loads(Path(sys.argv[1]).read_text())).encode())"
    )
    done = subprocess.run([sys.executable, "-c", write, str(tmp_path / "card.json")], capture_output=True, check=True)
    assert done.stdout.decode() == page
