"""The work of `prepare` inside Ray's processes: encode blocks of events, build and write partitions of users.

Apart from `prepare`, so that those processes import neither torch nor the command line.
"""

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convcg import schema
from convcg.data import prepared
from convcg.data.canonical import canonical, cast
from convcg.data.feature_encoders import FeatureEncoder
from convcg.data.partition import ENCODED_EVENTS, PartitionConfig, build_partition, distinct_events, encode_events
from convcg.data.tables import RowTable
from convcg.storage import Location

#: The part of the prepared directory that holds what `prepare` joins into the user table, and then deletes.
USER_STATES = "user_states"
RAW_USERS = "raw.arrow"


def distinct_pins(block: pa.Table) -> pa.Table:
    """The distinct pins of a block of events, as one column `pin_id`."""
    return pa.table({"pin_id": pc.unique(cast(block["pin_id"], schema.EVENTS.by_name["pin_id"]))})


def encode_block(block: pa.Table, pins: Location, num_partitions: int) -> pa.Table:
    """Encoded events with the partition that their user belongs to."""
    rows = canonical(block, schema.EVENTS)
    events = encode_events(rows, RowTable.open(pins)).append_column("event_id", rows["event_id"])
    ids = pc.dictionary_encode(events["user_id"].combine_chunks())
    # CRC-32 is stable across processes, which Python's own hash is not.
    of_user = np.array([zlib.crc32(user.encode()) % num_partitions for user in ids.dictionary.to_pylist()], np.int32)
    return events.append_column("partition", pa.array(of_user[np.asarray(ids.indices)]))


def write_partition(
    group: pa.Table, directory: Location, config: PartitionConfig, encoders: tuple[FeatureEncoder, ...], has_users: bool
) -> pa.Table:
    """Write what comes of one partition; all that is returned is how much that was."""
    partition = group["partition"][0].as_py()
    users = RowTable.open(directory / USER_STATES / RAW_USERS) if has_users else None
    events = distinct_events(group).select(ENCODED_EVENTS.names).cast(ENCODED_EVENTS)
    built = build_partition(events, config, users, encoders)
    parts = {
        prepared.TRAIN: built.train,
        prepared.VALIDATION: built.validation,
        prepared.TEST: built.test,
        prepared.INTERACTIONS: built.interactions,
        USER_STATES: built.users,
    }
    for name, table in parts.items():
        prepared.write_part(table, directory, name, partition)
    return pa.table({name: [table.num_rows] for name, table in parts.items()})
