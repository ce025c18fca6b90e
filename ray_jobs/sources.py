"""The tables that a run starts from, checked; and what becomes of the pins and the users among them."""

import logging
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convcg import schema
from convcg.config import RunConfig
from convcg.data import prepared
from convcg.data.canonical import canonical
from convcg.data.feature_encoders import Encoders, fit_encoders
from convcg.data.split import MICROSECONDS, SplitTimes
from convcg.data.tables import RowTable, build_pin_table, build_user_table, single_chunk, write_table
from convcg.data.validate import validate_tables
from convcg.data.violation import ValidationReport
from convcg.errors import DataError
from convcg.features import Feature, Kind
from convcg.storage import Location, list_files, locate, write_bytes
from ray_jobs.partitions import RAW_USERS, STATES
from ray_jobs.run import Run
from ray_jobs.world import generate

_log = logging.getLogger(__name__)
#: A users table that is not there.
_NOBODY = pa.table({"user_id": pa.array([], pa.string())})
#: What the user table holds beside the raw columns.
_STATE_COLUMNS = (
    "history_pin",
    "history_action",
    "history_surface",
    "history_age",
    "history_time",
    "history_dwell",
    "purchased",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the three tables are."""

    events: str
    pins: str | None
    users: str | None


def sources_of(run: Run) -> Sources:
    """The configured tables; the built-in world, which is written first, where no events are named."""
    data = run.config.data
    if data.events is not None:
        return Sources(events=data.events, pins=data.pins, users=data.users)
    world = generate(run.config.world, (run.workdir / "world").uri)
    return Sources(events=world.events, pins=world.pins, users=world.users)


def validated(config: RunConfig, sources: Sources) -> ValidationReport:
    """Check the tables against the contract and the features.

    Raises:
        DataError: they are broken, more than `data.max_broken_share` allows.
    """

    def names(features: tuple[Feature, ...]) -> list[str]:
        return [feature.name for feature in features if feature.kind.has_column]

    of_users = names(config.features.user)
    if of_users and sources.users is None:
        raise DataError(
            f"features.user names {of_users[0]!r}, but there is no users table. Set data.users, or drop the feature."
        )
    report = validate_tables(
        events=sources.events,
        pins=sources.pins,
        users=sources.users,
        features={"pins": names(config.features.pin), "users": of_users},
        max_broken_share=config.data.max_broken_share,
    )
    report.raise_if_broken()
    _check_counts(config.features.pin, schema.PINS, sources.pins)
    _check_counts(config.features.user, schema.USERS, sources.users)
    for note in report.notes:
        _log.info("note: %s", note)
    return report


def _check_counts(features: tuple[Feature, ...], table: schema.Table, uri: str | None) -> None:
    """Refuse a count under the name of a column: what is counted from the log would hide it, or be hidden."""
    taken = {*table.by_name, *(_STATE_COLUMNS if table is schema.USERS else ())}
    for file in [] if uri is None else list_files(locate(uri)):
        taken.update(pq.read_schema(file.path, filesystem=file.filesystem).names)
    for feature in features:
        if feature.kind is Kind.COUNT and feature.name in taken:
            raise DataError(
                f"the feature {feature.name!r} is a count, which is taken from the events, but {feature.name!r} is a "
                f"column of the {table.name} table. Give the count another name, or the feature another kind."
            )


def read_pins(sources: Sources) -> pa.Table | None:
    """The canonical pins; None where the log alone names them."""
    return None if sources.pins is None else _read(sources.pins, schema.PINS)


def pins_of(ids: pa.Array) -> pa.Table:
    """Canonical pins that are known by their id alone."""
    return canonical(pa.table({"pin_id": ids}), schema.PINS)


def write_pins_and_people(run: Run, pins: pa.Table, sources: Sources) -> Encoders:
    """Write the pin table, the encoders of both sides, and the raw user rows for the partitions."""
    users = None if sources.users is None else _read(sources.users, schema.USERS)
    features = run.config.features
    encoders = Encoders(
        pin=fit_encoders(pins, features.pin), user=fit_encoders(_NOBODY if users is None else users, features.user)
    )
    write_table(build_pin_table(pins, encoders.pin), run.prepared / prepared.PINS)
    write_bytes(run.prepared / prepared.ENCODERS, encoders.to_bytes())
    if users is not None:
        write_table(build_user_table(users), run.prepared / RAW_USERS)
    return encoders


def _read(uri: str, table: schema.Table) -> pa.Table:
    files = list_files(locate(uri))
    return pa.concat_tables(
        [canonical(pq.read_table(file.path, filesystem=file.filesystem), table) for file in files],
        promote_options="permissive",
    )


def write_users(directory: Location, times: SplitTimes, *, has_users: bool) -> int:
    """Join every partition's user states with the raw user rows; people without events keep their features."""
    files = list_files(directory / STATES, suffix=".parquet")
    states = _with_times(pa.concat_tables([prepared.read_part(file) for file in files]), times)
    if has_users:
        raw = RowTable.open(directory / RAW_USERS)
        silent = pa.table({"user_id": raw.ids.filter(pc.invert(pc.is_in(raw.ids, value_set=states["user_id"])))})
        listed = [name for name in states.column_names if name != "user_id"]
        states = pa.concat_tables([states, silent], promote_options="default")
        rows = raw.rows(states["user_id"])
        for name in raw.table.column_names[1:]:
            column = raw.column(name)
            assert column is not None
            states = states.append_column(name, column.take(pa.array(rows, mask=rows < 0)))
        for name in listed:
            place, kind = states.column_names.index(name), states[name].type
            nothing = pa.scalar([] if pa.types.is_list(kind) else 0, kind)  # of counts: who did nothing
            states = states.set_column(place, name, pc.fill_null(states[name].combine_chunks(), nothing))
    table = build_user_table(states)
    write_table(table, directory / prepared.USERS)
    return int(table.num_rows)


def _with_times(states: pa.Table, times: SplitTimes) -> pa.Table:
    """`history_time` (float64 seconds since the epoch) in place of the age at the end of the training time."""
    age = single_chunk(states["history_age"])
    then = pc.subtract(times.train / MICROSECONDS, age.flatten().cast(pa.float64()))
    place = states.column_names.index("history_age")
    return states.set_column(place, "history_time", pa.ListArray.from_arrays(age.offsets, then))
