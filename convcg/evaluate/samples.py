"""A few test queries to look at: who asked, what the model brings, and where the pin that was bought stands."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from convcg.data.feature_encoders import PREFIX
from convcg.data.tables import RowTable
from convcg.evaluate.queries import requests
from convcg.metrics import NOT_RETRIEVED
from convcg.retriever.retriever import Retriever
from convcg.types import ACTIONS, SURFACES

_NUM_SAMPLES, _NUM_CANDIDATES, _NUM_ACTIONS = 8, 10, 20
_DAY_SECONDS = 86_400


def samples(
    retriever: Retriever, queries: pa.Table, pins: RowTable, rank: NDArray[np.int64], *, counts: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Up to 8 queries of different people, spread over the surfaces, as plain types.

    Each: user_id, surface, time (microseconds since the epoch), query, subject (a pin or None), history (the latest 20
    actions, latest first: action, days_ago, pin), candidates (10: score, pin), target (a pin) and the target's rank
    (None where it was not retrieved). A pin is its row's plain columns: no lists, and no encoded features.
    """
    chosen = _spread(queries["surface"].to_numpy(), queries["user_id"].to_pylist())
    asked = queries.take(pa.array(chosen, pa.int64()))
    answers = retriever.retrieve(list(requests(asked, pins, k=_NUM_CANDIDATES, counts=counts)))
    shown = _Pins(pins)
    found = []
    for row, answer, place in zip(asked.to_pylist(), answers, rank[chosen].tolist(), strict=True):
        history = list(zip(row["history_action"], row["history_age"], row["history_pin"], strict=True))
        found.append(
            {
                "user_id": row["user_id"],
                "surface": SURFACES[row["surface"]].value,
                "time": row["time"],
                "query": row["query"],
                "subject": shown.pin(row["subject_pin"]) if row["subject_pin"] >= 0 else None,
                "history": [
                    {"action": ACTIONS[action].value, "days_ago": round(age / _DAY_SECONDS, 3), "pin": shown.pin(pin)}
                    for action, age, pin in reversed(history[-_NUM_ACTIONS:])
                ],
                "candidates": [
                    {"score": candidate.score, "pin": shown.pin_of_id(candidate.pin_id)}
                    for candidate in answer.candidates
                ],
                "target": shown.pin(row["target"]),
                "rank": place if place != NOT_RETRIEVED else None,
            }
        )
    return found


def _spread(surface: NDArray[np.integer], user: Sequence[str]) -> list[int]:
    """Positions of queries: each surface's in turn, those of a surface evenly spaced, no person twice."""
    turns = []
    for code in np.unique(surface):
        own = np.flatnonzero(surface == code)
        spaced = own[np.unique(np.linspace(0, len(own) - 1, 4 * _NUM_SAMPLES).astype(np.int64))]
        # From the middle outwards in steps, so that the first few lie far apart.
        turns.append(spaced[np.argsort(np.arange(len(spaced)) % 4, kind="stable")].tolist())
    in_turn = [turn[place] for place in range(4 * _NUM_SAMPLES) for turn in turns if place < len(turn)]
    first_of_user = {user[position]: position for position in reversed(in_turn)}
    return [position for position in in_turn if first_of_user[user[position]] == position][:_NUM_SAMPLES]


class _Pins:
    """Rows of the pin table as plain types that JSON knows."""

    def __init__(self, pins: RowTable) -> None:
        plain = [
            column.name
            for column in pins.table.schema
            if not pa.types.is_nested(column.type) and not column.name.startswith(PREFIX)
        ]
        self._pins, self._plain = pins, pins.table.select(plain)

    def pin(self, row: int) -> dict[str, Any]:
        [values] = self._plain.slice(row, 1).to_pylist()
        return {name: _plain(value) for name, value in values.items()}

    def pin_of_id(self, pin_id: str) -> dict[str, Any]:
        row = self._pins.row(pin_id)
        assert row is not None, "the retriever names pins of its own catalogue"
        return self.pin(row)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
