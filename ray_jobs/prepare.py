"""`convcg prepare`: events, pins and users to point-in-time examples and tables, with Ray Data.

python -m ray_jobs.prepare --recipe demo --workdir runs/demo
"""

import logging
import sys
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from convcg import schema
from convcg.config import RunConfig
from convcg.data import prepared
from convcg.data.canonical import canonical, cast
from convcg.data.examples import SplitTimes
from convcg.data.feature_encoders import Encoders, fit_encoders
from convcg.data.partition import PartitionConfig
from convcg.data.tables import RowTable, build_pin_table, build_user_table, write_table
from convcg.data.validate import validate_tables
from convcg.data.world import write_world
from convcg.errors import DataError
from convcg.features import Feature, Kind
from convcg.log import progress
from convcg.storage import delete_directory, list_files, locate, write_bytes
from ray_jobs.partitions import RAW_USERS, USER_STATES, distinct_pins, encode_block, write_partition
from ray_jobs.run import Run, Stage, stage_main, summary_of

_log = logging.getLogger(__name__)


def work(run: Run) -> None:
    """Validate, then build everything of `convcg.data.prepared` in `run.prepared`."""
    sources = _sources(run)
    report = validate_tables(
        events=sources.events, pins=sources.pins, users=sources.users, features=_columns_read(run.config)
    )
    report.raise_if_broken()
    for note in report.notes:
        _log.info("note: %s", note)
    delete_directory(run.prepared)
    encoders = _write_tables(run, sources)
    times = _split_times(run, sources)
    counts = _write_partitions(run, sources, encoders, times)
    summary = prepared.Summary(
        num_pins=len(RowTable.open(run.prepared / prepared.PINS)),
        num_users=_write_users(run, sources),
        num_events=report.rows["events"],
        num_train=counts[prepared.TRAIN],
        num_validation=counts[prepared.VALIDATION],
        num_test=counts[prepared.TEST],
        times=times,
        notes=report.notes,
    )
    delete_directory(run.prepared / USER_STATES)
    if summary.num_train == 0 or summary.num_test == 0:
        raise DataError(
            f"the split leaves {summary.num_train} training examples and {summary.num_test} test queries; both must be "
            "there. Check split.validation_days, split.test_days and the events' time range and actions."
        )
    write_bytes(run.prepared / prepared.SUMMARY, summary.to_bytes())
    _log.info(
        "prepared %d examples, %d test queries, %d pins, %d users",
        summary.num_train, summary.num_test, summary.num_pins, summary.num_users,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Where the three tables are."""

    events: str
    pins: str | None
    users: str | None


def _sources(run: Run) -> _Sources:
    """The configured tables; the built-in world, which is written first, where no events are named."""
    data = run.config.data
    if data.events is not None:
        return _Sources(events=data.events, pins=data.pins, users=data.users)
    world = write_world(run.config.world, (run.workdir / "world").uri)
    return _Sources(events=world.events, pins=world.pins, users=world.users)


def _columns_read(config: RunConfig) -> dict[str, list[str]]:
    def names(features: tuple[Feature, ...]) -> list[str]:
        return [feature.name for feature in features if feature.kind is not Kind.ID]

    return {"pins": names(config.features.pin), "users": names(config.features.user)}


def _write_tables(run: Run, sources: _Sources) -> Encoders:
    """The pin table, the raw user rows and the encoders that were fitted on both."""
    pins = _read(sources.pins, schema.PINS) if sources.pins else _pins_of_events(sources.events)
    users = _read(sources.users, schema.USERS) if sources.users else None
    features = run.config.features
    if features.user and users is None:
        raise DataError(
            f"features.user names {features.user[0].name!r}, but there is no users table. "
            "Set data.users, or drop the feature."
        )
    encoders = Encoders(
        pin=fit_encoders(pins, features.pin), user=() if users is None else fit_encoders(users, features.user)
    )
    write_table(build_pin_table(pins, encoders.pin), run.prepared / prepared.PINS)
    write_bytes(run.prepared / prepared.ENCODERS, encoders.to_bytes())
    if users is not None:
        write_table(build_user_table(users), run.prepared / USER_STATES / RAW_USERS)
    return encoders


def _read(uri: str | None, table: schema.Table) -> pa.Table:
    files = list_files(locate(str(uri)))
    return pa.concat_tables(
        [canonical(pq.read_table(file.path, filesystem=file.filesystem), table) for file in files],
        promote_options="permissive",
    )


def _pins_of_events(events: str) -> pa.Table:
    """The distinct pins of a log, for users who know pins by their id alone."""
    found = (
        ray.data.read_parquet(_paths(events), **_filesystem(events))
        .select_columns(["pin_id"])
        .map_batches(distinct_pins, batch_format="pyarrow", batch_size=None)
    )
    ids = pa.chunked_array([pc.unique(batch["pin_id"]) for batch in found.iter_batches(batch_format="pyarrow")])
    return canonical(pa.table({"pin_id": pc.unique(ids)}), schema.PINS)


def _paths(uri: str) -> list[str]:
    return [file.path for file in list_files(locate(uri))]


def _filesystem(uri: str) -> dict[str, Any]:
    location = locate(uri)
    return {} if location.is_local else {"filesystem": location.filesystem}


def _split_times(run: Run, sources: _Sources) -> SplitTimes:
    column = schema.EVENTS.by_name["timestamp"]
    last = 0
    for file in list_files(locate(sources.events)):
        times = pq.read_table(file.path, filesystem=file.filesystem, columns=[column.name])[column.name]
        last = max(last, pc.max(cast(times, column).cast(pa.int64())).as_py() or 0)
    return SplitTimes.of(last, run.config.split)


def _write_partitions(run: Run, sources: _Sources, encoders: Encoders, times: SplitTimes) -> dict[str, int]:
    """Shuffle the events into partitions of whole users and write what comes of each; returns rows by part."""
    events, num_partitions = sources.events, run.config.data.num_partitions
    written = (
        ray.data.read_parquet(_paths(events), **_filesystem(events))
        .map_batches(
            encode_block,
            fn_kwargs={"pins": run.prepared / prepared.PINS, "num_partitions": num_partitions},
            batch_format="pyarrow",
            batch_size=None,
        )
        .groupby("partition", num_partitions=num_partitions)
        .map_groups(
            write_partition,
            fn_kwargs={
                "directory": run.prepared,
                "config": PartitionConfig(times=times, examples=run.config.examples, history=run.config.history),
                "encoders": encoders.user,
                "has_users": sources.users is not None,
            },
            batch_format="pyarrow",
        )
    )
    counts = dict.fromkeys((prepared.TRAIN, prepared.VALIDATION, prepared.TEST), 0)
    with progress("partitions of users", total=num_partitions) as meter:
        for row in written.iter_rows():
            counts = {part: count + row[part] for part, count in counts.items()}
            meter.advance()
    return counts


def _write_users(run: Run, sources: _Sources) -> int:
    """Join every partition's user states with the raw user rows; people without events keep their features."""
    files = list_files(run.prepared / USER_STATES, suffix=".parquet")
    states = pa.concat_tables([pq.read_table(file.path, filesystem=file.filesystem) for file in files])
    if sources.users is not None:
        raw = RowTable.open(run.prepared / USER_STATES / RAW_USERS)
        silent = pa.table({"user_id": raw.ids.filter(pc.invert(pc.is_in(raw.ids, value_set=states["user_id"])))})
        states = pa.concat_tables([states, silent], promote_options="default")
        rows = raw.rows(states["user_id"])
        for name in raw.table.column_names[1:]:
            column = raw.column(name)
            assert column is not None
            states = states.append_column(name, column.take(pa.array(rows, mask=rows < 0)))
        for name in ("history_pin", "history_action", "history_surface", "history_time", "purchased"):
            place = states.column_names.index(name)
            filled = pc.fill_null(states[name].combine_chunks(), pa.scalar([], states[name].type))
            states = states.set_column(place, name, filled)
    table = build_user_table(states)
    write_table(table, run.prepared / prepared.USERS)
    return int(table.num_rows)


STAGE = Stage(
    name="prepare",
    parts=("data", "world", "split", "history", "examples", "features"),
    after=(),
    work=work,
    output=lambda run: run.prepared / prepared.SUMMARY,
    reads_tables=True,
)
main = stage_main(STAGE.execute, name="prepare", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
