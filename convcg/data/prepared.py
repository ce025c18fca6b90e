"""What `prepare` writes, and later stages read.

<prepared>/
  pins.arrow            the pin table
  users.arrow           the user table: history, purchases and raw features as of the end of the training time
  encoders.json         how feature columns become codes and numbers
  frequencies.arrow     for each pin row: training targets of each task, and impressions that were not engaged
  pin_days.arrow        events of the training time by pin and day (`convcg.data.day_counts`); without count features of
                        pins it is not there
  people/part-00000.parquet       one file a partition of users: the tables of `convcg.data.partition`, which refer to
  actions/ requests/              each other by row
  conversion/ engagement/         training examples
  validation/ test/               evaluation queries
  quarantine/                     broken events that were set aside
  card.json, card.html            the data card
  prepared.json                   counts and split times; written last
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convcg.data.day_counts import DayCounts
from convcg.data.feature_encoders import Encoders
from convcg.data.flat import examples_with_requests, queries_of
from convcg.data.history import HistoryConfig
from convcg.data.split import SplitTimes
from convcg.data.tables import RowTable, write_parquet
from convcg.errors import DataError
from convcg.storage import Location, exists, list_files, locate, read_bytes
from convcg.types import ACTION_CODE, Action, Task

SUMMARY = "prepared.json"
PINS = "pins.arrow"
USERS = "users.arrow"
ENCODERS = "encoders.json"
FREQUENCIES = "frequencies.arrow"
PIN_DAYS = "pin_days.arrow"
CARD = "card.json"
CARD_PAGE = "card.html"
PEOPLE = "people"
ACTIONS = "actions"
REQUESTS = "requests"
VALIDATION = "validation"
TEST = "test"
QUARANTINE = "quarantine"
#: The column of training examples that says which partition their request stands in.
PARTITION = "partition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How much there is of everything, and where the split lies. `num_train`: training examples of each task."""

    num_pins: int
    num_users: int
    num_events: int
    num_train: dict[str, int]
    num_validation: int
    num_test: int
    times: SplitTimes
    history: HistoryConfig
    notes: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Readable JSON."""
        return json.dumps({**asdict(self), "history": self.history.model_dump(mode="json")}, indent=1).encode()


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
        return Summary(
            **{
                **plain,
                "times": SplitTimes(**plain["times"]),
                "history": HistoryConfig.model_validate(plain["history"]),
                "notes": tuple(plain["notes"]),
            }
        )

    def encoders(self) -> Encoders:
        """How feature columns become codes and numbers."""
        return Encoders.from_bytes(read_bytes(self.location / ENCODERS))

    def pins(self) -> RowTable:
        """The pin table."""
        return RowTable.open(self.location / PINS)

    def frequencies(self) -> pa.Table:
        """For each pin row the int64 columns conversion, engagement (training targets) and served (not engaged)."""
        return _read_table(self.location / FREQUENCIES)

    def pin_days(self) -> DayCounts | None:
        """How often each pin was acted on, by day; None where no feature counts that."""
        counts = self.location / PIN_DAYS
        return DayCounts(_read_table(counts)) if exists(counts) else None

    def files(self, part: str) -> list[Location]:
        """The Parquet files of a part, in the order of partitions."""
        directory = self.location / part
        return list_files(directory, suffix=".parquet") if exists(directory) else []

    def queries(self, part: str) -> pa.Table:
        """The evaluation queries of `VALIDATION` or `TEST` as `convcg.data.flat.queries_of` returns them."""
        history = self.summary().history
        tables = []
        for partition, file in enumerate(self.files(part)):
            tables.append(queries_of(read_part(file), *_people_and_actions(self.location.uri, partition), history))
        return pa.concat_tables(tables)

    def interactions(self) -> Iterator[pa.Table]:
        """Who did what in the training time, impressions left out, one table a partition: user, pin (int32), action
        (int8) and known (int64 microseconds), a person's rows together, in the order of `known`.
        """
        until = self.summary().times.train
        for file in self.files(ACTIONS):
            actions = read_part(file, ["user", "known", "pin", "action"])
            inside = pc.and_(
                pc.less(actions["known"], until), pc.not_equal(actions["action"], ACTION_CODE[Action.IMPRESSION])
            )
            yield actions.filter(inside)


def _read_table(location: Location) -> pa.Table:
    return pa.ipc.open_file(pa.py_buffer(read_bytes(location))).read_all()


def attached(examples: pa.Table, directory: str, history: HistoryConfig) -> pa.Table:
    """Training examples (of any partitions of the prepared `directory`, a URI) with request, person and history in
    place of references: the columns of `convcg.data.flat.queries_of`, negatives, task weights and all.
    """
    tables = []
    for partition in pc.unique(examples[PARTITION]).to_pylist():
        rows = examples.filter(pc.equal(examples[PARTITION], partition)).drop_columns([PARTITION])
        asked = examples_with_requests(rows, _requests(directory, partition))
        tables.append(queries_of(asked, *_people_and_actions(directory, partition), history))
    return pa.concat_tables(tables)


# Two: while the blocks of one partition are worked on, the first of the next one arrives.
@lru_cache(maxsize=2)
def _requests(directory: str, partition: int) -> pa.Table:
    return read_part(part_file(locate(directory), REQUESTS, partition))


@lru_cache(maxsize=2)
def _people_and_actions(directory: str, partition: int) -> tuple[pa.Table, pa.Table]:
    location = locate(directory)
    people = read_part(part_file(location, PEOPLE, partition))
    return read_part(part_file(location, ACTIONS, partition)), people


def stored_bytes(directory: Location) -> int:
    """How much the training examples take, with all that they refer to."""
    parts = (PEOPLE, ACTIONS, REQUESTS, *(task.value for task in Task))
    files = [file for part in parts if exists(directory / part) for file in list_files(directory / part)]
    return sum(file.filesystem.get_file_info(file.path).size for file in files)


def part_file(directory: Location, part: str, partition: int) -> Location:
    """The file of one partition's rows of a part."""
    return directory / part / f"part-{partition:05d}.parquet"


def read_part(file: Location, columns: list[str] | None = None) -> pa.Table:
    """One file of a part.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        return pq.read_table(file.path, filesystem=file.filesystem, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {file.uri}: {error}. Delete the prepared directory and prepare again.") from error


def write_part(table: pa.Table, directory: Location, part: str, partition: int) -> None:
    """Write one partition's rows of a part; writing it again replaces it."""
    write_parquet(table, part_file(directory, part, partition))
