"""The nouns of the online path: surface, action, request, candidate.

The tables of the offline path (events, pins, users) are described by `convcg.schema`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Surface(StrEnum):
    """Where candidates are shown. The order of the members is the code that examples and models carry."""

    HOME_FEED = "home_feed"
    RELATED_PINS = "related_pins"
    SEARCH = "search"


class Action(StrEnum):
    """What a person did with a pin. The order of the members is the code that examples and models carry."""

    IMPRESSION = "impression"
    CLICK = "click"
    REPIN = "repin"
    ADD_TO_CART = "add_to_cart"
    CHECKOUT = "checkout"


class Task(StrEnum):
    """What an example teaches, and what a query asks for. The order of the members is the order of the streams that
    training mixes, and the code that batches carry.
    """

    CONVERSION = "conversion"
    ENGAGEMENT = "engagement"


SURFACES = tuple(Surface)
ACTIONS = tuple(Action)
TASKS = tuple(Task)
CONVERSIONS = (Action.ADD_TO_CART, Action.CHECKOUT)
SURFACE_CODE = {surface: code for code, surface in enumerate(SURFACES)}
ACTION_CODE = {action: code for code, action in enumerate(ACTIONS)}
TASK_CODE = {task: code for code, task in enumerate(TASKS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """One past action of the person who asks.

    `timestamp` is in seconds since the epoch (UTC); None means "just before the request". `dwell_seconds` is how long
    a click lasted; None where it is not known, or not over yet.
    """

    pin_id: str
    action: Action = Action.CLICK
    surface: Surface | None = None
    timestamp: float | None = None
    dwell_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A closed numeric range; None leaves that side open."""

    min: float | None = None
    max: float | None = None


#: A filter on one column of the pin table: equal to a value, one of several values, or inside a range.
Filter = str | float | bool | tuple[str, ...] | tuple[float, ...] | Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request for candidates.

    Who asks is either `user_id` (history and features come from the bundle's user table) or `history` with
    `user_features`; where both are given, what the request carries replaces what the table holds.
    `subject_pin_id` is the pin looked at on related pins, `query` the text typed on search.
    `timestamp` is in seconds since the epoch (UTC); None means now.
    """

    surface: Surface
    k: int | None = None
    user_id: str | None = None
    user_features: Mapping[str, object] = field(default_factory=dict)
    history: tuple[HistoryEvent, ...] | None = None
    subject_pin_id: str | None = None
    query: str | None = None
    filters: Mapping[str, Filter] = field(default_factory=dict)
    exclude_pin_ids: tuple[str, ...] = ()
    timestamp: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One retrieved pin.

    `score` is the dot product of the query's and the candidate's embeddings (their cosine, in [-1, 1], unless
    `model.pin_length` is free), plus the surface's `repeat_bonus` where the person bought it before.
    """

    pin_id: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The candidates for one request, best first, all from one `model_version`.

    `known_user` says whether the bundle's user table holds the person; a new person is answered all the same.
    """

    model_version: str
    candidates: tuple[Candidate, ...]
    known_user: bool
