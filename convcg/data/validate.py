"""The validator: reads the tables that users bring once, in bounded memory, and reports every broken rule together."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convcg import schema
from convcg.data.canonical import accepts, cast
from convcg.data.value_rules import (
    PIN_COLUMNS,
    broken_rows,
    count_broken,
    is_vector,
    unknown_pins,
    vectors_not_finite,
    vectors_of_other_length,
)
from convcg.data.violation import Findings, Rule, ValidationReport, Violation
from convcg.errors import StorageError
from convcg.storage import Location, list_files, locate

_BATCH_ROWS = 1 << 16
#: Looking ids up among all pins builds a hash table of the pins for each batch: large batches need few of them.
_LOOKUP_ROWS = 1 << 20


def validate_tables(
    *,
    events: str,
    pins: str | None,
    users: str | None,
    features: Mapping[str, Sequence[str]] | None = None,
    max_broken_share: float = 0.0,
) -> ValidationReport:
    """Check the tables against the contract of `convcg.schema`; broken data is reported, never raised.

    Each table is a Parquet file or a directory of Parquet files, local or `s3://`, `gs://`. `features` names, by table,
    the further columns that a recipe reads: they must be there, and the lists of floats among them must be finite
    vectors of one length. Without `features` every further list of floats of pins and users is checked so.

    Events with a broken value are tolerated where they are at most `max_broken_share` of all events: they are then no
    violations, but counted and noted, and `convcg.data.quarantine` finds the same rows again. A column that is missing
    or has a wrong type, a file that cannot be read, and whatever is broken in pins and users is never tolerated.
    """
    findings, now = Findings(), time.time()

    def scanned(
        table: schema.Table, uri: str, key: str | None = None, references: Mapping[str, pa.Array | None] | None = None
    ) -> _Scan:
        further = None if features is None else tuple(features.get(table.name, ()))
        scan = _Scan(table, uri, further, findings, now, key=key, references=references or {})
        scan.run()
        return scan

    of_pins = None if pins is None else scanned(schema.PINS, pins, key="pin_id")
    of_users = None if users is None else scanned(schema.USERS, users, key="user_id")
    pin_ids = of_pins.distinct_keys() if of_pins else None
    user_ids = of_users.distinct_keys() if of_users else None
    references = {"pin_id": pin_ids, "subject_pin_id": pin_ids, "user_id": user_ids}
    of_events = scanned(schema.EVENTS, events, references=references)

    scans = [scan for scan in (of_events, of_pins, of_users) if scan]
    notes = [note for scan in scans for note in scan.notes()]
    if of_pins is None:
        notes.append("there is no pins table: pins are known by their id alone")
    if of_users is None:
        notes.append("there is no users table: users are known by their id alone")
    in_events = tuple(each for each in findings.all() if each.table == schema.EVENTS.name)
    all_read = all(each.rows for each in in_events)  # a file or a column at fault hides what else is broken
    few = of_events.broken / max(of_events.rows, 1) <= max_broken_share
    tolerated = in_events if all_read and few else ()
    if tolerated:
        notes.append(_set_aside(of_events, tolerated))
    return ValidationReport(
        violations=tuple(each for each in findings.all() if each not in tolerated),
        rows={scan.table.name: scan.rows for scan in scans},
        notes=tuple(notes),
        broken_rows=of_events.broken,
        tolerated=tolerated,
        max_broken_share=max_broken_share,
        checked_at=now,
    )


def _set_aside(events: "_Scan", tolerated: Sequence[Violation]) -> str:
    rows: Counter[str] = Counter()
    for violation in tolerated:
        rows[f"{violation.column}: {violation.rule}"] += violation.rows
    broken = ", ".join(f"{what} ({count:,})" for what, count in rows.items())
    return f"{events.broken:,} of {events.rows:,} events are broken and will be set aside in quarantine: {broken}"


@dataclass(slots=True)
class _Tally:
    """How often each id occurs in one batch of one file."""

    file: str
    ids: pa.Array
    counts: np.ndarray


@dataclass(slots=True)
class _Scan:
    """One pass over the files of one table; a second one over files that name unknown pins.

    `now` is where the future begins, in seconds since the epoch. `key` is the column whose ids must be unique.
    `references` maps a column to the ids it may hold, None where unknown. `broken` counts rows of events.
    """

    table: schema.Table
    uri: str
    features: tuple[str, ...] | None
    findings: Findings
    now: float
    key: str | None = None
    references: Mapping[str, pa.Array | None] = field(default_factory=dict)
    rows: int = 0
    broken: int = 0
    files: int = 0
    _absent: Counter[str] = field(default_factory=Counter)
    _key_tallies: list[_Tally] = field(default_factory=list)
    _keys_are_complete: bool = True
    _strangers: int = 0
    _vector_length: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        """Read every file and record what is broken."""
        try:
            files = list_files(locate(self.uri))
        except StorageError as error:
            self.findings.add(self.table.name, self.uri, None, Rule.NO_FILES, sample=error)
            self._keys_are_complete = False
            return
        if not files:
            self.findings.add(self.table.name, self.uri, None, Rule.NO_FILES)
        readable = [self._read(file) for file in files]
        if files and all(readable) and self.rows == 0:
            self.findings.add(self.table.name, self.uri, None, Rule.EMPTY_TABLE)
        self._keys_are_complete &= all(readable) and self.rows > 0
        self._check_key()

    def distinct_keys(self) -> pa.Array | None:
        """The ids of the key column; None where some could not be read, so that others cannot be called unknown."""
        if not self._keys_are_complete:
            return None
        return pc.unique(pa.chunked_array([tally.ids for tally in self._key_tallies], pa.string()))

    def notes(self) -> list[str]:
        """What falls away for want of optional columns, and users that the users table lacks."""
        notes = []
        for column in self.table.columns:
            absent = self._absent[column.name]
            if absent and not column.required:
                where = "" if absent == self.files else f" in {absent} of {self.files} files"
                notes.append(f"{self.table.name}.{column.name} is absent{where}: {column.without}")
        if self._strangers:
            notes.append(
                f"{self._strangers:,} events are by users that the users table lacks: they are known by their id alone"
            )
        return notes

    def _read(self, location: Location) -> bool:
        """Check one file; False where it cannot be read to its end."""
        file = location.uri
        try:
            with location.filesystem.open_input_file(location.path) as source:
                reader = pq.ParquetFile(source, page_checksum_verification=True)
                columns, further = self._check_schema(file, reader.schema_arrow)
                self.files += 1
                self.rows += reader.metadata.num_rows
                tallies: dict[str, list[_Tally]] = {}
                broken = 0
                for batch in reader.iter_batches(_BATCH_ROWS, columns=[*columns, *further]):
                    # Damage may decode: text that is not UTF-8 would otherwise end in an error far from here.
                    batch.validate(full=True)
                    broken += self._check_batch(file, batch, columns, tallies)
                strangers = [self._check_reference(name, tallies[name]) for name in tallies if name != self.key]
                if any(strangers):
                    broken = self._count_with_strangers(reader, columns)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: a damaged column name
            self.findings.add(self.table.name, file, None, Rule.UNREADABLE, sample=error)
            return False
        self.broken += broken
        self._key_tallies += tallies.get(self.key or "", [])
        return True

    def _check_schema(self, file: str, found: pa.Schema) -> tuple[list[str], list[str]]:
        """Record missing and mistyped columns; return the contract's columns to read, and the further ones."""
        present = Counter(found.names)
        columns = []
        for column in self.table.columns:
            if not present[column.name]:
                self._absent[column.name] += 1
                if column.required:
                    remedy = f"add the column: {column.accepts}"
                    self.findings.add(self.table.name, file, column.name, Rule.MISSING_COLUMN, remedy=remedy)
            elif present[column.name] > 1:
                self.findings.add(self.table.name, file, column.name, Rule.REPEATED_COLUMN)
            elif not accepts(column, found.field(column.name).type):
                sample, remedy = found.field(column.name).type, f"convert the column to {column.accepts}"
                self.findings.add(self.table.name, file, column.name, Rule.WRONG_TYPE, sample=sample, remedy=remedy)
            else:
                columns.append(column.name)
        if self.key and self.key not in columns:
            self._keys_are_complete = False
        for name in self.features or ():
            if not present[name]:
                remedy = "add the column, or take the feature out of the recipe"
                self.findings.add(self.table.name, file, name, Rule.MISSING_COLUMN, remedy=remedy)
        if self.table is schema.EVENTS:
            return columns, []  # features describe pins and users
        further = [name for name in present if name not in self.table.by_name and present[name] == 1]
        return columns, further if self.features is None else [name for name in further if name in self.features]

    def _check_batch(
        self, file: str, batch: pa.RecordBatch, columns: Sequence[str], tallies: dict[str, list[_Tally]]
    ) -> int:
        """Record what is broken in one batch; return how many rows are, unknown pins left out."""
        found = [*broken_rows(batch, self.table, now=self.now)]
        for name, rule, bad in found:
            self._record(file, name, batch.column(name), rule, bad)
        for name in columns:
            if name == self.key or self.references.get(name) is not None:
                counted = cast(batch.column(name), self.table.by_name[name]).drop_null().value_counts()
                tally = _Tally(file, counted.field("values"), counted.field("counts").to_numpy())
                tallies.setdefault(name, []).append(tally)
        for name in batch.schema.names:
            if name not in columns and is_vector(batch.column(name).type):
                self._check_vectors(file, name, batch.column(name))
        return count_broken(found, batch.num_rows)

    def _count_with_strangers(self, reader: pq.ParquetFile, columns: Sequence[str]) -> int:
        """How many rows of a file are broken, those that name an unknown pin among them."""
        pin_ids, broken = self.references[PIN_COLUMNS[0]], 0
        for batch in reader.iter_batches(_LOOKUP_ROWS, columns=columns):
            found = [*broken_rows(batch, self.table, now=self.now), *unknown_pins(batch, pin_ids)]
            broken += count_broken(found, batch.num_rows)
        return broken

    def _check_vectors(self, file: str, name: str, vectors: pa.Array) -> None:
        vectors = vectors.drop_null()
        if len(vectors):
            self._record(file, name, vectors, *vectors_not_finite(vectors))
            length = self._vector_length.setdefault(name, len(vectors[0]))
            remedy = f"give every vector {length} entries, as the first one has, or write null where there is none"
            self._record(file, name, vectors, *vectors_of_other_length(vectors, length), remedy=remedy)

    def _record(
        self, file: str, column: str, values: pa.Array, rule: Rule, bad: pa.BooleanArray, *, remedy: str | None = None
    ) -> None:
        rows = bad.true_count
        if rows:
            sample = values[pc.index(bad, True).as_py()].as_py()
            self.findings.add(self.table.name, file, column, rule, rows=rows, sample=sample, remedy=remedy)

    def _check_reference(self, column: str, tallies: list[_Tally]) -> bool:
        """Whether a file names ids that it may not name; those of users are only counted."""
        ids = pa.chunked_array([tally.ids for tally in tallies], pa.string())
        unknown = pc.invert(pc.is_in(ids, value_set=self.references[column])).to_numpy()
        rows = int(np.concatenate([tally.counts for tally in tallies])[unknown].sum())
        if column not in PIN_COLUMNS:
            self._strangers += rows
            return False
        if rows:
            sample = ids[int(unknown.argmax())].as_py()
            self.findings.add(self.table.name, tallies[0].file, column, Rule.UNKNOWN_PIN, rows=rows, sample=sample)
        return rows > 0

    def _check_key(self) -> None:
        """Record, for each file, the rows whose id an earlier row of the table has."""
        if not self.key or not self._key_tallies:
            return
        ids = pa.chunked_array([tally.ids for tally in self._key_tallies], pa.string())
        codes = ids.dictionary_encode().combine_chunks().indices.to_numpy()
        repeats = np.ones(len(codes), dtype=bool)
        repeats[np.unique(codes, return_index=True)[1]] = False
        start = 0
        for tally in self._key_tallies:
            extra = tally.counts - 1 + repeats[start : start + len(tally.ids)]
            start += len(tally.ids)
            if extra.any():
                sample, rows = tally.ids[int(extra.argmax())].as_py(), int(extra.sum())
                self.findings.add(self.table.name, tally.file, self.key, Rule.DUPLICATE_ID, rows=rows, sample=sample)
