"""What the validator reports: the rules, their violations, and the report that lists them all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from convcg.errors import DataError
from convcg.schema import EVENTS
from convcg.types import ACTIONS, SURFACES

_SAMPLE_CHARACTERS = 160


class Rule(StrEnum):
    """One rule of the contract, named by how it is broken."""

    NO_FILES = "no files"
    UNREADABLE = "not a readable Parquet file"
    EMPTY_TABLE = "no rows"
    MISSING_COLUMN = "missing column"
    REPEATED_COLUMN = "column name occurs more than once"
    WRONG_TYPE = "wrong type"
    NULL = "null"
    EMPTY_ID = "empty id"
    DUPLICATE_ID = "duplicate id"
    UNKNOWN_ACTION = "unknown action"
    UNKNOWN_SURFACE = "unknown surface"
    UNKNOWN_PIN = "pin that the pins table lacks"
    TIME_OUT_OF_RANGE = "time out of range"
    REPORTED_BEFORE = "reported before it happened"
    NEGATIVE = "negative number"
    NOT_FINITE = "NaN or infinity"
    UNEQUAL_VECTORS = "vectors of unequal length"


REMEDIES = {
    Rule.NO_FILES: "give a Parquet file, or a directory of Parquet files",
    Rule.UNREADABLE: "copy the file again or write it again as Parquet, or move it out of the directory",
    Rule.EMPTY_TABLE: "give a table with rows, or leave an optional table out",
    Rule.MISSING_COLUMN: "add the column",
    Rule.REPEATED_COLUMN: "keep one column of this name",
    Rule.WRONG_TYPE: "convert the column",
    Rule.NULL: "fill the value or drop these rows",
    Rule.EMPTY_ID: "fill the id, or write null where the column may be null",
    Rule.DUPLICATE_ID: "keep one row for each id",
    Rule.UNKNOWN_ACTION: f"use one of {', '.join(ACTIONS)}",
    Rule.UNKNOWN_SURFACE: f"use one of {', '.join(SURFACES)}",
    Rule.UNKNOWN_PIN: "add the pin to the pins table or drop these rows",
    Rule.TIME_OUT_OF_RANGE: (
        "times lie between 2000-01-01 and one day from now, in UTC; integers are seconds (divide milliseconds by 1000)"
    ),
    Rule.REPORTED_BEFORE: "reported_at, when we learned of it, is never earlier than timestamp: check both clocks",
    Rule.NEGATIVE: "the number must be 0 or more; write null where it is unknown",
    Rule.NOT_FINITE: "write a finite number, or null for the whole value where it is unknown",
    Rule.UNEQUAL_VECTORS: "give all vectors of a column the same length; write null where there is none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One rule broken by one column of one file.

    `rows` counts the rows concerned; it is 0 where the file or the column as a whole is at fault.
    `column` is None where it is the file. `sample` is one offending value, as text; for a file, what reading it said.
    """

    table: str
    file: str
    column: str | None
    rule: Rule
    rows: int
    sample: str | None
    remedy: str

    def text(self) -> str:
        """The violation on one line, the remedy on the next."""
        what = f"{self.column}: {self.rule}" if self.column else str(self.rule)
        rows = f", {self.rows:,} row{'s' if self.rows != 1 else ''}" if self.rows else ""
        if self.sample is None:
            sample = ""
        else:
            sample = f", e.g. {self.sample}" if self.column else f": {self.sample}"
        return f"{self.table}: {self.file}: {what}{rows}{sample}\n    remedy: {self.remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """Everything that was found. `rows` has the row count of each table that was given.

    `broken_rows` counts the events that break a rule, each once. `tolerated` are the violations of these rows where
    they are at most `max_broken_share` of the events: they are set aside and the others go on. `checked_at` (seconds
    since the epoch) is where the future began.
    """

    violations: tuple[Violation, ...]
    rows: Mapping[str, int]
    notes: tuple[str, ...]
    broken_rows: int
    tolerated: tuple[Violation, ...]
    max_broken_share: float
    checked_at: float

    def text(self) -> str:
        """The report for a person to read: row counts, violations with their remedies, notes."""
        lines = [f"{table}: {count:,} rows" for table, count in self.rows.items()]
        if self.violations:
            lines += ["", f"{len(self.violations)} violation{'s' if len(self.violations) != 1 else ''}:"]
            lines += [f"  {violation}" for violation in self._broken()]
        else:
            lines += ["", "no violations"]
        if self.tolerated:
            lines += ["", "tolerated:", *(f"  {violation.text()}" for violation in self.tolerated)]
        if self.notes:
            lines += ["", "notes:", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines)

    def raise_if_broken(self) -> None:
        """Do nothing for tables that keep the contract, or break it in no more rows than is tolerated.

        Raises:
            DataError: there are violations; the message lists them all.
        """
        if self.violations:
            raise DataError("the tables break the contract:\n" + "\n".join(self._broken()))

    def _broken(self) -> list[str]:
        lines = [violation.text() for violation in self.violations]
        events = self.rows[EVENTS.name]
        share = self.broken_rows / max(events, 1)
        if share > self.max_broken_share:
            lines.append(
                f"{self.broken_rows:,} of {events:,} events are broken, a share of {share:.3g}; "
                f"data.max_broken_share allows {self.max_broken_share:g}\n"
                "    remedy: mend these rows, or raise data.max_broken_share to have them set aside and counted"
            )
        return lines


@dataclass(frozen=True, slots=True)
class Findings:
    """Collects violations: rows add up for each file, column and rule, and the first sample stays."""

    _found: dict[tuple[str, str, str | None, Rule], Violation] = field(default_factory=dict)

    def add(
        self,
        table: str,
        file: str,
        column: str | None,
        rule: Rule,
        *,
        rows: int = 0,
        sample: object = None,
        remedy: str | None = None,
    ) -> None:
        """Record that `rule` is broken; `remedy` replaces the rule's own where it can say more."""
        key = (table, file, column, rule)
        before = self._found.get(key)
        self._found[key] = Violation(
            table=table,
            file=file,
            column=column,
            rule=rule,
            rows=rows + (before.rows if before else 0),
            sample=before.sample if before else _shown(sample),
            remedy=remedy or REMEDIES[rule],
        )

    def all(self) -> tuple[Violation, ...]:
        """Every violation, in the order in which it was first met."""
        return tuple(self._found.values())


def _shown(sample: object) -> str | None:
    if sample is None:
        return None
    text = repr(sample) if isinstance(sample, str) else " ".join(str(sample).split())
    return text if len(text) <= _SAMPLE_CHARACTERS else text[: _SAMPLE_CHARACTERS - 3] + "..."
