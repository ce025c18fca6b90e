"""Runs as they were measured: the ranks that `convcg evaluate` leaves, of one workdir or of the seeds of one setting.

A run is a workdir with `ranks.parquet`, or a directory whose `seed-*` directories are such workdirs.

Shape suffixes: S seeds, B queries.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from convcg.errors import ConfigError, DataError, StorageError
from convcg.storage import Location, exists, list_directories, locate

#: The file in a workdir: one row a test query.
RANKS = "ranks.parquet"
_SEED = "seed-"
_KEY = ("user_id", "time", "target")
_RANK, _SLICE = "rank:", "slice:"

Table: TypeAlias = pa.Table
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run's ranks: a table for each seed, and the workdir that it was read from. `name` is what tables call it."""

    name: str
    places: tuple[Location, ...]
    tables: tuple[Table, ...]

    @property
    def num_queries(self) -> int:
        """How many queries were asked."""
        return int(self.tables[0].num_rows)

    @property
    def users(self) -> list[str]:
        """[B] who asked."""
        users: list[str] = self.tables[0]["user_id"].to_pylist()
        return users

    @property
    def systems(self) -> list[str]:
        """What was measured: the model, then the baselines; those of the first seed's table, in its order."""
        return [name.removeprefix(_RANK) for name in self.tables[0].column_names if name.startswith(_RANK)]

    @property
    def slices(self) -> list[str]:
        """By what the queries can be told apart."""
        return [name.removeprefix(_SLICE) for name in self.tables[0].column_names if name.startswith(_SLICE)]

    def slice_values(self, name: str) -> NDArray[np.object_]:
        """[B] strings: each query's value of a slice.

        Raises:
            ConfigError: there is no such slice.
        """
        if name not in self.slices:
            raise ConfigError(f"{self.name} has no slice {name!r}. Slices: {', '.join(self.slices) or 'none'}.")
        values: NDArray[np.object_] = self.tables[0][_SLICE + name].to_numpy()
        return values

    def hits(self, system: str, k: int, *, measure: str = "rank") -> NDArray[np.float64]:
        """[S, B] 1.0 where the target's rank is at most k, of the seeds that have measured the system.

        `measure` is `rank` (in the whole catalogue) or `served` (among served pins alone).

        Raises:
            ConfigError: no seed has.
        """
        column = f"{measure}:{system}"
        found = [table[column].to_numpy() <= k for table in self.tables if column in table.column_names]
        if not found:
            raise ConfigError(f"{self.name} has not measured {system!r}. It has: {', '.join(self.systems)}.")
        return np.stack(found).astype(np.float64)


def read_measured(argument: str) -> Measured:
    """The run that `path` or `name=path` names, its queries in an order that all runs share.

    Raises:
        ConfigError: there is no run at that place.
        DataError: its ranks are not what `convcg evaluate` writes, or its seeds were asked different queries.
        StorageError: its ranks cannot be read.
    """
    name, separator, path = argument.partition("=")
    if not separator or "/" in name:  # the = of a URI's options stands behind a /
        name, path = "", argument
    location = locate(path)
    places = [location] if exists(location / RANKS) else _seeds(location)
    if not places:
        raise ConfigError(
            f"{location.uri} is no measured run: neither {RANKS} nor a {_SEED}* directory with one is there. "
            "Run `convcg evaluate` or `convcg pipeline` with this workdir, or check the path."
        )
    return measured(name or location.name, places)


def measured(name: str, places: Sequence[Location]) -> Measured:
    """The run whose seeds were measured in these workdirs.

    Raises:
        DataError, StorageError: as `read_measured`.
    """
    tables = tuple(_read(place / RANKS) for place in places)
    run = Measured(name=name, places=tuple(places), tables=tables)
    odd = [place.uri for place, table in zip(places, tables, strict=True) if not _same_queries(table, run)]
    if odd:
        raise DataError(f"{', '.join(odd)} was asked other queries than {places[0].uri}. {_REMEDY}")
    return run


_REMEDY = "Compare runs with the same data, split, history and evaluate.max_queries only."


def read_aligned(arguments: Sequence[str]) -> list[Measured]:
    """The runs that the arguments name, all asked the same queries, in the same order.

    Raises:
        ConfigError: two have the same name, or one is no run.
        DataError, StorageError: as `read_measured`; some were asked other queries than the first.
    """
    runs = [read_measured(argument) for argument in arguments]
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"more than one run is named {', '.join(twice)}. Give them names: name=path.")
    check_aligned(runs)
    return runs


def check_aligned(runs: Sequence[Measured]) -> None:
    """Make sure that all were asked the queries that the first was asked.

    Raises:
        DataError: some were not; it says which, and how many queries they share with the first.
    """
    first = runs[0]
    odd = [
        f"{run.name} ({run.num_queries:,} queries, {_num_shared(run.tables[0], first.tables[0]):,} of them the same)"
        for run in runs[1:]
        if not _same_queries(run.tables[0], first)
    ]
    if odd:
        raise DataError(
            f"asked other queries than {first.name} ({first.num_queries:,} queries): {'; '.join(odd)}. {_REMEDY}"
        )


def _seeds(location: Location) -> list[Location]:
    seeds = [place for place in list_directories(location) if place.name.startswith(_SEED)]
    seeds.sort(key=lambda place: (len(place.name), place.name))  # seed-10 comes after seed-9
    missing = [place.name for place in seeds if not exists(place / RANKS)]
    if missing and len(missing) < len(seeds):
        _log.warning("%s: %s left out, not measured yet", location.uri, ", ".join(missing))
    return [place for place in seeds if place.name not in missing]


def _read(location: Location) -> Table:
    try:
        table = pq.read_table(location.path, filesystem=location.filesystem)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {location.uri}: {error}. Run `convcg evaluate` again.") from error
    missing = [name for name in (*_KEY, f"{_RANK}model") if name not in table.column_names]
    if missing or not table.num_rows:
        what = f"has no column {', '.join(missing)}" if missing else "has no queries"
        raise DataError(f"{location.uri} {what}. Run `convcg evaluate` again with this version of convcg.")
    more = [name for name in ("surface", "action") if name in table.column_names]
    return table.sort_by([(name, "ascending") for name in (*_KEY, *more)]).combine_chunks()


def _same_queries(table: Table, run: Measured) -> bool:
    first = run.tables[0]
    if table.num_rows != first.num_rows:
        return False
    return all(bool(pc.all(pc.equal(table[name], first[name])).as_py()) for name in _KEY)


def _num_shared(table: Table, other: Table) -> int:
    keys = [each.select(list(_KEY)).group_by(list(_KEY)).aggregate([]) for each in (table, other)]
    return int(keys[0].join(keys[1], keys=list(_KEY), join_type="left semi").num_rows)
