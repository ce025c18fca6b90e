"""What the bundle's user table knows of the person who asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from convcg.data.tables import RowTable


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a person did, oldest first; one entry an action. `time` is in seconds since the epoch, `dwell` in seconds,
    NaN where it is not known.
    """

    pin: NDArray[np.int32]
    action: NDArray[np.int8]
    surface: NDArray[np.int8]
    time: NDArray[np.float64]
    dwell: NDArray[np.float32]


class _Lists:
    """A column of lists as slices of one array: far cheaper to read a row of than through Arrow's scalars."""

    def __init__(self, column: pa.Array) -> None:
        self._offsets = np.asarray(column.offsets)
        self._values = np.asarray(column.values)

    def __getitem__(self, row: int) -> NDArray[Any]:
        """The list of one row; an empty one for row -1."""
        return self._values[self._offsets[row] : self._offsets[row + 1]] if row >= 0 else self._values[:0]


class People:
    """The user table, by row; row -1 is a person whom it does not know."""

    def __init__(self, users: RowTable) -> None:
        self._users = users
        lists = {}
        for name in ("history_pin", "history_action", "history_surface", "history_time", "history_dwell", "purchased"):
            column = users.column(name)
            assert column is not None, f"the user table was built without {name!r}"
            lists[name] = _Lists(column)
        self._lists = lists

    def row(self, user_id: str | None) -> int:
        """The row of a person."""
        row = None if user_id is None else self._users.row(user_id)
        return -1 if row is None else row

    def history(self, row: int) -> History:
        """What the person did up to the end of the training time."""
        return History(
            pin=self._lists["history_pin"][row],
            action=self._lists["history_action"][row],
            surface=self._lists["history_surface"][row],
            time=self._lists["history_time"][row],
            dwell=self._lists["history_dwell"][row],
        )

    def purchased(self, row: int) -> list[int]:
        """The pins that the person checked out up to then."""
        rows: list[int] = self._lists["purchased"][row].tolist()
        return rows

    def country(self, row: int) -> str | None:
        """The person's country; None where it is not known."""
        column = self._users.column("country")
        if row < 0 or column is None:
            return None
        country: str | None = column[row].as_py()
        return country

    def take(self, name: str, rows: Sequence[int]) -> pa.Array:
        """A column's values at `rows`, null at -1."""
        column = self._users.column(name)
        assert column is not None, f"the user table was built without the feature {name!r}"
        return column.take(pa.array([None if row < 0 else row for row in rows], pa.int64()))
