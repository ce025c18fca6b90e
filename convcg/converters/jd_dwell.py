"""JD's micro-behaviours (Gu et al., WSDM 2020, github.com/guyulongcs/WSDM2020_HUP): text files, one session a line.

`sku+behaviour+leaf_category+seconds_to_next+dwell_seconds`, separated by spaces. Behaviours: 1 to 5 open a product
page (from the home page, a category page, a sale, the cart, search results), 6 to 8 read on it (comments,
specification, bottom), 9 adds to the cart, 10 orders.

*Opening is a click*; from the home page it is on home_feed, from search results on search, else without a surface.
*Reading on a page is no event*: the page was opened by a click before it, and how long it was read is in the dwell. 9
is add_to_cart, 10 checkout. The session is the user: the source has no other. Its id is a hash of the line, so that a
line that stands in several files is one session, whatever the order of the files. Of users nothing is known, so there
is no users table.

*Dwell.* All events of a visit (a run of events on one product) share one dwell. It stands on the first click of the
visit, other events of the visit have none, so that a sum counts it once. A visit has one request_id.

**Made up: the times.** The source has no clock, only the seconds between events. A session begins at midnight UTC of
one of the 28 days from 2020-02-03 (the day WSDM 2020 began), which one is drawn by the same hash; its later events
follow in their real distances. So a split by days is a random split of sessions, and no session that is shorter than
a day is cut. Never report anything that depends on the hour, or on the order of sessions.
"""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.converters.latest import Latest
from convcg.converters.line_blocks import line_blocks
from convcg.converters.output import Output
from convcg.converters.source import files_ending
from convcg.errors import DataError
from convcg.schema import TIMESTAMP
from convcg.storage import Location
from convcg.types import Action, Surface

_log = logging.getLogger(__name__)

_FIRST_DAY = np.datetime64("2020-02-03T00:00:00", "s").astype(np.int64)
_NUM_DAYS = 28
_DAY_SECONDS = 86_400
_FIELDS = ("sku", "behaviour", "leaf_category", "seconds_to_next", "dwell_seconds")
_ACTIONS = (*[Action.CLICK.value] * 5, None, None, None, Action.ADD_TO_CART.value, Action.CHECKOUT.value)
_SURFACES = (Surface.HOME_FEED.value, None, None, None, Surface.SEARCH.value, *[None] * 5)
_SHOWN = 80


def convert(source: Location, output: Output) -> None:
    """Convert one file, or every .txt and .txt.gz of a directory. Keeps 64 bits a session in memory.

    Raises:
        DataError: a line is not of this format.
        StorageError: a file cannot be read, or a table not written.
    """
    pins = Latest({"pin_id": pa.string(), "category": pa.string()})
    seen: set[int] = set()
    repeated = 0
    for file in files_ending(source, ".txt"):
        for number, block in line_blocks(file):
            sessions = _new_sessions(file, number, block, seen)
            repeated += sessions.repeated
            if sessions.lines:
                fields, session = _fields(file, sessions)
                output.events(_events(fields, session, sessions.hashes))
                pins.add({"pin_id": fields["sku"], "category": fields["leaf_category"]})
    if repeated:
        _log.info("%d lines stand in the files more than once: each is one session", repeated)
    output.pins(pins.table())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sessions:
    """Lines that were not seen before, their numbers in the file and their hashes."""

    lines: list[str]
    numbers: list[int]
    hashes: NDArray[np.uint64]
    repeated: int


def _new_sessions(file: Location, number: int, block: bytes, seen: set[int]) -> _Sessions:
    lines, numbers, hashes, repeated = [], [], [], 0
    # A loop over sessions, not events: a cryptographic hash is taken of one line at a time.
    for place, line in enumerate(block.split(b"\n"), start=number):
        if not (line := line.strip()):
            continue
        digest = int.from_bytes(hashlib.blake2b(line, digest_size=8).digest())
        if digest in seen:
            repeated += 1
            continue
        seen.add(digest)
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            raise DataError(f"{file.uri}, line {place}: expected text; found {line[:_SHOWN]!r}.") from None
        numbers.append(place)
        hashes.append(digest)
    return _Sessions(lines=lines, numbers=numbers, hashes=np.array(hashes, np.uint64), repeated=repeated)


def _fields(file: Location, sessions: _Sessions) -> tuple[pa.Table, NDArray[np.int64]]:
    """One row a micro-behaviour, with the columns of `_FIELDS`, and which of the sessions it belongs to."""
    listed = pc.ascii_split_whitespace(pa.array(sessions.lines, pa.string()))
    texts, session = pc.list_flatten(listed), pc.list_parent_indices(listed).to_numpy()

    def refuse(bad: NDArray[np.bool_], what: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{file.uri}, line {sessions.numbers[session[row]]}: expected {what}; "
                f"found {texts[row].as_py()[:_SHOWN]!r}."
            )

    whole = pc.match_substring_regex(texts, r"^[^+]+\+\d{1,4}\+[^+]+\+\d{1,9}(\.\d{1,9})?\+\d{1,9}(\.\d{1,9})?$")
    refuse(~whole.to_numpy(zero_copy_only=False), f"{'+'.join(_FIELDS)} with numbers for behaviour and seconds")
    parts = pc.list_flatten(pc.split_pattern(texts, "+"))
    column = {name: parts.take(pa.array(np.arange(at, len(parts), 5))) for at, name in enumerate(_FIELDS)}
    column["behaviour"] = column["behaviour"].cast(pa.int64())
    for name in ("seconds_to_next", "dwell_seconds"):
        column[name] = column[name].cast(pa.float64())
    behaviour = column["behaviour"].to_numpy()
    refuse((behaviour < 1) | (behaviour > len(_ACTIONS)), f"a behaviour from 1 to {len(_ACTIONS)}")
    return pa.table(column), session


def _events(fields: pa.Table, session: NDArray[np.int64], hashes: NDArray[np.uint64]) -> pa.Table:
    code = pa.array(fields["behaviour"].to_numpy() - 1)
    action = pa.array(_ACTIONS, pa.string()).take(code)
    clicked = pc.equal(action, Action.CLICK.value).fill_null(False).to_numpy(zero_copy_only=False)
    visit = _visits(fields["sku"].combine_chunks(), session)
    in_session = visit - visit[np.searchsorted(session, session)]
    user = pa.array([f"{each:016x}" for each in hashes]).take(pa.array(session))
    dwell = fields["dwell_seconds"].to_numpy()
    events = pa.table(
        {
            "timestamp": pa.array(_times(fields["seconds_to_next"].to_numpy(), session, hashes)).cast(TIMESTAMP),
            "user_id": user,
            "pin_id": fields["sku"],
            "action": action,
            "surface": pa.array(_SURFACES, pa.string()).take(code),
            "dwell_seconds": pa.array(dwell, mask=~_first_of_visit(visit, clicked)),
            "request_id": pc.binary_join_element_wise(user, pa.array(in_session).cast(pa.string()), "-"),
        }
    )
    return events.filter(action.is_valid())


def _visits(sku: pa.Array, session: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each event's visit, which is a run of events of one session on one product."""
    product = sku.dictionary_encode().indices.to_numpy()
    begins = np.ones(len(session), bool)
    begins[1:] = (session[1:] != session[:-1]) | (product[1:] != product[:-1])
    return np.cumsum(begins) - 1


def _first_of_visit(visit: NDArray[np.int64], clicked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which events are the first click of their visit."""
    rows = np.flatnonzero(clicked)
    first = np.zeros(len(visit), bool)
    first[rows[np.unique(visit[rows], return_index=True)[1]]] = True
    return first


def _times(gap: NDArray[np.float64], session: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Microseconds since the epoch: the session's day, and the gaps of the events before."""
    before = np.cumsum(np.round(gap * 1e6).astype(np.int64)) - np.round(gap * 1e6).astype(np.int64)
    start = _FIRST_DAY + (hashes % np.uint64(_NUM_DAYS)).astype(np.int64) * _DAY_SECONDS
    return start[session] * 1_000_000 + before - before[np.searchsorted(session, session)]
