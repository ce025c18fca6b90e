"""Vectors of pins: against a dense decomposition, on planted communities, and in files."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from convcg.data.feature_encoders import PREFIX, Encoders, FeatureEncoder
from convcg.data.tables import RowTable
from convcg.errors import ConfigError, DataError, StorageError
from convcg.features import Feature, FeatureShape, FeatureShapes, Kind
from convcg.graph.build import Built, build
from convcg.graph.config import GraphConfig, GraphKind
from convcg.graph.engagement import degrees, neighbors, person_by_pin
from convcg.graph.spectral import spectral_vectors
from convcg.graph.vectors import GraphVectors, completed, required, start_of_pins, write_none
from convcg.storage import locate

NUM_PINS, NUM_PEOPLE, NUM_GROUPS = 48, 90, 3
KINDS = (GraphKind.SPECTRAL, GraphKind.ALS, GraphKind.GRAPHSAGE)
#: The last pins of the planted world: two of each group that nobody acted on, then one without content, too.
NUM_UNSEEN = 2 * NUM_GROUPS + 1
SMALL = {"graphsage": {"steps": 60, "num_neighbors": 5, "batch_size": 256, "learning_rate": 0.01}}


def random_interactions(seed: int) -> tuple[list[pa.Table], np.ndarray]:
    """Two partitions of people with repeats, and the same as a dense 0/1 matrix; nobody acts on the last pin."""
    rng = np.random.default_rng(seed)
    tables, dense = [], []
    for _ in range(2):
        user, pin = rng.integers(0, NUM_PEOPLE // 2, 400), rng.integers(0, NUM_PINS - 1, 400)
        user[:1] = NUM_PEOPLE // 2 - 1  # so that the partition has all its people
        tables.append(pa.table({"user": user.astype(np.int32), "pin": pin.astype(np.int32)}))
        acted = np.zeros((NUM_PEOPLE // 2, NUM_PINS))
        acted[user, pin] = 1
        dense.append(acted)
    return tables, np.concatenate(dense)


def planted() -> tuple[pa.Table, RowTable, tuple[FeatureShape, ...]]:
    """People act on pins of their own group; a pin's content says its group: a category, a bag, a number, a vector."""
    rng = np.random.default_rng(0)
    group = np.arange(NUM_PINS) % NUM_GROUPS
    user = np.repeat(np.arange(NUM_PEOPLE, dtype=np.int32), 6)
    seen = np.arange(NUM_PINS - NUM_UNSEEN)
    pin = np.array([rng.choice(seen[group[seen] == each % NUM_GROUPS]) for each in user], np.int32)
    visual = np.eye(NUM_GROUPS)[group] + rng.normal(0, 0.2, (NUM_PINS, NUM_GROUPS))
    last = NUM_PINS - 1
    raw = {
        "kind": [None if row == last else f"kind {group[row]}" for row in range(NUM_PINS)],
        "styles": [[] if row == last else [f"style {group[row]}", "any"] for row in range(NUM_PINS)],
        "price": [None if row == last else float(group[row] == 0) for row in range(NUM_PINS)],
        "visual": [None if row == last else visual[row].tolist() for row in range(NUM_PINS)],
    }
    encoders = (
        FeatureEncoder(
            feature=Feature(name="kind", kind=Kind.CATEGORY), size=4, values=tuple(f"kind {g}" for g in range(3))
        ),
        FeatureEncoder(
            feature=Feature(name="styles", kind=Kind.BAG), size=5, values=("any", "style 0", "style 1", "style 2")
        ),
        FeatureEncoder(feature=Feature(name="price", kind=Kind.NUMBER), size=2, mean=0.3, deviation=0.5),
        FeatureEncoder(feature=Feature(name="visual", kind=Kind.VECTOR), size=NUM_GROUPS),
    )
    columns = {"pin_id": [f"p{row:02d}" for row in range(NUM_PINS)]}
    encoded = {PREFIX + each.feature.name: each.encode(pa.array(raw[each.feature.name])) for each in encoders}
    shapes = Encoders(pin=encoders, user=()).shapes.pin
    pin_id = FeatureShape(name="pin_id", kind=Kind.ID, size=NUM_PINS)
    return pa.table({"user": user, "pin": pin}), RowTable(pa.table({**columns, **encoded})), (pin_id, *shapes)


def built(kind: GraphKind, *, content: bool = True) -> Built:
    interactions, pins, shapes = planted()
    config = GraphConfig.model_validate({"kind": kind, "dim": 8, **SMALL})
    return build(config, [interactions], pins, shapes if content else shapes[:1])


def test_spectral_dot_products_are_those_of_a_dense_decomposition() -> None:
    tables, acted = random_interactions(0)
    by_person, by_pin = ((degree + 1) ** -0.5 for degree in (acted.sum(1), acted.sum(0)))
    _, values, components = np.linalg.svd(by_person[:, None] * acted * by_pin[None, :])
    wanted = components[:5].T * np.sqrt(values[:5])
    found = spectral_vectors(person_by_pin(tables, NUM_PINS), dim=5, seed=0)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-5)


def test_fewer_people_than_directions_leave_the_last_ones_empty() -> None:
    found = spectral_vectors(person_by_pin(random_interactions(0)[0], NUM_PINS), dim=60, seed=0)
    assert found.shape == (NUM_PINS, 60)
    assert found[:, : NUM_PINS - 2].any(axis=0).all()
    assert not found[:, NUM_PINS - 1 :].any()


def test_degrees_count_people_not_actions() -> None:
    tables, acted = random_interactions(1)
    assert degrees(person_by_pin(tables, NUM_PINS)).tolist() == acted.sum(0).tolist()


@pytest.mark.parametrize("count", [1, 4])
def test_neighbors_are_the_largest_cosines_of_either_side(count: int) -> None:
    tables, acted = random_interactions(2)
    length = np.maximum(np.linalg.norm(acted, axis=0), 1)
    cosine = (acted.T @ acted) / np.outer(length, length)
    np.fill_diagonal(cosine, 0)
    order = np.argsort(-cosine.round(6), axis=1, kind="stable")[:, :count]
    wanted = np.zeros_like(cosine)
    np.put_along_axis(wanted, order, np.take_along_axis(cosine, order, axis=1), axis=1)
    found = neighbors(person_by_pin(tables, NUM_PINS), count)
    assert found.getnnz(axis=1)[:-1].min() >= count
    assert found.getnnz(axis=1)[-1] == 0
    np.testing.assert_allclose(found.toarray(), np.maximum(wanted, wanted.T), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pins_of_one_community_lie_close_together(kind: GraphKind) -> None:
    unit = unit_rows(built(kind).vectors.vector_Nd)[: NUM_PINS - NUM_UNSEEN]
    group = np.arange(len(unit)) % NUM_GROUPS
    cosine, same = unit @ unit.T, group[:, None] == group[None, :]
    assert cosine[same].mean() > cosine[~same].mean() + 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_a_pin_that_nobody_acted_on_is_nearest_to_the_community_of_its_content(kind: GraphKind) -> None:
    unit = unit_rows(built(kind).vectors.vector_Nd)
    seen, group = NUM_PINS - NUM_UNSEEN, np.arange(NUM_PINS) % NUM_GROUPS
    centres = np.stack([unit[:seen][group[:seen] == each].mean(0) for each in range(NUM_GROUPS)])
    nearest = (unit[seen:-1] @ centres.T).argmax(1)
    assert nearest.tolist() == group[seen:-1].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_have_mean_length_one_and_are_zero_without_actions_and_content(kind: GraphKind) -> None:
    found = built(kind)
    length = np.linalg.norm(found.vectors.vector_Nd, axis=1)
    assert length[-1] == 0
    assert length[:-1].min() > 0
    assert abs(length[:-1].mean() - 1) < 1e-5
    assert found.vectors.vector_Nd.dtype == np.float32
    assert (found.num_from_edges, found.num_from_content, found.num_without) == (NUM_PINS - NUM_UNSEEN, 6, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_without_content_unseen_pins_are_zero(kind: GraphKind) -> None:
    found = built(kind, content=False)
    assert not found.vectors.vector_Nd[-NUM_UNSEEN:].any()
    assert (found.num_from_content, found.num_without) == (0, NUM_UNSEEN)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bits(kind: GraphKind) -> None:
    first, again = (built(kind).vectors.vector_Nd for _ in range(2))
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pin_and_a_person_of_their_own_do_not_disturb_the_others(kind: GraphKind) -> None:
    interactions, pins, shapes = planted()
    apart = pa.table({"user": pa.array([0], pa.int32()), "pin": pa.array([NUM_PINS - 1], pa.int32())})
    config = GraphConfig.model_validate({"kind": kind, "dim": NUM_GROUPS, **SMALL})
    unit = unit_rows(build(config, [interactions, apart], pins, shapes).vectors.vector_Nd)[: NUM_PINS - NUM_UNSEEN]
    same = np.arange(len(unit))[:, None] % NUM_GROUPS == np.arange(len(unit))[None, :] % NUM_GROUPS
    assert (unit @ unit.T)[same].mean() > (unit @ unit.T)[~same].mean() + 0.25


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [(GraphKind.ALS, "implicit.cpu.als", "eval"), (GraphKind.GRAPHSAGE, "torch_geometric.nn", "graph")],
)
def test_a_package_that_is_not_installed_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, kind: GraphKind, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself does where an import is not to be found
    with pytest.raises(ConfigError, match=rf"pip install 'convcg\[{extra}\]'"):
        built(kind)


def test_nobody_is_an_error_with_a_remedy() -> None:
    _, pins, shapes = planted()
    with pytest.raises(DataError, match=r"Set graph\.kind to none"):
        build(GraphConfig(kind=GraphKind.SPECTRAL), [], pins, shapes)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    vectors = GraphVectors(np.arange(12, dtype=np.float32).reshape(4, 3), np.array([3, 0, 1, 2]))
    vectors.write(locate(tmp_path / "graph.arrow"))
    again = GraphVectors.read(locate(tmp_path / "graph.arrow"), num_pins=4)
    assert again is not None
    np.testing.assert_array_equal(again.vector_Nd, vectors.vector_Nd)
    np.testing.assert_array_equal(again.degree_N, vectors.degree_N)
    assert again.vector_Nd.flags.writeable
    assert again.degree_N.flags.writeable


def test_no_vectors_are_read_back_as_none(tmp_path: Path) -> None:
    write_none(locate(tmp_path / "graph.arrow"))
    assert GraphVectors.read(locate(tmp_path / "graph.arrow"), num_pins=4) is None


def test_a_file_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    file = tmp_path / "graph.arrow"
    with pytest.raises(StorageError, match="Run the graph stage first"):
        GraphVectors.read(locate(file))
    file.write_bytes(b"no Arrow file")
    with pytest.raises(DataError, match="Run the graph stage again"):
        GraphVectors.read(locate(file))
    GraphVectors(np.ones((4, 3), np.float32), np.ones(4, np.int64)).write(locate(file))
    with pytest.raises(DataError, match="vectors of 4 pins, there are 5"):
        GraphVectors.read(locate(file), num_pins=5)


def test_shapes_are_completed_with_the_length_of_the_vectors() -> None:
    price = FeatureShape(name="price", kind=Kind.NUMBER, size=2)
    shapes = FeatureShapes(pin=(price, FeatureShape(name="graph", kind=Kind.GRAPH, size=0)), user=(price,))
    found = completed(shapes, GraphVectors(np.ones((4, 3), np.float32), np.ones(4, np.int64)))
    assert [shape.size for shape in found.pin] == [2, 3]
    assert found.user == shapes.user
    with pytest.raises(ConfigError, match=r"'graph' of kind graph needs vectors of pins, but graph\.kind is none"):
        completed(shapes, None)


def test_a_start_from_vectors_that_do_not_fit_is_an_error_with_a_remedy() -> None:
    vectors = GraphVectors(np.ones((4, 3), np.float32), np.ones(4, np.int64))
    assert start_of_pins(vectors, dim=3) is vectors
    with pytest.raises(ConfigError, match=r"Set graph\.dim to 5"):
        start_of_pins(vectors, dim=5)
    with pytest.raises(ConfigError, match=r"graph\.kind is none"):
        required(None, by="model.pin_start = graph")


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def test_neighbors_of_nothing_are_none() -> None:
    assert neighbors(sp.csr_matrix((0, 3), dtype=np.float32), 2).nnz == 0
