"""Ranks as `convcg evaluate` leaves them, drawn with a chance of finding the target that a test plants."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NOT_RETRIEVED = np.iinfo(np.int64).max
SURFACES = ("home_feed", "related_pins", "search")
MOST = 1000


def ranks(
    recalls: Mapping[str, float], *, seed: int = 0, num_users: int = 400, per_user: int = 3, first_time: int = 0
) -> pa.Table:
    """A table whose systems find the target among 100 with these chances. All draw from the same numbers, one a query
    and `seed`: a system with a larger chance finds all that one with a smaller chance finds.
    """
    size = num_users * per_user
    user = np.repeat(np.arange(num_users), per_user)
    hard = np.random.default_rng(seed).random(size)
    surface = np.array(SURFACES)[np.arange(size) % 3]
    columns = {
        "user_id": [f"user_{number}" for number in user],
        "time": np.arange(size) + first_time,
        "target": (np.arange(size) % 97).astype(np.int32),
        "surface": surface,
        "action": ["checkout"] * size,
        "slice:surface": surface,
    }
    for system, recall in recalls.items():
        rank = np.floor(100 * hard / recall).astype(np.int64) + 1
        columns[f"rank:{system}"] = np.where(rank > MOST, NOT_RETRIEVED, rank)
        columns[f"served:{system}"] = np.maximum(rank // 2, 1)
    return pa.table(columns)


def leave(workdir: Path, table: pa.Table) -> Path:
    """Write the ranks into a workdir, in an order that says nothing."""
    workdir.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(7).permutation(table.num_rows)
    pq.write_table(table.take(order), workdir / "ranks.parquet")
    return workdir


def seeds(directory: Path, recalls: list[float], **changed: int) -> Path:
    """A run of several seeds, whose models find the target among 100 with these chances."""
    for seed, recall in enumerate(recalls):
        leave(directory / f"seed-{seed}", ranks({"model": recall, "popularity": 0.1}, seed=seed, **changed))
    return directory
