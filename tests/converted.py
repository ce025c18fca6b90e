"""A log through `convcg import`, with what came of it: tables that the validator accepts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convcg.converters.command import Format, import_log
from convcg.data.validate import validate_tables


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The tables; `users` is None where the format tells nothing of its users."""

    events: pa.Table
    pins: pa.Table
    users: pa.Table | None

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """Some columns of `events`, `pins` or `users` as tuples; times as `MM-DD HH:MM:SS`."""
        chosen = getattr(self, table).select(columns).to_pylist()
        return [tuple(_shown(value) for value in row.values()) for row in chosen]


def converted(name: str, path: Path, out: Path) -> Converted:
    """Import `path` into `out` and read the tables back."""
    import_log(Format(name), str(path), str(out))
    assert {entry.name for entry in out.iterdir()} <= {"events", "pins.parquet", "users.parquet"}
    users = out / "users.parquet"
    report = validate_tables(
        events=str(out / "events"), pins=str(out / "pins.parquet"), users=str(users) if users.exists() else None
    )
    assert report.violations == (), report.text()
    return Converted(
        events=pq.read_table(out / "events"),
        pins=pq.read_table(out / "pins.parquet"),
        users=pq.read_table(users) if users.exists() else None,
    )


def write(path: Path, text: str) -> Path:
    """Write a small file; its directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _shown(value: Any) -> Any:
    return value.strftime("%m-%d %H:%M:%S") if hasattr(value, "strftime") else value
