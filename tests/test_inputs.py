"""Features to vectors: hashed ids, hidden ids and categories, missing vectors, and the vectors of a graph."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from towers import seeded

from convcg.errors import ConfigError
from convcg.features import UNKNOWN_CODE, FeatureShape, Kind
from convcg.model.inputs import FeatureInputs, hashes

N, WIDTH = 4000, 6
ROWS = torch.arange(N)
ID = FeatureShape(name="pin_id", kind=Kind.ID, size=N)
HASHED = replace(ID, hashed_rows=512)
CATEGORY = FeatureShape(name="kind", kind=Kind.CATEGORY, size=9)
VISUAL = FeatureShape(name="visual", kind=Kind.VECTOR, size=3)


def inputs(*shapes: FeatureShape, width: int = WIDTH) -> FeatureInputs:
    torch.manual_seed(1)
    return FeatureInputs(width, shapes)


@pytest.mark.parametrize("num_rows", [2, 512, 1000, 1 << 31])
def test_hashes_spread_pins_evenly_and_independently(num_rows: int) -> None:
    one, other = (hashes(ROWS, num_rows, number).numpy() for number in range(2))
    for places in (one, other):
        assert 0 <= places.min() < places.max() < num_rows
        in_tenths = np.bincount(places * min(10, num_rows) // num_rows)
        assert np.abs(in_tenths * len(in_tenths) / N - 1).max() < 0.2
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.05


def test_pins_share_halves_of_vectors_but_hardly_ever_both() -> None:
    layer = inputs(HASHED)
    [found] = layer({}, ROWS)
    assert found.shape == (N, WIDTH)
    first, second = (set(map(tuple, half.tolist())) for half in (found[:, :3], found[:, 3:]))
    assert max(len(first), len(second)) <= 512
    assert first & second  # one table
    assert len(set(map(tuple, found.tolist()))) > 0.98 * N
    assert sum(each.numel() for each in layer.parameters()) == 512 * 3
    assert found.detach().norm(dim=1).mean().item() == pytest.approx(1, abs=0.15)


def test_a_hashed_vector_may_have_an_odd_width() -> None:
    [found] = inputs(HASHED, width=5)({}, ROWS)
    assert found.shape == (N, 5)


def test_an_id_that_is_not_hashed_has_a_row_of_its_own() -> None:
    layer = inputs(ID)
    assert torch.equal(layer({}, ROWS)[0], layer.id_table().weight)


@pytest.mark.parametrize("shape", [ID, HASHED], ids=["own", "hashed"])
def test_a_share_of_ids_is_hidden_in_training_alone(shape: FeatureShape) -> None:
    layer = inputs(replace(shape, dropout=0.25))
    unknown = layer.layers[0].unknown
    shown = inputs(shape)({}, ROWS)[0]
    layer.load_state_dict(inputs(shape).state_dict(), strict=False)
    assert torch.equal(layer.eval()({}, ROWS)[0], shown)
    found = layer.train()({}, ROWS)[0]
    hidden = (found == unknown).all(1)
    assert hidden.float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(found[~hidden], shown[~hidden])
    assert unknown.norm() > 0.3


def test_a_share_of_categories_reads_as_unknown_in_training_alone() -> None:
    layer = inputs(replace(CATEGORY, dropout=0.25))
    code = torch.randint(1, 9, (N,), generator=seeded(0))
    table = layer.layers[0].weight
    assert torch.equal(layer.eval()({"kind": code}, None)[0], table[code])
    found = layer.train()({"kind": code}, None)[0]
    hidden = (found == table[UNKNOWN_CODE]).all(1)
    assert hidden.float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(found[~hidden], table[code][~hidden])


def test_hiding_nothing_draws_nothing() -> None:
    layer = inputs(ID, CATEGORY).train()
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    layer({"kind": torch.zeros(N, dtype=torch.int64)}, ROWS)
    assert torch.equal(torch.rand(1), expected)
    assert list(dict(layer.named_parameters())) == ["layers.0.table.weight", "layers.1.weight"]


@pytest.mark.parametrize("kind", [Kind.VECTOR, Kind.GRAPH])
def test_a_missing_vector_has_a_trained_one_in_its_place(kind: Kind) -> None:
    layer = inputs(replace(VISUAL, kind=kind))
    projection = layer.layers[0]
    vector = torch.tensor([[1.0, 2, 3], [0, 0, 0], [0, 0, 1]])
    before = layer({"visual": vector}, None)[0].detach()
    torch.testing.assert_close(before, vector @ projection.weight.T + projection.bias)
    torch.nn.init.constant_(projection.missing, 2.0)
    after = layer({"visual": vector}, None)[0].detach()
    torch.testing.assert_close(after - before, torch.tensor([[0.0], [2], [0]]).expand(3, WIDTH))


def test_the_vectors_of_a_graph_that_is_not_there_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'visual'.*graph.kind"):
        inputs(replace(VISUAL, kind=Kind.GRAPH, size=0))
