"""Held-out conversions as questions: to the retriever, to a baseline, to the built-in world's oracle."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.baselines import Histories
from convcg.data import prepared
from convcg.data.feature_encoders import PREFIX
from convcg.data.prepared import Prepared
from convcg.data.split import MICROSECONDS
from convcg.data.tables import RowTable
from convcg.data.world import Asked
from convcg.retriever.eligibility import Eligibility
from convcg.retriever.people import People
from convcg.retriever.policy import RetrievalConfig
from convcg.types import ACTIONS, SURFACES, HistoryEvent, Request
from convcg.validation import lists


def test_queries(data: Prepared, limit: int | None) -> pa.Table:
    """The held-out queries: see `convcg.data.partition`. `limit` takes that many, evenly spaced."""
    table = data.queries(prepared.TEST)
    if limit is None or table.num_rows <= limit:
        return table.combine_chunks()
    spaced = np.linspace(0, table.num_rows - 1, limit).astype(np.int64)
    return table.take(pa.array(spaced)).combine_chunks()


def as_served(queries: pa.Table, retrieval: RetrievalConfig) -> pa.Table:
    """The queries without the purchases that their surface's policy does not leave out."""
    excludes = np.array([retrieval.policy(surface).exclude_purchased for surface in SURFACES])
    left_out = pa.array(excludes[queries["surface"].to_numpy()])
    purchased = queries["purchased"].combine_chunks()
    place = queries.column_names.index("purchased")
    return queries.set_column(place, "purchased", pc.if_else(left_out, purchased, pa.scalar([], purchased.type)))


def requests(queries: pa.Table, pins: RowTable, *, k: int, counts: Sequence[str] = ()) -> Iterator[Request]:
    """Each held-out query as the request that a client would have sent at that time, with the person's counts of that
    day: `counts` names the user features that count.
    """
    for row in queries.to_pylist():
        then = row["time"] / MICROSECONDS
        columns = ("history_pin", "history_action", "history_surface", "history_age", "history_dwell")
        events = zip(*(row[name] for name in columns), strict=True)
        yield Request(
            surface=SURFACES[row["surface"]],
            k=k,
            user_id=row["user_id"],
            user_features={name: round(math.expm1(row[PREFIX + name])) for name in counts},
            history=tuple(
                HistoryEvent(
                    pin_id=pins.ids[pin].as_py(),
                    action=ACTIONS[action],
                    surface=SURFACES[surface] if surface >= 0 else None,
                    timestamp=then - age,
                    dwell_seconds=None if math.isnan(dwell) else dwell,
                )
                for pin, action, surface, age, dwell in events
            ),
            subject_pin_id=pins.ids[row["subject_pin"]].as_py() if row["subject_pin"] >= 0 else None,
            query=row["query"],
            exclude_pin_ids=tuple(pins.ids[pin].as_py() for pin in row["purchased"]),
            timestamp=then,
        )


class Eligible:
    """Which pins a query may be answered with: on its surface, in the person's country, in stock, not its subject."""

    def __init__(self, pins: RowTable, users: RowTable) -> None:
        self._num_pins, self._eligibility, self._people = len(pins), Eligibility(pins), People(users)

    def __call__(self, queries: pa.Table) -> NDArray[np.bool_]:
        """[B, N] bool, as the retriever decides it."""
        allowed_BN = np.ones((queries.num_rows, self._num_pins), bool)
        asked = zip(queries["user_id"].to_pylist(), queries["surface"].to_pylist(), strict=True)
        for row, (user_id, surface) in enumerate(asked):
            country = self._people.country(self._people.row(user_id))
            mask = self._eligibility.mask(self._eligibility.rule(SURFACES[surface], country, {}))
            if mask is not None:
                allowed_BN[row] = mask
        subject = queries["subject_pin"].to_numpy()
        allowed_BN[np.flatnonzero(subject >= 0), subject[subject >= 0]] = False
        return allowed_BN


def histories(queries: pa.Table) -> Histories:
    """What a baseline is shown of some queries."""
    return Histories(pins=lists(queries["history_pin"]), actions=lists(queries["history_action"]))


def asked_of_world(queries: pa.Table, pins: RowTable) -> Asked:
    """What the oracle is shown of some queries."""
    subject = queries["subject_pin"].to_numpy()
    subject_ids = pins.ids.take(pa.array(np.maximum(subject, 0), mask=subject < 0))
    return Asked(
        user_id=queries["user_id"].to_pylist(),
        time=queries["time"].to_numpy() / MICROSECONDS,
        surface=queries["surface"].to_numpy(),
        subject_pin_id=subject_ids.to_pylist(),
        query=queries["query"].to_pylist(),
    )
