"""The built-in world as the contract's tables. Nothing latent is in them."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg import schema
from convcg.data.world.block import Block
from convcg.data.world.catalogue import COUNTRIES, Catalogue, draw_views
from convcg.data.world.config import WorldConfig
from convcg.data.world.latent import CATEGORIES, STYLES, Flags, Ints, Seconds
from convcg.data.world.people import AGE_BANDS, People
from convcg.data.world.requests import SEARCH
from convcg.types import ACTION_CODE, ACTIONS, SURFACES, Action


def pin_ids(config: WorldConfig, pin: Ints) -> pa.Array:
    """The ids of pins by their numbers; null for negative ones."""
    return _ids("pin_", pin, max(6, len(str(config.num_pins - 1))))


def user_ids(config: WorldConfig, user: Ints) -> pa.Array:
    """The ids of people by their numbers in the whole world."""
    return _ids("user_", user, max(6, len(str(config.num_users - 1))))


def query_texts() -> list[str]:
    """Every text that is ever typed: `style category` at style * C + category, then each category alone."""
    return [f"{style} {category}" for style in STYLES for category in CATEGORIES] + list(CATEGORIES)


def events_table(config: WorldConfig, catalogue: Catalogue, block: Block) -> pa.Table:
    """The block's events in the order of time, with every column of the contract."""
    happened, requests = block.happenings, block.requests
    off_platform = happened.request < 0
    surface, subject, query = (
        np.where(off_platform, -1, of_request[happened.request])
        for of_request in (requests.surface, requests.subject, _queries(catalogue, block))
    )
    checkout = happened.action == ACTION_CODE[Action.CHECKOUT]
    people = user_ids(config, block.people.first_user + np.arange(len(block.people)))
    asked = _ids(f"req_{block.number:05d}_", np.arange(len(requests)), 6)
    return pa.table(
        {
            "event_id": _ids(f"evt_{block.number:05d}_", block.event, 7),
            "timestamp": _times(happened.time),
            "user_id": people.take(pa.array(happened.user)),
            "pin_id": pin_ids(config, happened.pin),
            "action": _named(ACTIONS, happened.action),
            "surface": _named(SURFACES, surface),
            "dwell_seconds": pa.array(happened.dwell, from_pandas=True),
            "request_id": asked.take(pa.array(happened.request, mask=off_platform)),
            "subject_pin_id": pin_ids(config, subject),
            "query": _named(query_texts(), query),
            "value": pa.array(catalogue.pins.price[happened.pin], mask=~checkout),
            "reported_at": _times(happened.reported),
        }
    )


def _queries(catalogue: Catalogue, block: Block) -> Ints:
    """What each request types, as a row of `query_texts`: the words nearest to its intent; -1 but on search."""
    requests, words = block.requests, catalogue.words
    category, style = words.category_of(requests.intent), words.style_of(requests.intent)
    row = np.where(requests.is_vague, len(STYLES), style) * len(CATEGORIES) + category
    queries: Ints = np.where(requests.surface == SEARCH, row, -1)
    return queries


def pins_table(config: WorldConfig, catalogue: Catalogue) -> pa.Table:
    """The catalogue at the end of the log.

    Beyond the contract: `title`, `first_seen` (date), and `visual`, `text`, `graph` (lists of float32).
    """
    pins = catalogue.pins
    views = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(view.ravel()), view.shape[1])
        for name, view in draw_views(config, pins.latent).items()
    }
    days = pa.array([config.start + timedelta(days=day) for day in range(config.num_days)], pa.date32())
    advertiser_digits = max(3, len(str(config.num_advertisers - 1)))
    permits = pins.permits[:, None] >> np.arange(len(SURFACES) + len(COUNTRIES)) & 1 > 0
    return pa.table(
        {
            "pin_id": pin_ids(config, np.arange(len(pins))),
            "advertiser_id": _ids("adv_", pins.advertiser, advertiser_digits),
            "category": _named(CATEGORIES, pins.category),
            "price": pa.array(pins.price),
            "surfaces": _names_or_null(SURFACES, permits[:, : len(SURFACES)]),
            "countries": _names_or_null(COUNTRIES, permits[:, len(SURFACES) :]),
            "in_stock": pa.array(pins.last_day > config.num_days),
            "title": _named(query_texts(), pins.style * len(CATEGORIES) + pins.category),
            "first_seen": days.take(pa.array(pins.first_day)),
            **views,
        }
    )


def users_table(config: WorldConfig, people: People) -> pa.Table:
    """A block's people, with one column beyond the contract: `age_band`."""
    return pa.table(
        {
            "user_id": user_ids(config, people.first_user + np.arange(len(people))),
            "country": _named(COUNTRIES, people.country),
            "age_band": _named(AGE_BANDS, people.age_band),
        }
    )


def _ids(prefix: str, numbers: Ints, width: int) -> pa.Array:
    """`prefix000042` for 42, with at least `width` digits; null for negative numbers."""
    digits = pc.utf8_lpad(pa.array(numbers, mask=numbers < 0).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(prefix, digits, "")


def _times(seconds: Seconds) -> pa.Array:
    missing = np.isnan(seconds)
    microseconds = np.round(np.where(missing, 0.0, seconds) * 1e6).astype(np.int64)
    return pa.array(microseconds, mask=missing).cast(schema.TIMESTAMP)


def _named(names: list[str] | tuple[str, ...], codes: NDArray[np.integer]) -> pa.Array:
    """The name of each code; null for negative ones."""
    return pa.array(names, pa.string()).take(pa.array(codes, mask=codes < 0))


def _names_or_null(names: tuple[str, ...], allowed: Flags) -> pa.Array:
    """The names allowed in each row; null, which means all, where nothing is left out."""
    lists = np.where(allowed.all(axis=1), 0, allowed.sum(axis=1))
    offsets = np.concatenate([[0], np.cumsum(lists)]).astype(np.int32)
    name = np.nonzero(allowed[lists > 0])[1]
    return pa.ListArray.from_arrays(pa.array(offsets), _named(names, name), mask=pa.array(lists == 0))
