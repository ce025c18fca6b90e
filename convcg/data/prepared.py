"""What `prepare` writes, and later stages read.

<prepared>/
  pins.arrow            the pin table
  users.arrow           the user table: history, purchases and raw features as of the end of the training time
  encoders.json         how feature columns become codes and numbers
  train/part-00000.parquet        training examples; one file a partition of users
  validation/ test/               evaluation queries
  interactions/                   who did what in the training time, for the baselines
  prepared.json         counts and split times; written last
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from convcg.data.examples import SplitTimes
from convcg.data.feature_encoders import Encoders
from convcg.data.tables import RowTable
from convcg.errors import DataError
from convcg.storage import Location, exists, list_files, read_bytes, write_bytes

SUMMARY = "prepared.json"
PINS = "pins.arrow"
USERS = "users.arrow"
ENCODERS = "encoders.json"
TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
INTERACTIONS = "interactions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How much there is of everything, and where the split lies."""

    num_pins: int
    num_users: int
    num_events: int
    num_train: int
    num_validation: int
    num_test: int
    times: SplitTimes
    notes: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Readable JSON."""
        return json.dumps(asdict(self), indent=1).encode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A finished directory of prepared data."""

    location: Location

    @classmethod
    def open(cls, location: Location) -> "Prepared":
        """Check that `prepare` has finished there.

        Raises:
            DataError: it has not.
        """
        if not exists(location / SUMMARY):
            raise DataError(f"{location.uri} holds no prepared data (no {SUMMARY}). Run the prepare stage first.")
        return cls(location)

    def summary(self) -> Summary:
        """Counts and split times."""
        plain = json.loads(read_bytes(self.location / SUMMARY))
        return Summary(**{**plain, "times": SplitTimes(**plain["times"]), "notes": tuple(plain["notes"])})

    def encoders(self) -> Encoders:
        """How feature columns become codes and numbers."""
        return Encoders.from_bytes(read_bytes(self.location / ENCODERS))

    def pins(self) -> RowTable:
        """The pin table."""
        return RowTable.open(self.location / PINS)

    def files(self, part: str) -> list[Location]:
        """The Parquet files of `TRAIN`, `VALIDATION`, `TEST` or `INTERACTIONS`, in partition order."""
        return list_files(self.location / part, suffix=".parquet")

    def read(self, part: str, columns: list[str] | None = None) -> pa.Table:
        """A whole part as one table; for parts, or columns, that fit in memory."""
        return pa.concat_tables(self.batches(part, columns))

    def batches(self, part: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """A part, one table a file."""
        for file in self.files(part):
            yield pq.read_table(file.path, filesystem=file.filesystem, columns=columns)


def write_part(table: pa.Table, directory: Location, part: str, partition: int) -> None:
    """Write one partition's rows of a part; writing it again replaces it."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(directory / part / f"part-{partition:05d}.parquet", sink.getvalue())
