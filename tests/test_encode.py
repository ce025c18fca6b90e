"""Queries, examples and pins as tensors, and the tables behind them."""

import zlib
from typing import Any

import pyarrow as pa
import pytest
import torch

from convcg.batch import PADDING
from convcg.data.encode import QUERY_SCHEMA, PinEncoder, encode_examples, encode_queries
from convcg.data.feature_encoders import PREFIX, fit_encoders
from convcg.data.tables import RowTable, build_pin_table, build_user_table, write_table
from convcg.errors import DataError
from convcg.features import MAX_BAG_LENGTH, Feature, Kind
from convcg.storage import locate
from convcg.types import TASK_CODE, TASKS, Task

FEATURES = (
    Feature(name="pin_id", kind=Kind.ID),
    Feature(name="category", kind=Kind.CATEGORY),
    Feature(name="styles", kind=Kind.BAG),
    Feature(name="price", kind=Kind.NUMBER, log=True),
    Feature(name="visual", kind=Kind.VECTOR),
)
PINS = pa.table(
    {
        "pin_id": ["c", "a", "b"],
        "category": ["rug", None, "lamp"],
        "styles": [["red"], ["old", "red"], None],
        "price": [None, 3.0, 5.0],
        "visual": pa.array([[1.0, 0.0], None, [0.5, 0.5]]),
    }
)


def test_the_pin_table_is_sorted_and_keeps_raw_columns_but_not_vectors_twice() -> None:
    table = build_pin_table(PINS, fit_encoders(PINS, FEATURES))
    assert table["pin_id"].to_pylist() == ["a", "b", "c"]
    assert table["category"].to_pylist() == [None, "lamp", "rug"]
    assert table[PREFIX + "category"].to_pylist() == [0, 1, 2]
    assert "visual" not in table.column_names
    assert table[PREFIX + "visual"].to_pylist() == [None, [0.5, 0.5], [1.0, 0.0]]


def test_no_pins_are_an_error() -> None:
    with pytest.raises(DataError, match="at least one"):
        build_pin_table(PINS.slice(0, 0), ())


def test_pin_batches_gather_the_rows_of_every_feature() -> None:
    encoders = fit_encoders(PINS, FEATURES)
    pins = PinEncoder(RowTable(build_pin_table(PINS, encoders)), [encoder.shape for encoder in encoders])
    whole, rows = pins.all(), torch.tensor([2, 0, 2])
    assert whole.rows.tolist() == [0, 1, 2]
    assert whole.features.keys() == {"category", "styles", "price", "visual"}
    assert whole.features["category"].tolist() == [0, 1, 2]
    assert whole.features["visual"].tolist() == [[0, 0], [0.5, 0.5], [1, 0]]
    assert whole.features["styles"][:, :2].tolist() == [[1, 2], [PADDING, PADDING], [2, PADDING]]
    assert whole.features["price"][:, 1].tolist() == [0, 0, 1]
    batch = pins.batch(rows)
    assert batch.rows is rows
    assert len(batch) == 3
    for name, column in batch.features.items():
        assert torch.equal(column, whole.features[name][rows])


def queries(**columns: Any) -> pa.Table:
    rows = {
        "surface": [0, 2, 1],
        "subject_pin": [-1, -1, 7],
        "query": [None, "Red Lamp, red!", ""],
        "history_pin": [[5, 6], [], [4]],
        "history_action": [[1, 2], [], [4]],
        "history_surface": [[-1, 0], [], [2]],
        "history_age": [[60.5, 1.0], [], [3.0]],
        "history_dwell": [[float("nan"), 12.5], [], [float("nan")]],
    } | columns
    return pa.table({name: pa.array(rows[name], kind) for name, kind in zip(rows, QUERY_SCHEMA.types, strict=False)})


def test_queries_become_padded_tensors() -> None:
    batch = encode_queries(queries(), ())
    red, lamp = zlib.crc32(b"red"), zlib.crc32(b"lamp")
    assert len(batch) == 3
    assert batch.surface.tolist() == [0, 2, 1]
    assert batch.subject_pin.tolist() == [PADDING, PADDING, 7]
    assert batch.query_words.tolist() == [[PADDING] * 3, [red, lamp, red], [PADDING] * 3]
    assert batch.history_pin.tolist() == [[5, 6], [PADDING] * 2, [4, PADDING]]
    assert batch.history_action.tolist() == [[1, 2], [PADDING] * 2, [4, PADDING]]
    assert batch.history_surface.tolist() == [[-1, 0], [PADDING] * 2, [2, PADDING]]
    assert batch.history_age[0].tolist() == [60.5, 1.0]
    assert torch.equal(batch.history_dwell[0].isnan(), torch.tensor([True, False]))
    assert batch.history_dwell[0, 1] == 12.5
    integers = (batch.surface, batch.subject_pin, batch.query_words, batch.history_pin, batch.history_action)
    assert all(tensor.dtype == torch.int64 for tensor in integers)
    assert batch.history_age.dtype == torch.float32


def test_query_words_never_change() -> None:
    # Hashes are baked into trained tables: literal values, so that another Python or platform cannot change them.
    words = encode_queries(queries(query=["Lampe für Küche", None, "a" * 3]), ()).query_words
    assert words[0].tolist() == [1_267_878_245, 1_520_152_190, 4_035_787_794]
    assert words[2, 0] == 4_027_020_077


def test_long_queries_keep_their_first_words() -> None:
    words = encode_queries(queries(query=[" ".join("abcdefghijklmnopqrstuvw"), None, None]), ()).query_words
    assert words.shape == (3, MAX_BAG_LENGTH)
    assert words[0, -1] == zlib.crc32(b"p")


def test_queries_of_a_sliced_and_chunked_table_are_the_same_rows() -> None:
    whole = queries()
    mixed = pa.concat_tables([whole.slice(2), whole]).slice(1, 2)
    batch, expected = encode_queries(mixed, ()), encode_queries(whole.slice(0, 2), ())
    for name in ("surface", "subject_pin", "query_words", "history_pin", "history_age"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name


def test_no_queries_are_an_empty_batch() -> None:
    batch = encode_queries(queries().slice(0, 0), ())
    assert len(batch) == 0
    assert batch.history_pin.shape == (0, 0)


def test_queries_carry_user_features() -> None:
    users = PINS.drop_columns("pin_id").slice(0, 3)
    encoders = fit_encoders(users, FEATURES[1:])
    table = queries()
    for encoder in encoders:
        table = table.append_column(PREFIX + encoder.feature.name, encoder.encode(users[encoder.feature.name]))
    features = encode_queries(table, [encoder.shape for encoder in encoders]).features
    assert features["category"].tolist() == [2, 0, 1]
    assert features["styles"].shape == (3, MAX_BAG_LENGTH)
    assert features["price"].shape == (3, 2)
    assert features["visual"].tolist() == [[1, 0], [0, 0], [0.5, 0.5]]
    features["visual"][0, 0] = 9  # writable: nothing shares Arrow's immutable memory
    assert table[PREFIX + "visual"][0].as_py() == [1.0, 0.0]


@pytest.mark.parametrize("task", TASKS)
def test_examples_carry_what_they_teach(task: Task) -> None:
    table = queries().append_column("target", pa.array([3, 1, 2], pa.int32()))
    table = table.append_column("weight", pa.array([1.0, 0.5, 0.25], pa.float32()))
    table = table.append_column("user_id", pa.array(["a", "b", "a"]))
    table = table.append_column("negatives", pa.array([[7, 9], [], [8]], pa.list_(pa.int32())))
    batch = encode_examples(table, (), task)
    assert len(batch) == 3
    assert batch.query.task.tolist() == [TASK_CODE[task]] * 3
    assert batch.negatives.tolist() == [[7, 9], [-1, -1], [8, -1]]
    assert batch.user[0] == batch.user[2] != batch.user[1]
    assert (batch.target.dtype, batch.target.tolist()) == (torch.int64, [3, 1, 2])
    assert (batch.weight.dtype, batch.weight.tolist()) == (torch.float32, [1.0, 0.5, 0.25])
    assert torch.equal(batch.query.history_pin, encode_queries(queries(), ()).history_pin)


IDS = ["", "B", "a", "a1", "b", "é", "中", "😀"]


def test_rows_of_ids_are_found_one_by_one_and_together(tmp_path) -> None:
    write_table(build_user_table(pa.table({"user_id": IDS[::-1], "age": range(8)})), locate(tmp_path / "t.arrow"))
    table = RowTable.open(locate(tmp_path / "t.arrow"))
    assert len(table) == 8
    assert table.ids.to_pylist() == sorted(IDS)
    for row, key in enumerate(sorted(IDS)):
        assert table.row(key) == row
    asked = ["a1", None, "zz", "a0", "B"]
    assert [table.row(key) for key in asked if key] == [3, None, None, 1]
    assert table.rows(pa.array(asked)).tolist() == [3, -1, -1, -1, 1]
    assert table.rows(pa.chunked_array([asked[:1], asked[1:]])).tolist() == [3, -1, -1, -1, 1]
    assert table.rows(pa.array([], pa.string())).tolist() == []
    assert table.column("age").to_pylist() == list(range(7, -1, -1))
    assert table.column("height") is None


def test_an_empty_table_knows_nobody(tmp_path) -> None:
    write_table(pa.table({"user_id": pa.array([], pa.string())}), locate(tmp_path / "t.arrow"))
    table = RowTable.open(locate(tmp_path / "t.arrow"))
    assert len(table) == 0
    assert table.row("a") is None
    assert table.rows(pa.array(["a"])).tolist() == [-1]


@pytest.mark.parametrize("content", [None, b"", b"no Arrow file"])
def test_a_table_that_cannot_be_opened_is_an_error_that_names_it(tmp_path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "pins.arrow").write_bytes(content)
    with pytest.raises(DataError, match=r"pins\.arrow.*again"):
        RowTable.open(locate(tmp_path / "pins.arrow"))
