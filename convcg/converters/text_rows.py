"""CSV files a block at a time, every column as text, and its values parsed with errors that name file, row and column.

As text, because a type that pyarrow infers from the first block breaks on a later one, and says so without the place.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from convcg.converters.source import unreadable
from convcg.converters.times import from_epoch
from convcg.errors import DataError
from convcg.storage import Location

_BLOCK_BYTES = 4 << 20  # pyarrow reads some dozens of blocks ahead
_HEADER_BYTES = 64 << 10
_CHARACTERS_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRows:
    """Consecutive rows of one file: `columns` are Arrow strings, `first` is the number of the first row, from 1.

    The header is not counted. Every method returns an array with one entry a row.
    """

    file: str
    first: int
    columns: Mapping[str, pa.Array]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def texts(self, name: str) -> pa.Array:
        """A column that may be null, as it is."""
        return self.columns[name]

    def ids(self, name: str) -> pa.Array:
        """A column that must not be null.

        Raises:
            DataError: a row has no value there.
        """
        values = self.columns[name]
        self._refuse(name, values.is_null(), "an id")
        return values

    def chosen(self, name: str, meaning: Mapping[str, str | None]) -> pa.Array:
        """What each value means; null where the meaning is None.

        Raises:
            DataError: a value is none of the keys of `meaning`.
        """
        place = pc.index_in(self.columns[name], value_set=pa.array(list(meaning), pa.string()))
        self._refuse(name, place.is_null(), f"one of {', '.join(meaning)}")
        return pa.array(list(meaning.values()), pa.string()).take(place)

    def numbers(self, name: str) -> pa.Array:
        """Finite float64; null where the row has no value.

        Raises:
            DataError: a value is no number.
        """
        values = self._cast(name, self.columns[name], pa.float64(), "a number")
        self._refuse(name, pc.invert(pc.is_finite(values)), "a finite number")
        return values

    def prices(self, name: str) -> pa.Array:
        """Numbers, those below zero as null: a refund is no price.

        Raises:
            DataError: a value is no number.
        """
        values = self.numbers(name)
        return pc.if_else(pc.greater_equal(values, 0), values, None)

    def epochs(self, name: str, *, unit: str) -> pa.Array:
        """Integers since the epoch in `unit` (s, ms) as timestamps of the contract.

        Raises:
            DataError: a value is no integer, is missing, or lies before 2000 or in the future.
        """
        what = f"a time since 1970 in {unit}, as an integer, between 2000 and now"
        times = from_epoch(self._cast(name, self.columns[name], pa.int64(), what), unit=unit)
        self._refuse(name, times.is_null(), what)
        return times

    def datetimes(self, name: str, *, suffix: str) -> pa.Array:
        """`YYYY-MM-DD HH:MM:SS` followed by `suffix`, which stands for UTC, as timestamps of the contract.

        Raises:
            DataError: a value is written otherwise, is missing, or lies before 2000 or in the future.
        """
        what = f"YYYY-MM-DD HH:MM:SS{suffix}, between 2000 and now"
        texts = self.columns[name]
        self._refuse(name, pc.invert(pc.fill_null(pc.ends_with(texts, suffix), False)), what)
        bare = pc.utf8_slice_codeunits(texts, 0, -len(suffix))
        times = from_epoch(self._cast(name, bare, pa.timestamp("us"), what).cast(pa.int64()), unit="us")
        self._refuse(name, times.is_null(), what)
        return times

    def _cast(self, name: str, values: pa.Array, type: pa.DataType, what: str) -> pa.Array:
        try:
            return values.cast(type)
        except pa.ArrowInvalid:
            raise self._error(name, _first_uncastable(values, type), what) from None

    def _refuse(self, name: str, bad: pa.BooleanArray, what: str) -> None:
        if bad.true_count:
            raise self._error(name, pc.index(bad, True).as_py(), what)

    def _error(self, name: str, row: int, what: str) -> DataError:
        found = self.columns[name][row].as_py()
        shown = "nothing" if found is None else repr(found[:_CHARACTERS_SHOWN])
        return DataError(f"{self.file}, row {self.first + row}, column {name}: expected {what}; found {shown}.")


def read_csv(file: Location, names: Sequence[str], *, nulls: Sequence[str] = ("",)) -> Iterator[TextRows]:
    """The columns `names` of a comma-separated file with a header, block by block; .gz is unpacked on the way.

    `nulls` are the texts that stand for no value. Spaces around the header's names are dropped.

    Raises:
        DataError: a column is missing, a row has another number of columns, or the text is no UTF-8.
        StorageError: the file cannot be read.
    """
    header = _header(file, names)
    ragged: list[pacsv.InvalidRow] = []
    first = 1

    def refuse(row: pacsv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    try:
        with file.filesystem.open_input_stream(file.path) as stream:
            reader = pacsv.open_csv(
                stream,
                # A blank first block would do no harm but has no columns, so the header is named here and skipped.
                read_options=pacsv.ReadOptions(
                    column_names=header,
                    skip_rows=1,
                    block_size=_BLOCK_BYTES,
                    use_threads=False,  # with threads, Arrow does not always say in which line a row is broken
                ),
                parse_options=pacsv.ParseOptions(invalid_row_handler=refuse),
                convert_options=pacsv.ConvertOptions(
                    include_columns=list(names),
                    column_types=dict.fromkeys(names, pa.string()),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                    null_values=list(nulls),
                ),
            )
            for batch in reader:
                yield TextRows(file=file.uri, first=first, columns=dict(zip(names, batch.columns, strict=True)))
                first += batch.num_rows
    except pa.ArrowInvalid as error:
        if ragged:
            raise _ragged(file, header, ragged[0]) from error
        raise DataError(f"{file.uri}, after row {first - 1}: no CSV that can be read: {error}.") from error
    except OSError as error:
        raise unreadable(file, error) from error


def _header(file: Location, names: Sequence[str]) -> list[str]:
    try:
        with file.filesystem.open_input_stream(file.path) as stream:
            start = stream.read(_HEADER_BYTES)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from error
    line = start.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace")
    header = [name.strip() for name in next(csv.reader([line.rstrip("\r")]), [])]
    missing = [name for name in names if header.count(name) != 1]
    if missing:
        found = ",".join(header)[: 4 * _CHARACTERS_SHOWN] or "nothing"
        raise DataError(
            f"{file.uri}, line 1: expected a header with each of {','.join(names)} once, separated by commas; "
            f"found {found!r}, so {', '.join(missing)} is missing or there more than once."
        )
    return header


def _ragged(file: Location, header: Sequence[str], row: pacsv.InvalidRow) -> DataError:
    where = "a row" if row.number is None else f"line {row.number}"
    return DataError(
        f"{file.uri}, {where}: expected {len(header)} columns ({','.join(header)}); "
        f"found {row.actual_columns}: {row.text[:_CHARACTERS_SHOWN]!r}."
    )


def _first_uncastable(values: pa.Array, type: pa.DataType) -> int:
    """The position of the first value that cannot be cast, by bisection."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            values.slice(low, middle - low).cast(type)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
