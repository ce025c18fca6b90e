"""The small built-in world: events, pins and users in the contract's format, from a seed, in seconds.

It exists to try everything out without data of one's own. What is planted in it, and so what can be found again, is in
`convcg.data.world_behaviour`; it says nothing about real shoppers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convcg import schema
from convcg.data.world_behaviour import Happenings, Sessions, browse, buy, concatenated, draw_sessions, serve
from convcg.data.world_model import (
    AGE_BANDS,
    CATEGORIES,
    COUNTRIES,
    STYLES,
    Ints,
    Pins,
    Users,
    Words,
    WorldConfig,
    draw_pins,
    draw_users,
    draw_words,
)
from convcg.storage import locate, write_bytes
from convcg.types import ACTION_CODE, ACTIONS, SURFACES, Action, Surface

__all__ = ["World", "WorldConfig", "WorldSummary", "draw_world", "write_world"]

_SEARCH = SURFACES.index(Surface.SEARCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that there is, latents included. `happenings` are in the order of time."""

    config: WorldConfig
    words: Words
    pins: Pins
    users: Users
    sessions: Sessions
    happenings: Happenings


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSummary:
    """What was written: the three files' locations, the row counts, and the events by action."""

    events: str
    pins: str
    users: str
    num_events: int
    num_pins: int
    num_users: int
    actions: Mapping[str, int]


def draw_world(config: WorldConfig) -> World:
    """Draw people, pins and everything that they do. The same config gives the same world, to the bit."""
    rng = np.random.default_rng(config.seed)
    words = draw_words(config, rng)
    pins = draw_pins(config, words, rng)
    users = draw_users(config, words, rng)
    sessions = draw_sessions(config, pins, users, rng)
    browsed = browse(pins, sessions, *serve(config, pins, users, sessions, rng), rng)
    bought = buy(config, pins, users, sessions, browsed, rng)
    happenings = concatenated([browsed, bought])
    seen = np.flatnonzero(happenings.time < config.end_seconds)
    in_order = seen[np.argsort(happenings.time[seen], kind="stable")]
    happenings = happenings.take(in_order)
    return World(config=config, words=words, pins=pins, users=users, sessions=sessions, happenings=happenings)


def write_world(config: WorldConfig, directory: str) -> WorldSummary:
    """Draw a world and write `events.parquet`, `pins.parquet` and `users.parquet` into `directory` (local or a bucket).

    Raises:
        StorageError: the files cannot be written.
    """
    world = draw_world(config)
    tables = {"events": events_table(world), "pins": pins_table(world), "users": users_table(world)}
    written = {}
    for name, table in tables.items():
        target = locate(directory) / f"{name}.parquet"
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        write_bytes(target, buffer.getvalue().to_pybytes())
        written[name] = target.uri
    counts = np.bincount(world.happenings.action, minlength=len(ACTIONS))
    return WorldSummary(
        **written,
        num_events=tables["events"].num_rows,
        num_pins=tables["pins"].num_rows,
        num_users=tables["users"].num_rows,
        actions={action.value: int(count) for action, count in zip(ACTIONS, counts, strict=True)},
    )


def events_table(world: World) -> pa.Table:
    """The events as the contract has them, in the order of time."""
    happened, sessions = world.happenings, world.sessions
    off_platform = happened.session < 0
    surface = np.where(off_platform, 0, sessions.surface[happened.session])
    subject = np.where(off_platform, -1, sessions.subject[happened.session])
    query = np.where(off_platform | (surface != _SEARCH), -1, happened.session)
    checkout = happened.action == ACTION_CODE[Action.CHECKOUT]
    return pa.table(
        {
            "event_id": _ids("evt", np.arange(len(happened.pin)), 7),
            "timestamp": _times(happened.time),
            "user_id": _ids("user", happened.user, 6),
            "pin_id": _ids("pin", happened.pin, 6),
            "action": pa.array(ACTIONS, pa.string()).take(pa.array(happened.action)),
            "surface": pa.array(SURFACES, pa.string()).take(pa.array(surface, mask=off_platform)),
            "dwell_seconds": pa.array(happened.dwell, from_pandas=True),
            "request_id": _ids("req", happened.session, 7),
            "subject_pin_id": _ids("pin", subject, 6),
            "query": _queries(world).take(pa.array(query, mask=query < 0)),
            "value": pa.array(world.pins.price[happened.pin], mask=~checkout),
            "reported_at": _times(happened.reported),
        }
    )


def pins_table(world: World) -> pa.Table:
    """The catalogue, with two columns beyond the contract: `title`, and `visual`, float32 [vector_dim]."""
    pins = world.pins
    titles = [
        f"{STYLES[style]} {CATEGORIES[category]}" for style, category in zip(pins.style, pins.category, strict=True)
    ]
    return pa.table(
        {
            "pin_id": _ids("pin", np.arange(len(pins.price)), 6),
            "advertiser_id": _ids("adv", pins.advertiser, 3),
            "category": pa.array(CATEGORIES).take(pa.array(pins.category)),
            "price": pa.array(pins.price),
            "surfaces": _names_or_null(SURFACES, pins.on_surface),
            "countries": _names_or_null(COUNTRIES, pins.ships_to[pins.advertiser]),
            "in_stock": pa.array(pins.in_stock),
            "title": pa.array(titles),
            "visual": pa.FixedSizeListArray.from_arrays(pa.array(pins.visual.ravel()), pins.visual.shape[1]),
        }
    )


def users_table(world: World) -> pa.Table:
    """The people, with one column beyond the contract: `age_band`."""
    users = world.users
    return pa.table(
        {
            "user_id": _ids("user", np.arange(len(users.country)), 6),
            "country": pa.array(COUNTRIES).take(pa.array(users.country)),
            "age_band": pa.array(AGE_BANDS).take(pa.array(users.age_band)),
        }
    )


def _queries(world: World) -> pa.Array:
    """What each session would type: the words nearest to its intent; every third one names the category alone."""
    category = world.words.category_of(world.sessions.intent)
    style = world.words.style_of(world.sessions.intent)
    return pa.array(
        [
            CATEGORIES[thing] if row % 3 == 0 else f"{STYLES[look]} {CATEGORIES[thing]}"
            for row, (look, thing) in enumerate(zip(style, category, strict=True))
        ],
        pa.string(),
    )


def _ids(prefix: str, numbers: Ints, width: int) -> pa.Array:
    """`prefix_000042` for 42; null for negative numbers."""
    return pa.array(
        [f"{prefix}_{number:0{width}d}" if number >= 0 else None for number in numbers.tolist()], pa.string()
    )


def _times(seconds: np.ndarray) -> pa.Array:
    missing = np.isnan(seconds)
    microseconds = np.round(np.where(missing, 0.0, seconds) * 1e6).astype(np.int64)
    return pa.array(microseconds, mask=missing).cast(schema.TIMESTAMP)


def _names_or_null(names: tuple[str, ...], allowed: np.ndarray) -> pa.Array:
    """The names allowed in each row; null, which means all, where nothing is left out."""
    return pa.array(
        [None if row.all() else [name for name, fine in zip(names, row, strict=True) if fine] for row in allowed],
        pa.list_(pa.string()),
    )
