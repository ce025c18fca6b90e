"""The work of `prepare` inside Ray's processes: survey and spill stretches of the log, build and finish partitions.

Apart from `prepare`, so that those processes import neither torch nor the command line. The shuffle goes through files:
a stretch of the log becomes one file with a record batch for each partition of users, and a partition reads its
batch of every file. What a process holds is one stretch or one partition, whatever the log's size, and a task that is
run again writes the same content.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convcg import schema
from convcg.data import prepared
from convcg.data.canonical import canonical, cast
from convcg.data.caps import final_weights, stays
from convcg.data.event_codes import advertiser_numbers, encode_events
from convcg.data.feature_encoders import FeatureEncoder
from convcg.data.log import ENCODED_EVENTS
from convcg.data.partition import Partition, PartitionConfig, build_partition
from convcg.data.quarantine import sound_rows
from convcg.data.survey import Fact, survey_block
from convcg.data.tables import RowTable, write_batches
from convcg.data.text_hash import text_hash
from convcg.errors import DataError
from convcg.storage import Location, locate
from convcg.types import Task

#: The part of the prepared directory that holds what is deleted at the end.
UNFINISHED = "unfinished"
SPILLED = "unfinished/spilled"
STATES = "unfinished/states"
COUNTS = "unfinished/counts"
PIN_DAYS = "unfinished/pin_days"
RAW_USERS = "unfinished/users.arrow"
#: Examples are mixed once within their partition, always in the same way; training mixes them again.
_SHUFFLE_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some rows of one file of events: its URI, and the row groups `first` <= g < `end`. Counted from 0."""

    number: int
    file: str
    first: int
    end: int

    def blocks(self, rows: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The raw rows in blocks of about `rows`, those of `columns` that are there.

        Raises:
            DataError: the file cannot be read.
        """
        location = locate(self.file)
        try:
            with location.filesystem.open_input_file(location.path) as source:
                reader = pq.ParquetFile(source, page_checksum_verification=True)
                present = [name for name in reader.schema_arrow.names if name in columns]
                for batch in reader.iter_batches(rows, row_groups=range(self.first, self.end), columns=present):
                    yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read {self.file}: {error}. Write the file again, or leave it out.") from error


def stretches(files: Sequence[Location], rows: int) -> list[Stretch]:
    """All files in stretches of about `rows` rows, or one row group where that is larger."""
    found: list[Stretch] = []
    for file in files:
        metadata = pq.read_metadata(file.path, filesystem=file.filesystem)
        first, held = 0, 0
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).num_rows
            if held and held + size > rows:
                found.append(Stretch(number=len(found), file=file.uri, first=first, end=group))
                first, held = group, 0
            held += size
        if held:
            found.append(Stretch(number=len(found), file=file.uri, first=first, end=metadata.num_row_groups))
    return found


#: What `spill` reports beside the survey: a file that it wrote.
FILE = "file"


def distinct_pins(stretch: Stretch, *, rows: int, quarantined_at: float | None) -> pa.Table:
    """The distinct pins of a stretch: one column pin_id. For users who know pins by their id alone."""
    column = schema.EVENTS.by_name["pin_id"]
    found: list[pa.Array] = []
    for block in stretch.blocks(rows, ["pin_id"] if quarantined_at is None else list(schema.EVENTS.by_name)):
        if quarantined_at is not None:
            block, _ = sound_rows(block, None, now=quarantined_at)
        found = [pc.unique(pa.chunked_array([*found, pc.unique(cast(block["pin_id"], column))], column.type))]
    return pa.table({"pin_id": pa.chunked_array(found, column.type)})


def spill(
    stretch: Stretch,
    *,
    rows: int,
    directory: Location,
    num_partitions: int,
    seen_until: int | None,
    quarantined_at: float | None,
    has_pins: bool,
) -> pa.Table:
    """Write a stretch's encoded events as files with a record batch a partition; broken rows are set aside.

    Returns the rows of `convcg.data.survey.survey_block`, and with the fact `FILE` what was written, the name in
    column `text`.
    """
    pins = RowTable.open(directory / prepared.PINS)
    found, waiting, broken = [], [], []
    for block in stretch.blocks(rows, list(schema.EVENTS.by_name)):
        if quarantined_at is not None:
            block, rejected = sound_rows(block, pins.ids if has_pins else None, now=quarantined_at)
            broken.append(rejected)
        sound = canonical(block, schema.EVENTS)
        found.append(survey_block(sound, seen_until))
        events = encode_events(sound, pins)
        if seen_until is not None:
            events = events.filter(pc.less(events["known"], seen_until))
        waiting.append(events)
        if sum(each.num_rows for each in waiting) >= rows:
            found.append(_fact(FILE, _write_spilled(waiting, directory, num_partitions)))
            waiting = []
    if waiting:
        found.append(_fact(FILE, _write_spilled(waiting, directory, num_partitions)))
    if num_broken := sum(table.num_rows for table in broken):
        prepared.write_part(pa.concat_tables(broken), directory, prepared.QUARANTINE, stretch.number)
        found.append(_fact(Fact.BROKEN.value, count=num_broken))
    return pa.concat_tables(found, promote_options="default")


def _fact(fact: str, text: str | None = None, count: int = 1) -> pa.Table:
    return pa.table({"fact": [fact], "text": pa.array([text], pa.string()), "count": pa.array([count], pa.int64())})


def _write_spilled(encoded: list[pa.Table], directory: Location, num_partitions: int) -> str:
    events = pa.concat_tables(encoded).combine_chunks()
    partition = (text_hash(events["user_id"]) % num_partitions).astype(np.int32)
    order = np.argsort(partition, kind="stable")
    events = events.take(pa.array(order)).combine_chunks()
    borders = np.searchsorted(partition[order], np.arange(num_partitions + 1))
    name = f"{uuid.uuid4().hex}.arrow"
    bounds = zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)
    batches = (_one_batch(events.slice(first, end - first)) for first, end in bounds)
    write_batches(batches, ENCODED_EVENTS, directory / SPILLED / name, compression="lz4")
    return name


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def build(
    partition: int,
    *,
    directory: Location,
    spilled: Sequence[str],
    config: PartitionConfig,
    encoders: tuple[FeatureEncoder, ...],
    has_users: bool,
) -> pa.Table:
    """Write what comes of one partition of users; returns one row: its tally, and how many rows each
    table has (`rows.TABLE`)."""
    users = RowTable.open(directory / RAW_USERS) if has_users else None
    advertiser_N = advertiser_numbers(RowTable.open(directory / prepared.PINS))
    events = pa.concat_tables([_batch(directory / SPILLED / name, partition) for name in spilled])
    built = build_partition(events, advertiser_N, config, users, encoders)
    for name, table in _tables(built).items():
        prepared.write_part(table, directory, name, partition)
    if config.pin_counts:
        prepared.write_part(built.pin_days, directory, PIN_DAYS, partition)
    rows = {f"rows.{name.rsplit('/', 1)[-1]}": float(table.num_rows) for name, table in _tables(built).items()}
    return pa.table({name: [float(count)] for name, count in (rows | built.tally).items()})


def _tables(built: Partition) -> dict[str, pa.Table]:
    return {
        prepared.PEOPLE: built.people,
        prepared.ACTIONS: built.actions,
        prepared.REQUESTS: built.requests,
        f"{UNFINISHED}/{Task.CONVERSION}": built.conversion,
        f"{UNFINISHED}/{Task.ENGAGEMENT}": built.engagement,
        prepared.VALIDATION: built.validation,
        prepared.TEST: built.test,
        STATES: built.states,
        COUNTS: built.counts,
    }


def _batch(file: Location, partition: int) -> pa.Table:
    with file.filesystem.open_input_file(file.path) as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(partition)])


def finish(
    partition: int, *, directory: Location, share_N: Any, click_weight: float, mean_dwell_weight: float
) -> pa.Table:
    """Thin a partition's examples to the caps and give them their final weights.

    Returns how many targets are left by pin: columns task, pin, count.
    """
    requests = prepared.read_part(prepared.part_file(directory, prepared.REQUESTS, partition), ["time"])
    left = []
    for task in Task:
        examples = prepared.read_part(prepared.part_file(directory, f"{UNFINISHED}/{task}", partition))
        time = requests["time"].to_numpy()[examples["request"].to_numpy()]
        target = examples["target"].to_numpy()
        weight = final_weights(examples, click_weight, mean_dwell_weight)
        kept = np.flatnonzero(stays(time, target, share_N))
        kept = kept[np.random.default_rng(_SHUFFLE_SEED).permutation(len(kept))]
        place = examples.column_names.index("weight")
        examples = examples.set_column(place, "weight", pa.array(weight)).drop_columns(["dwell_weight"])
        examples = examples.append_column(prepared.PARTITION, pa.array(np.full(len(target), partition, np.int32)))
        prepared.write_part(examples.take(pa.array(kept)), directory, task.value, partition)
        pin, count = np.unique(target[kept], return_counts=True)
        left.append(pa.table({"task": pa.array([task.value] * len(pin), pa.string()), "pin": pin, "count": count}))
    return pa.concat_tables(left)
