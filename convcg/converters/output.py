"""The three tables as they are written: all of them, or nothing."""

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from convcg import schema
from convcg.errors import ConfigError, DataError, StorageError
from convcg.log import Meter, progress
from convcg.storage import Location, delete_directory

_ROWS_PER_GROUP = 1 << 18
_ROWS_PER_PART = 1 << 23


class Output:
    """Takes the tables' rows and writes `events/part-*.parquet`, `pins.parquet`, `users.parquet` below `location`.

    Columns of the contract are cast to its types, further columns are written as they are. Every call of `events` must
    bring the same columns. `rows` counts what was taken, by table; `actions` counts the events.
    """

    def __init__(self, location: Location, meter: Meter, *, rows_per_part: int) -> None:
        self._location = location
        self._meter = meter
        self._rows_per_part = rows_per_part
        self._pending: list[pa.Table] = []
        self._part: _Part | None = None
        self._parts = 0
        self.rows: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()

    def events(self, rows: pa.Table) -> None:
        """Take events.

        Raises:
            StorageError: they cannot be written.
        """
        self.rows["events"] += rows.num_rows
        self.actions.update({each["values"]: each["counts"] for each in rows["action"].value_counts().to_pylist()})
        self._meter.advance(rows.num_rows)
        self._pending.append(_as_contract(rows, schema.EVENTS))
        if sum(table.num_rows for table in self._pending) >= min(_ROWS_PER_GROUP, self._rows_per_part):
            self._write_pending()

    def pins(self, rows: pa.Table) -> None:
        """Write the pins, one row each.

        Raises:
            StorageError: they cannot be written.
        """
        self._write_whole(schema.PINS, rows)

    def users(self, rows: pa.Table) -> None:
        """Write the users, one row each. For logs that say nothing of their users but an id there is no such table.

        Raises:
            StorageError: they cannot be written.
        """
        self._write_whole(schema.USERS, rows)

    def finish(self) -> None:
        """Write what is left.

        Raises:
            DataError: there was no event.
            StorageError: it cannot be written.
        """
        self._write_pending()
        if self._part:
            self._part.close()
        if not self.rows["events"]:
            raise DataError("the log holds no event; expected at least one. Check that the files are the right ones.")

    def abandon(self) -> None:
        """Let go of the file that is open, whatever state it is in."""
        if self._part:
            with suppress(StorageError):
                self._part.close()

    def _write_pending(self) -> None:
        if not self.rows["events"] or not self._pending:
            return
        rows = pa.concat_tables(self._pending)
        self._pending = []
        if self._part is None:
            self._part = _Part(self._location / "events" / f"part-{self._parts:05d}.parquet", rows.schema)
            self._parts += 1
        self._part.write(rows)
        if self._part.rows >= self._rows_per_part:
            self._part.close()
            self._part = None

    def _write_whole(self, table: schema.Table, rows: pa.Table) -> None:
        rows = _as_contract(rows, table)
        part = _Part(self._location / f"{table.name}.parquet", rows.schema)
        part.write(rows)
        part.close()
        self.rows[table.name] = rows.num_rows


class _Part:
    """One Parquet file that grows."""

    def __init__(self, location: Location, columns: pa.Schema) -> None:
        self._location = location
        self.rows = 0
        with self._told():
            if location.is_local:
                Path(location.path).parent.mkdir(parents=True, exist_ok=True)
            self._sink = location.filesystem.open_output_stream(location.path)
            self._writer = pq.ParquetWriter(self._sink, columns, compression="zstd")

    def write(self, rows: pa.Table) -> None:
        with self._told():
            self._writer.write_table(rows, row_group_size=_ROWS_PER_GROUP)
        self.rows += rows.num_rows

    def close(self) -> None:
        with self._told():
            self._writer.close()
            self._sink.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot write {self._location.uri}: {error}") from error


@contextmanager
def written_whole(out: Location, *, title: str, rows_per_part: int = _ROWS_PER_PART) -> Iterator[Output]:
    """An `Output` whose files stand in `out` once the block has ended, and nowhere if it is left by an error.

    On this machine's disk they are written beside `out` and renamed in one step. An object store has no such step:
    there they are written in place, pins and users after the events, and deleted again after an error.

    Raises:
        ConfigError: something is at `out` already.
        DataError: no event was written.
        StorageError: the files cannot be written.
    """
    _refuse_what_is_there(out)
    stage = out
    if out.is_local:
        target = Path(out.path).resolve()
        path = f"{target}.{uuid.uuid4().hex}.part"
        stage = Location(out.filesystem, path, path)
    output: Output | None = None
    try:
        with progress(title) as meter:
            output = Output(stage, meter, rows_per_part=rows_per_part)
            yield output
            output.finish()
        if out.is_local:
            _rename(stage, target)
    except BaseException:
        if output:
            output.abandon()
        delete_directory(stage)
        raise


def _refuse_what_is_there(out: Location) -> None:
    try:
        info = out.filesystem.get_file_info(out.path)
        there = info.type == pafs.FileType.File or bool(
            out.filesystem.get_file_info(pafs.FileSelector(out.path, allow_not_found=True))
        )
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot look at {out.uri}: {error}") from error
    if there:
        raise ConfigError(f"--out {out.uri} is not empty. Give a directory that is empty or does not exist yet.")


def _rename(stage: Location, target: Path) -> None:
    try:
        Path(stage.path).replace(target)
    except OSError as error:
        raise StorageError(f"cannot rename {stage.uri} to {target}: {error}") from error


def _as_contract(rows: pa.Table, table: schema.Table) -> pa.Table:
    """The columns of the contract in its types; the others as they are."""
    for position, name in enumerate(rows.column_names):
        column = table.by_name.get(name)
        if column:
            rows = rows.set_column(position, pa.field(name, column.type), rows[name].cast(column.type))
    return rows
