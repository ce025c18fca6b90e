"""Small tables that keep the contract, columns of which a test replaces, and their validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convcg.data.validate import validate_tables
from convcg.data.violation import Rule, ValidationReport

NOON = 1_736_164_800  # 2025-01-06T12:00:00Z
Given = pa.Table | Sequence[pa.Table] | str | None


def events(**columns: Any) -> pa.Table:
    """Three events; a column that is None is left out."""
    base = {
        "timestamp": pa.array([NOON, NOON + 60, NOON + 120]),
        "user_id": ["u1", "u2", "u1"],
        "pin_id": ["p1", "p2", "p3"],
        "action": ["impression", "click", "checkout"],
    }
    return pa.table({name: values for name, values in (base | columns).items() if values is not None})


def pins(**columns: Any) -> pa.Table:
    """The three pins of the events."""
    return pa.table({"pin_id": ["p1", "p2", "p3"]} | columns)


def users(**columns: Any) -> pa.Table:
    """The two users of the events."""
    return pa.table({"user_id": ["u1", "u2"]} | columns)


def validated(
    directory: Path,
    *,
    features: Mapping[str, Sequence[str]] | None = None,
    max_broken_share: float = 0.0,
    **tables: Given,
) -> ValidationReport:
    """Write events, pins and users (a list becomes a directory of files, text is a path as it is) and validate them."""
    uris: dict[str, Any] = {}
    for name, table in ({"events": events(), "pins": pins(), "users": users()} | tables).items():
        if isinstance(table, list):
            (directory / name).mkdir()
            for number, part in enumerate(table):
                pq.write_table(part, directory / name / f"part-{number}.parquet")
            uris[name] = str(directory / name)
        elif isinstance(table, pa.Table):
            uris[name] = str(directory / f"{name}.parquet")
            pq.write_table(table, uris[name])
        else:
            uris[name] = table
    return validate_tables(**uris, features=features, max_broken_share=max_broken_share)


def broken(report: ValidationReport) -> dict[tuple[str, str | None, Rule], int]:
    """How many rows break each rule, by table and column."""
    return {(each.table, each.column, each.rule): each.rows for each in report.violations}
