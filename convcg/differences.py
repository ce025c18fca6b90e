"""How much more one system finds than another, and whether that is shown.

A difference is called better or worse only where its 95 % interval (paired bootstrap over users of the hits averaged
over seeds) excludes 0, its p value stays below .05 after Holm's correction over the table, and every seed has its sign.
Else it is "not shown".

Shape suffixes: S seeds, B queries.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from convcg.errors import DataError
from convcg.metrics import Difference, holm, paired_difference
from convcg.ranks import Measured

#: The share of tables without any effect in which one is claimed, at most.
_LEVEL = 0.05
#: Bootstrap draws at least, and for each difference of a table: a p value is never below two draws, and the correction
#: multiplies it by up to the number of differences.
_DRAWS, _DRAWS_EACH = 10_000, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system of one run, as a row of a table."""

    name: str
    run: Measured
    system: str = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """The mean over seeds, the least and the largest of them."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A difference in recall: mean over seeds, 95 % interval, p value alone and after Holm's correction over the table,
    in how many of the seeds it has the sign of the mean (`2/3`), and the verdict: better, worse or not shown.
    """

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    agree: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One system, measured on the queries that have `value` (None: all), and how it differs from `against`.

    `recall` and `difference` have a key `recall@k` for each k; `difference` is empty where `against` is None.
    """

    name: str
    against: str | None
    value: str | None
    num_queries: int
    num_users: int
    num_seeds: int
    recall: dict[str, Recall]
    difference: dict[str, Shown]


_ROWS = TypeAdapter(list[Row])


def compared(
    pairs: Sequence[tuple[System, System | None]], *, ks: Sequence[int], slice_name: str | None = None
) -> list[Row]:
    """A row for each pair (a system, and the one that it is compared with), and for each value of a slice if one is
    named. Holm's correction is over all of their differences.

    Raises:
        ConfigError: a run has not measured a system, or has no such slice.
    """
    first = pairs[0][0].run
    users = np.asarray(first.users)
    hits = {(each.name, k): each.run.hits(each.system, k) for pair in pairs for each in pair if each for k in ks}
    found: list[tuple[System, System | None, str | None, NDArray[np.int64]]] = []
    for value, chosen in _parts(first, slice_name):
        found += [(system, against, value, chosen) for system, against in pairs]
    tested = sum(against is not None for _, against, _, _ in found) * len(ks)
    draws = max(_DRAWS, _DRAWS_EACH * tested)
    differences = {
        (row, k): _difference(hits[system.name, k][:, chosen], hits[against.name, k][:, chosen], users[chosen], draws)
        for row, (system, against, _, chosen) in enumerate(found)
        if against is not None
        for k in ks
    }
    corrected = dict(zip(differences, holm([each.found.p_value for each in differences.values()]), strict=True))
    rows = []
    for row, (system, against, value, chosen) in enumerate(found):
        recall_S = {k: hits[system.name, k][:, chosen].mean(1) for k in ks}
        rows.append(
            Row(
                name=system.name,
                against=against.name if against else None,
                value=value,
                num_queries=len(chosen),
                num_users=len(np.unique(users[chosen])),
                num_seeds=len(recall_S[ks[0]]),
                recall={f"recall@{k}": _over_seeds(recall_S[k]) for k in ks},
                difference={
                    f"recall@{k}": _shown(differences[row, k], corrected[row, k]) for k in ks if (row, k) in differences
                },
            )
        )
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tested:
    found: Difference
    agree: int
    num_seeds: int


def _difference(
    hit_SB: NDArray[np.float64], other_SB: NDArray[np.float64], users: NDArray[np.str_], draws: int
) -> _Tested:
    found = paired_difference(hit_SB.mean(0), other_SB.mean(0), users, draws=draws)
    # Seeds are pairs where both have as many (they differ in nothing else); else each is held against the other's mean.
    paired = len(hit_SB) == len(other_SB)
    gain_S = hit_SB.mean(1) - (other_SB.mean(1) if paired else other_SB.mean())
    if len(gain_S) == 1 < len(other_SB):  # a baseline, which has no seeds
        gain_S = hit_SB.mean() - other_SB.mean(1)
    return _Tested(found=found, agree=int((np.sign(gain_S) == np.sign(found.mean)).sum()), num_seeds=len(gain_S))


def _shown(tested: _Tested, p_holm: float) -> Shown:
    found, verdict = tested.found, "not shown"
    if p_holm < _LEVEL and tested.agree == tested.num_seeds:
        verdict = "better" if found.low > 0 else "worse" if found.high < 0 else verdict
    return Shown(
        mean=found.mean,
        low=found.low,
        high=found.high,
        p=found.p_value,
        p_holm=p_holm,
        agree=f"{tested.agree}/{tested.num_seeds}",
        verdict=verdict,
    )


def _over_seeds(recall_S: NDArray[np.float64]) -> Recall:
    return Recall(mean=float(recall_S.mean()), low=float(recall_S.min()), high=float(recall_S.max()))


def _parts(run: Measured, slice_name: str | None) -> list[tuple[str | None, NDArray[np.int64]]]:
    if slice_name is None:
        return [(None, np.arange(run.num_queries))]
    values = run.slice_values(slice_name)
    return [(str(value), np.flatnonzero(values == value)) for value in sorted(set(values))]


def pairs_of(runs: Sequence[Measured], system: str) -> list[tuple[System, System | None]]:
    """Every run against the first, then the first run's other systems against it."""
    first = System(name=runs[0].name, run=runs[0], system=system)
    others = [System(name=run.name, run=run, system=system) for run in runs[1:]]
    taken = {run.name for run in runs}
    baselines = [
        System(name=f"{name} (baseline)" if name in taken else name, run=runs[0], system=name)
        for name in runs[0].systems
        if name != system
    ]
    return [(first, None), *((each, first) for each in (*others, *baselines))]


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain data, for JSON."""
    return [asdict(row) for row in rows]


def rows_of(plain: Any, *, source: str) -> list[Row]:
    """The rows that `plain_rows` made plain. `source` names them in errors.

    Raises:
        DataError: they are something else.
    """
    try:
        return _ROWS.validate_python(plain)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DataError(
            f"{source} holds no table of convcg compare or ladder ({where} is wrong). Make it anew."
        ) from error
