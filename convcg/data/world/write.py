"""Writing the built-in world: `pins.parquet`, and a file of events and one of users for each block of users."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from convcg.data.tables import write_parquet
from convcg.data.world.block import draw_block
from convcg.data.world.catalogue import Catalogue, draw_catalogue
from convcg.data.world.config import WorldConfig
from convcg.data.world.tables import events_table, pins_table, users_table
from convcg.storage import Location, delete_directory, locate
from convcg.types import ACTIONS

EVENTS, PINS, USERS = "events", "pins.parquet", "users"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSummary:
    """What was written: where the three tables are, the row counts, and the events by action."""

    events: str
    pins: str
    users: str
    num_events: int
    num_pins: int
    num_users: int
    actions: Mapping[str, int]


def write_world(config: WorldConfig, directory: str) -> WorldSummary:
    """Draw a world and write it into `directory` (local or a bucket), block after block, in this process.

    The directories `events` and `users` in it are replaced.

    Raises:
        StorageError: the files cannot be written.
    """
    catalogue = start_world(config, directory)
    counts = [write_block(config, catalogue, directory, block) for block in range(config.num_blocks)]
    return summarised(config, directory, counts)


def start_world(config: WorldConfig, directory: str) -> Catalogue:
    """Draw and write the catalogue, and clear what another world's blocks may have left in `directory`.

    Raises:
        StorageError: the files cannot be written.
    """
    target = locate(directory)
    delete_directory(target / EVENTS)
    delete_directory(target / USERS)
    catalogue = draw_catalogue(config)
    _write(pins_table(config, catalogue), target / PINS)
    return catalogue


def write_block(config: WorldConfig, catalogue: Catalogue, directory: str, number: int) -> dict[str, int]:
    """Draw one block and write its events and users; returns the number of events by action.

    Raises:
        StorageError: the files cannot be written.
    """
    block = draw_block(config, catalogue, number)
    target, name = locate(directory), f"part-{number:05d}.parquet"
    _write(users_table(config, block.people), target / USERS / name)
    _write(events_table(config, catalogue, block), target / EVENTS / name)
    counts = np.bincount(block.happenings.action, minlength=len(ACTIONS))
    return {action.value: int(count) for action, count in zip(ACTIONS, counts, strict=True)}


def summarised(config: WorldConfig, directory: str, counts: Iterable[Mapping[str, int]]) -> WorldSummary:
    """The summary of a world from what `write_block` returned for each of its blocks."""
    actions = Counter(dict.fromkeys([action.value for action in ACTIONS], 0))
    for of_block in counts:
        actions.update(of_block)
    target = locate(directory)
    return WorldSummary(
        events=(target / EVENTS).uri,
        pins=(target / PINS).uri,
        users=(target / USERS).uri,
        num_events=actions.total(),
        num_pins=config.num_pins,
        num_users=config.num_users,
        actions=dict(actions),
    )


def _write(table: pa.Table, location: Location) -> None:
    # Ids of events are all different, so a dictionary of them only costs.
    repeated = [name for name in table.column_names if name != "event_id"]
    write_parquet(table, location, use_dictionary=repeated)
