"""Where two results of the example pipeline differ, told for a reader: rows are compared as multisets."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

Row = dict[str, Any]
ROWS = ("train", "validation", "test")
VALUES = ("median_dwell", "users", "served", "targets")


def difference(
    found: Row, wanted: Row, *, parts: Iterable[str] = VALUES + ROWS, weight_tolerance: float = 0.0
) -> str | None:
    """The first difference of two results, in words; None where there is none.

    Numbers must be equal, but weights only to a relative `weight_tolerance`.
    """
    for part in parts:
        if part not in ROWS:
            if plain(found[part]) != plain(wanted[part]):
                return f"{part}:\n  found  {plain(found[part])}\n  wanted {plain(wanted[part])}"
            continue
        one, other = ordered(found[part]), ordered(wanted[part])
        without_weight = [Counter(key(row) for row in rows) for rows in (one, other)]
        surplus, missing = without_weight[0] - without_weight[1], without_weight[1] - without_weight[0]
        if surplus or missing:
            return told(part, [r for r in one if key(r) in surplus], [r for r in other if key(r) in missing])
        for row, twin in zip(one, other, strict=True):
            if not math.isclose(row.get("weight", 1.0), twin.get("weight", 1.0), rel_tol=weight_tolerance):
                return told(part, [row], [twin])
    return None


def plain(value: Any) -> Any:
    """Without NumPy's scalars, and with tuples for lists."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def key(row: Row) -> str:
    """All of a row but its weight."""
    return repr(sorted((name, value) for name, value in row.items() if name != "weight"))


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Plain rows in an order that their content alone decides; equal rows by weight."""
    return sorted((plain(row) for row in rows), key=lambda row: (key(row), row.get("weight", 1.0)))


def told(part: str, surplus: list[Row], missing: list[Row]) -> str:
    """The first row that is too much and the missing row most like it."""
    lines = [f"{part}: {len(surplus)} rows that should not be, {len(missing)} missing"]
    if surplus and missing:
        twin = max(missing, key=lambda row: sum(row[name] == surplus[0][name] for name in row))
        names = [name for name in twin if twin[name] != surplus[0][name]]
        return "\n".join([*lines, f"  found  {surplus[0]}", f"  wanted {twin}", f"  differing in {names}"])
    lines += [f"  found  {row}" for row in surplus[:1]] + [f"  wanted {row}" for row in missing[:1]]
    return "\n".join(lines)
