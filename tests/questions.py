"""Many different requests against a bundle of `bundles.make_bundle`, from a seed."""

import random

from bundles import CATEGORIES, COUNTRIES, END

from convcg.types import ACTIONS, SURFACES, Filter, HistoryEvent, Range, Request, Surface

_QUERIES = ("red shoes", "HATS", "a leather bag for the summer", "")


def questions(count: int, *, num_pins: int, num_users: int, seed: int) -> list[Request]:
    """Requests on all surfaces: known and unknown people, inline histories, features, filters, exclusions."""
    draw = random.Random(seed)
    return [_question(draw, num_pins, num_users) for _ in range(count)]


def _question(draw: random.Random, num_pins: int, num_users: int) -> Request:
    surface = draw.choice(SURFACES)
    return Request(
        surface=surface,
        k=draw.choice((None, 1, 10, 100)),
        user_id=draw.choice((None, "a new person", *[f"u{draw.randrange(num_users):05d}"] * 4)),
        user_features={"country": draw.choice(COUNTRIES), "age": draw.randrange(90)} if draw.random() < 0.3 else {},
        history=_history(draw, num_pins) if draw.random() < 0.3 else None,
        subject_pin_id=_pin(draw, num_pins) if surface is Surface.RELATED_PINS else None,
        query=draw.choice(_QUERIES) if surface is Surface.SEARCH else None,
        filters=_filters(draw),
        exclude_pin_ids=tuple(_pin(draw, num_pins) for _ in range(draw.choice((0, 0, 20)))),
        timestamp=END + draw.uniform(0, 1e6),
    )


def _pin(draw: random.Random, num_pins: int) -> str:
    return f"p{draw.randrange(num_pins):06d}"


def _history(draw: random.Random, num_pins: int) -> tuple[HistoryEvent, ...]:
    return tuple(
        HistoryEvent(
            pin_id=draw.choice((_pin(draw, num_pins), "a pin of yesterday")),
            action=draw.choice(ACTIONS),
            surface=draw.choice((None, *SURFACES)),
            timestamp=draw.choice((None, END - draw.uniform(0, 1e6))),
        )
        for _ in range(draw.randrange(40))
    )


def _filters(draw: random.Random) -> dict[str, Filter]:
    choices: tuple[dict[str, Filter], ...] = (
        {},
        {},
        {"category": draw.choice(CATEGORIES)},
        {"category": CATEGORIES[:2], "price": Range(min=5.0)},
        {"price": Range(min=10.0, max=30.0)},
        {"advertiser_id": "a3"},
        {"price": Range(max=0.0)},
    )
    return draw.choice(choices)
