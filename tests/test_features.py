"""Feature columns to codes and numbers: every kind with its missing and unknown values, and lists with padding."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from convcg.batch import PADDING
from convcg.data.feature_encoders import Encoders, FeatureEncoder, as_array, fit_encoders, padded_lists
from convcg.errors import DataError
from convcg.features import MAX_BAG_LENGTH, Feature, FeatureSpec, Kind

RNG = np.random.default_rng(5)


def fitted(kind: Kind, column: Any, **feature: bool) -> FeatureEncoder:
    [encoder] = fit_encoders(pa.table({"it": column}), [Feature(name="it", kind=kind, **feature)])
    return encoder


def encoded(encoder: FeatureEncoder, column: Any) -> np.ndarray:
    return as_array(encoder.encode(column), encoder.shape)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["b", "a", None, "b"]),
        pa.array(["b", "a", None, "b"], pa.large_string()),
        pa.array(["b", "a", None, "b"]).dictionary_encode(),
        pa.array(["z", "b", "a", None, "b"]).slice(1),
    ],
    ids=["string", "large", "dictionary", "sliced"],
)
def test_categories_are_numbered_from_one_and_the_rest_is_unknown(column: pa.Array) -> None:
    encoder = fitted(Kind.CATEGORY, column)
    assert encoder.values == ("a", "b")
    assert encoder.shape.size == 3
    assert encoded(encoder, column).tolist() == [2, 1, 0, 2]
    assert encoded(encoder, pa.array(["c", "", "a"])).tolist() == [0, 0, 1]
    assert encoded(encoder, pa.nulls(2, pa.string())).tolist() == [0, 0]


def test_categories_may_be_integers_or_booleans() -> None:
    assert encoded(fitted(Kind.CATEGORY, pa.array([10, 9, None])), pa.array([9, 10, 8])).tolist() == [2, 1, 0]
    assert encoded(fitted(Kind.CATEGORY, pa.array([True, False])), pa.array([False, None, True])).tolist() == [1, 0, 2]


BAGS = [["b", "a"], None, [], ["c", None, "a", "a"], ["b"]]
BAG_CODES = [[2, 1], [], [], [3, 0, 1, 1], [2]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(BAGS, pa.list_(pa.string())),
        pa.array(BAGS, pa.large_list(pa.large_string())),
        pa.array([["z"], *BAGS, ["z"]], pa.list_(pa.string())).slice(1, 5),
        pa.array([None, None, *BAGS], pa.list_(pa.string())).slice(2),
        pa.chunked_array([BAGS[:2], BAGS[2:]], pa.list_(pa.string())),
    ],
    ids=["list", "large", "sliced", "sliced after nulls", "chunked"],
)
def test_bags_are_padded_codes(column: pa.Array) -> None:
    encoder = fitted(Kind.BAG, pa.array(BAGS))
    expected = [codes + [PADDING] * (MAX_BAG_LENGTH - len(codes)) for codes in BAG_CODES]
    assert fitted(Kind.BAG, column).values == encoder.values == ("a", "b", "c")
    assert encoded(encoder, column).tolist() == expected


def test_a_long_bag_keeps_its_first_entries() -> None:
    words = [f"{number:02d}" for number in range(20)]
    found = encoded(fitted(Kind.BAG, pa.array([words])), pa.array([words]))
    assert found.tolist() == [list(range(1, MAX_BAG_LENGTH + 1))]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.float32()], ids=str)
def test_numbers_are_standardised_and_missing_ones_are_marked(log: bool, kind: pa.DataType) -> None:
    values = [1, 10, None, 100, 7]
    known = np.array([1.0, 10, 100, 7])
    known = np.log1p(known) if log else known
    expected = (known - known.mean()) / known.std()
    found = encoded(fitted(Kind.NUMBER, pa.array(values, kind), log=log), pa.array(values, kind))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[[0, 1, 3, 4], 0], expected, rtol=1e-6)
    assert found[:, 1].tolist() == [0, 0, 1, 0, 0]
    assert found[2, 0] == 0


def test_a_number_that_is_not_finite_is_missing_and_spoils_no_moment() -> None:
    clean = fitted(Kind.NUMBER, pa.array([1.0, 3.0]))
    spoiled = fitted(Kind.NUMBER, pa.array([1.0, float("nan"), 3.0, float("inf"), None]))
    assert (spoiled.mean, spoiled.deviation) == (clean.mean, clean.deviation) == (2.0, 1.0)
    assert encoded(spoiled, pa.array([float("nan"), 3.0, float("-inf")])).tolist() == [[0, 1], [1, 0], [0, 1]]


def test_a_number_without_a_logarithm_is_missing() -> None:
    encoder = fitted(Kind.NUMBER, pa.array([0.0, -1.0, -5.0]), log=True)
    assert encoded(encoder, pa.array([-5.0, -1.0, 0.0])).tolist() == [[0, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize("value", [0.1, 3.0, 1e9 + 0.1])
def test_a_constant_number_says_nothing_and_another_value_stays_within_reason(value: float) -> None:
    encoder = fitted(Kind.NUMBER, pa.array([value] * 1000))
    assert np.abs(encoded(encoder, pa.array([value])))[0, 0] < 1e-3
    assert np.abs(encoded(encoder, pa.array([value + 1])))[0, 0] < 2


def test_a_number_that_nobody_has_is_missing() -> None:
    encoder = fitted(Kind.NUMBER, pa.nulls(3, pa.float64()))
    assert encoded(encoder, pa.array([None, 2.0])).tolist() == [[0, 1], [2, 0]]


VECTORS = [[1.0, 2.0], None, [3.0, -4.0]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(VECTORS, pa.list_(pa.float64())),
        pa.array(VECTORS, pa.list_(pa.float32(), 2)),
        pa.array(VECTORS, pa.large_list(pa.float32())),
        pa.array([None, [9.0, 9.0], *VECTORS], pa.list_(pa.float32())).slice(2),
        pa.chunked_array([VECTORS[:1], VECTORS[1:]], pa.list_(pa.float32())),
    ],
    ids=["double", "fixed", "large", "sliced", "chunked"],
)
def test_missing_vectors_are_zeros(column: pa.Array) -> None:
    encoder = fitted(Kind.VECTOR, column)
    assert encoder.shape.size == 2
    assert encoded(encoder, column).tolist() == [[1, 2], [0, 0], [3, -4]]


@pytest.mark.parametrize(
    ("kind", "column", "rule"),
    [
        (Kind.CATEGORY, pa.array([["a"]]), "category"),
        (Kind.BAG, pa.array(["a"]), "bag"),
        (Kind.NUMBER, pa.array(["cheap"]), "number"),
        (Kind.NUMBER, pa.array([[1.0]]), "number"),
        (Kind.VECTOR, pa.array([1.0]), "vector"),
        (Kind.VECTOR, pa.array([[1.0], [1.0, 2.0]]), "one length"),
        (Kind.VECTOR, pa.nulls(2, pa.list_(pa.float32())), "one length"),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_column_of_the_wrong_type_is_an_error_that_names_it(kind: Kind, column: pa.Array, rule: str) -> None:
    with pytest.raises(DataError, match=rf"'it'.*{rule}"):
        fitted(kind, column)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Kind.CATEGORY, pa.array(["a"]), pa.array([["a"]])),
        (Kind.BAG, pa.array([["a"]]), pa.array(["a"])),
        (Kind.NUMBER, pa.array([1.0]), pa.array(["cheap"])),
        (Kind.VECTOR, pa.array([[1.0, 2.0]]), pa.array([[1.0, 2.0, 3.0]])),
        (Kind.VECTOR, pa.array([[1.0, 2.0]]), pa.array([1.0])),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_what_serving_brings_of_the_wrong_type_is_an_error_too(kind: Kind, good: pa.Array, bad: pa.Array) -> None:
    with pytest.raises(DataError, match=rf"'it' is declared as {kind.value}"):
        fitted(kind, good).encode(bad)


def test_a_missing_column_is_an_error_that_names_the_others() -> None:
    with pytest.raises(DataError, match=r"'prize'.*it has pin_id, price"):
        fit_encoders(pa.table({"pin_id": ["a"], "price": [1.0]}), [Feature(name="prize", kind=Kind.NUMBER)])


def test_encoders_survive_json() -> None:
    number, bag = pa.array([1.0, 2.5]), pa.array([["a"], ["b", "é"]])
    table = pa.table({"id": ["x", "y"], "one": number, "two": bag, "three": ["u", None], "four": [[1.0], [2.0]]})
    kinds = {"one": Kind.NUMBER, "two": Kind.BAG, "three": Kind.CATEGORY, "four": Kind.VECTOR}
    features = [Feature(name=name, kind=kind, log=name == "one") for name, kind in kinds.items()]
    pin = [Feature(name="id", kind=Kind.ID, hashed_rows=8, dropout=0.2), Feature(name="graph", kind=Kind.GRAPH)]
    encoders = Encoders(pin=fit_encoders(table, pin + features), user=fit_encoders(table, features))
    assert Encoders.from_bytes(encoders.to_bytes()) == encoders
    assert [shape.size for shape in encoders.shapes.pin] == [2, 0, 2, 4, 2, 1]
    assert [(shape.hashed_rows, shape.dropout) for shape in encoders.shapes.pin[:2]] == [(8, 0.2), (None, 0.0)]


@pytest.mark.parametrize(
    ("side", "feature", "message"),
    [
        ("pin", {"kind": "category", "hashed_rows": 100}, "hashed_rows is for kind id"),
        ("pin", {"kind": "id", "hashed_rows": 1}, "greater than or equal to 2"),
        ("pin", {"kind": "bag", "dropout": 0.1}, "dropout is for kinds id and category"),
        ("pin", {"kind": "id", "dropout": 1.0}, "less than 1"),
        ("user", {"kind": "id"}, "which pins have and people do not"),
        ("user", {"kind": "graph"}, "which pins have and people do not"),
    ],
)
def test_a_feature_that_means_nothing_is_refused(side: str, feature: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FeatureSpec.model_validate({side: [{"name": "it", **feature}]})


LISTS = [[1, 2, 3], None, [], [4], None, [5, 6]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(LISTS, pa.list_(pa.int32())),
        pa.array(LISTS, pa.large_list(pa.int8())),
        pa.array([[7] * 9, None, *LISTS, [8]], pa.list_(pa.int32())).slice(2, 6),
    ],
    ids=["list", "large", "sliced"],
)
def test_lists_are_padded_on_the_right(column: pa.Array) -> None:
    assert padded_lists(column).tolist() == [[1, 2, 3], [-1] * 3, [-1] * 3, [4, -1, -1], [-1] * 3, [5, 6, -1]]
    assert padded_lists(column, 2).tolist() == [[1, 2], [-1, -1], [-1, -1], [4, -1], [-1, -1], [5, 6]]
    assert padded_lists(column, 4).shape == (6, 4)
    assert padded_lists(column, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("lists", [[], [None], [[]], [None, []]])
def test_padding_nothing_has_no_width(lists: list) -> None:
    assert padded_lists(pa.array(lists, pa.list_(pa.int32()))).shape == (len(lists), 0)


def test_padded_lists_are_the_lists_of_random_arrays() -> None:
    for _ in range(100):
        lists = [None if RNG.random() < 0.2 else RNG.integers(0, 99, RNG.integers(0, 5)).tolist() for _ in range(20)]
        start, width = int(RNG.integers(0, 10)), int(RNG.integers(1, 6))
        padded = padded_lists(pa.array(lists, pa.list_(pa.int32())).slice(start, 8), width)
        expected = [((each or []) + [PADDING] * width)[:width] for each in lists[start : start + 8]]
        assert padded.tolist() == expected
