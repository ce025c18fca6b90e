"""OTTO's recommender challenge: JSON lines, plain or .gz, one session a line.

`{"session": 12, "events": [{"aid": 59625, "ts": 1661724000278, "type": "clicks"}, ...]}`, milliseconds

clicks, carts and orders are click, add_to_cart and checkout; the session is the user. A pin is an aid: the log knows
nothing else of it, so `pins.parquet` has `pin_id` alone, and there is no users table.
"""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from convcg.converters.latest import Latest
from convcg.converters.line_blocks import line_blocks
from convcg.converters.output import Output
from convcg.converters.source import files_ending
from convcg.converters.times import from_epoch
from convcg.errors import DataError
from convcg.storage import Location
from convcg.types import Action

_ACTIONS = {
    "clicks": Action.CLICK.value,
    "carts": Action.ADD_TO_CART.value,
    "orders": Action.CHECKOUT.value,
}
_LINE = pa.schema(
    [
        ("session", pa.int64()),
        ("events", pa.list_(pa.struct([("aid", pa.int64()), ("ts", pa.int64()), ("type", pa.string())]))),
    ]
)
_SHOWN = 80


def convert(source: Location, output: Output) -> None:
    """Convert one file, or every .jsonl and .jsonl.gz of a directory.

    Raises:
        DataError: a line is not of this format.
        StorageError: a file cannot be read, or a table not written.
    """
    pins = Latest({"pin_id": pa.string()})
    for file in files_ending(source, ".jsonl"):
        for number, lines in line_blocks(file):
            events = _events(file, number, lines)
            output.events(events)
            pins.add({"pin_id": events["pin_id"]})
    output.pins(pins.table())


def _events(file: Location, number: int, lines: bytes) -> pa.Table:
    try:
        sessions = pajson.read_json(
            pa.BufferReader(lines),
            read_options=pajson.ReadOptions(block_size=len(lines) + 1),
            parse_options=pajson.ParseOptions(explicit_schema=_LINE, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException as error:
        raise _first_error(file, number, lines, str(error)) from error
    session, events = (sessions[name].combine_chunks() for name in _LINE.names)
    flat = pc.list_flatten(events)
    aid, ts, kind = (flat.field(name) for name in ("aid", "ts", "type"))
    time = from_epoch(ts, unit="ms")
    action = pa.array(_ACTIONS.values(), pa.string()).take(pc.index_in(kind, value_set=pa.array(_ACTIONS, pa.string())))
    if any(column.null_count for column in (session, events, aid, time, action)):
        raise _first_error(file, number, lines, "an entry is missing")
    return pa.table(
        {
            "timestamp": time,
            "user_id": session.take(pc.list_parent_indices(events)).cast(pa.string()),
            "pin_id": aid.cast(pa.string()),
            "action": action,
        }
    )


def _first_error(file: Location, number: int, lines: bytes, otherwise: str) -> DataError:
    """What is wrong with the first line that is; found line by line, which is only done once something is."""
    for place, line in enumerate(lines.split(b"\n"), start=number):
        if line.strip() and (problem := _problem(line)):
            return DataError(f"{file.uri}, line {place}: {problem}; found {line[:_SHOWN].decode(errors='replace')!r}.")
    return DataError(f"{file.uri}, from line {number} on: {otherwise}.")


def _problem(line: bytes) -> str | None:
    try:
        session = json.loads(line)
    except ValueError as error:
        return f"expected a JSON object ({error})"
    if not isinstance(session, dict) or type(session.get("session")) is not int:
        return 'expected an object with an integer "session"'
    if not isinstance(session.get("events"), list):
        return 'expected a list "events"'
    for place, event in enumerate(session["events"]):
        if problem := _event_problem(event):
            return f"events[{place}]: {problem}"
    return None


def _event_problem(event: Any) -> str | None:
    if not isinstance(event, dict) or any(type(event.get(name)) is not int for name in ("aid", "ts")):
        return 'expected an object with integers "aid" and "ts"'
    if event.get("type") not in _ACTIONS:
        return f"expected type {', '.join(_ACTIONS)}, got {event.get('type')!r}"
    if not 0 <= event["ts"] < 1 << 63 or from_epoch(pa.array([event["ts"]]), unit="ms").null_count:
        return f"expected ts in milliseconds between 2000 and now, got {event['ts']}"
    return None
