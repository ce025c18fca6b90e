"""The contract: the columns of the three tables that users bring, and what falls away without the optional ones.

Events are one row an action, pins one row a product pin, users one row a person. Only the columns under
`required` must be there. Any further column is allowed: the feature spec of a recipe decides what is read.
"""

from dataclasses import dataclass, field

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the contract.

    `type` is what the pipeline works with; `accepts` says in words what an input file may hold instead.
    `without` says what falls away where an optional column is absent.
    """

    name: str
    type: pa.DataType
    accepts: str
    required: bool = False
    without: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the contract."""

    name: str
    columns: tuple[Column, ...]
    by_name: dict[str, Column] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {column.name: column for column in self.columns})

    @property
    def required(self) -> tuple[str, ...]:
        """The names of the columns that must be there."""
        return tuple(column.name for column in self.columns if column.required)


_ID = "string or integer, not null"
_TIME = "timestamp (naive is read as UTC) or integer seconds since the epoch"

EVENTS = Table(
    name="events",
    columns=(
        Column(name="timestamp", type=TIMESTAMP, accepts=_TIME, required=True),
        Column(name="user_id", type=pa.string(), accepts=_ID, required=True),
        Column(name="pin_id", type=pa.string(), accepts=_ID, required=True),
        Column(name="action", type=pa.string(), accepts="one of the actions", required=True),
        Column(
            name="event_id",
            type=pa.string(),
            accepts="string or integer",
            without="an event that was reported twice counts twice",
        ),
        Column(
            name="surface",
            type=pa.string(),
            accepts="one of the surfaces, or null",
            without="every request counts as home_feed",
        ),
        Column(
            name="dwell_seconds",
            type=pa.float32(),
            accepts="number, seconds, or null",
            without="every click weighs the same",
        ),
        Column(
            name="request_id",
            type=pa.string(),
            accepts="string or integer, or null",
            without="queries carry no negatives of their own request, and visits are told apart by pauses alone",
        ),
        Column(
            name="subject_pin_id",
            type=pa.string(),
            accepts="string or integer, or null",
            without="related pins has no subject pin as context",
        ),
        Column(
            name="query",
            type=pa.string(),
            accepts="string, or null",
            without="search has no query as context",
        ),
        Column(
            name="value",
            type=pa.float32(),
            accepts="number, or null",
            without="nothing yet: conversions are not weighed by order value",
        ),
        Column(
            name="reported_at",
            type=TIMESTAMP,
            accepts=_TIME + ", or null",
            without="a conversion counts as known from the moment it happened",
        ),
    ),
)

PINS = Table(
    name="pins",
    columns=(
        Column(name="pin_id", type=pa.string(), accepts=_ID, required=True),
        Column(
            name="advertiser_id",
            type=pa.string(),
            accepts="string or integer, or null",
            without="no cap per advertiser, no advertiser feature, no click-A-buy-B",
        ),
        Column(
            name="category",
            type=pa.string(),
            accepts="string, or null",
            without="no category feature, no filter on category",
        ),
        Column(
            name="price",
            type=pa.float32(),
            accepts="number, or null",
            without="no price feature, no filter on price",
        ),
        Column(
            name="surfaces",
            type=pa.list_(pa.string()),
            accepts="list of surfaces, or null for all",
            without="every pin is eligible on every surface",
        ),
        Column(
            name="countries",
            type=pa.list_(pa.string()),
            accepts="list of strings, or null for all",
            without="every pin is eligible in every country",
        ),
        Column(
            name="in_stock",
            type=pa.bool_(),
            accepts="boolean, or null for true",
            without="every pin counts as in stock",
        ),
    ),
)

USERS = Table(
    name="users",
    columns=(
        Column(name="user_id", type=pa.string(), accepts=_ID, required=True),
        Column(
            name="country",
            type=pa.string(),
            accepts="string, or null",
            without="pins are not filtered by the person's country unless the request names one",
        ),
    ),
)
