"""The kinds of tower against their formulas and sizes, and the settings that are refused."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from towers import CONFIG, SHAPES, VARIANTS

from convcg.errors import ConfigError
from convcg.model.towers import HeadKind, Tower, TowerConfig, TowerKind, matched_hidden
from convcg.model.two_tower import ModelConfig, TwoTower, prefix_of
from convcg.types import TASKS


def cross_by_hand(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    out = x.double().numpy().copy()
    first = out.copy()
    for weight, bias in zip(weights, biases, strict=True):
        matrix, offset = weight.double().numpy(), bias.double().numpy()
        for row in range(len(out)):
            out[row] = first[row] * (matrix @ out[row] + offset) + out[row]
    return torch.from_numpy(out).float()


@pytest.mark.parametrize("rank", [None, 3])
def test_cross_layers_are_their_formula(rank: int | None) -> None:
    tower = Tower(7, 5, TowerConfig(kind=TowerKind.CROSS, cross_layers=3, cross_rank=rank), num_heads=1)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    layers = list(tower.trunk.layers)
    if rank is None:
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    else:
        assert all((down.weight.shape, up.weight.shape) == ((3, 7), (7, 3)) for down, up in layers)
        weights, biases = [up.weight @ down.weight for down, up in layers], [up.bias for _, up in layers]
    detached = [weight.detach() for weight in weights], [bias.detach() for bias in biases]
    torch.testing.assert_close(tower.trunk(x).detach(), cross_by_hand(x, *detached))
    torch.testing.assert_close(tower(x), tower.heads[0](tower.trunk(x)))


def test_a_rank_that_is_no_rank_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cross_rank = 7.*width 7"):
        Tower(7, 5, TowerConfig(kind=TowerKind.CROSS, cross_rank=7), num_heads=1)


def size(width: int, dim: int, num_heads: int = 1, **tower: object) -> int:
    with torch.device("meta"):
        tower = Tower(width, dim, TowerConfig(**tower), num_heads)
    return sum(parameter.numel() for parameter in tower.parameters())


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("cross", [{}, {"cross_rank": 48}, {"cross_layers": 1}])
@pytest.mark.parametrize(("width", "dim"), [(64, 64), (192, 128), (640, 64)])
@pytest.mark.parametrize("hidden", [(256,), (512, 256), (1024, 512, 256), (64, 64, 64, 64)])
def test_the_matched_tower_is_as_large_as_the_parallel_one(
    hidden: tuple[int, ...], width: int, dim: int, cross: dict[str, int], num_heads: int
) -> None:
    parallel = size(width, dim, num_heads, kind="parallel", hidden=hidden, **cross)
    matched = size(width, dim, num_heads, kind="sequential_matched", hidden=hidden, **cross)
    assert abs(matched - parallel) < 0.02 * parallel
    config = TowerConfig(kind="sequential_matched", hidden=hidden, **cross)
    assert all(wide > given for wide, given in zip(matched_hidden(width, dim, config, num_heads), hidden, strict=True))


def test_the_sequential_tower_sees_nothing_beside_its_cross_layers() -> None:
    narrow = size(192, 64, kind="sequential", hidden=[256])
    assert narrow == 3 * (192 * 192 + 192) + (192 + 1) * 256 + (256 + 1) * 64
    tower = Tower(7, 5, TowerConfig(kind="sequential", hidden=(3,)), num_heads=1).eval()
    x = torch.randn(4, 7)
    cross, narrow_layer, *_ = tower.trunk
    torch.testing.assert_close(tower(x), tower.heads[0](F.gelu(narrow_layer(cross(x)))))


def test_the_parallel_tower_joins_cross_layers_and_mlp() -> None:
    tower = Tower(7, 5, TowerConfig(kind="parallel", hidden=(6, 4)), num_heads=1).eval()
    x = torch.randn(4, 7)
    first, first_norm, _, _, second, second_norm, _, _ = tower.trunk.mlp
    deep = F.gelu(second_norm(second(F.gelu(first_norm(first(x))))))
    join, norm, _ = tower.trunk.join
    joined = F.gelu(norm(join(torch.cat([tower.trunk.cross(x), deep], dim=1))))
    torch.testing.assert_close(tower(x), tower.heads[0](joined))


def test_no_tower_looks_at_its_batch() -> None:
    for config in VARIANTS.values():
        for module in TwoTower(config, SHAPES).modules():
            assert "BatchNorm" not in type(module).__name__


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ({"kind": "residual", "cross_layers": 2}, "no cross layers"),
        ({"kind": "mlp", "cross_rank": 8}, "no cross layers"),
        ({"kind": "cross", "hidden": [32]}, "no MLP"),
        ({"kind": "cross", "dropout": 0.5}, "no MLP"),
        ({"kind": "mlp", "hidden": []}, "needs hidden layers"),
        ({"kind": "parallel", "hidden": []}, "needs hidden layers"),
        ({"kind": "sequential", "hidden": [512, 256]}, "one narrow layer"),
        ({"hidden": [0]}, "width below 1"),
        ({"kind": "deep"}, "residual"),
    ],
)
def test_settings_that_mean_nothing_for_a_kind_are_refused(tower: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(query_tower=tower)


@pytest.mark.parametrize("prefixes", [(1,), (12,), (13,), (8, 4), (4, 4)])
def test_prefixes_that_are_none_are_refused(prefixes: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="prefixes"):
        ModelConfig(dim=12, prefixes=prefixes)


def test_a_prefix_is_a_unit_vector_and_the_whole_is_left_alone() -> None:
    embedding = F.normalize(torch.randn(5, 12), dim=1)
    assert prefix_of(embedding, 12) is embedding
    short = prefix_of(embedding, 4)
    torch.testing.assert_close(short.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(short, embedding[:, :4] / embedding[:, :4].norm(dim=1, keepdim=True))


def test_the_index_may_hold_what_the_model_was_trained_for() -> None:
    config = ModelConfig(dim=12, prefixes=(4, 8))
    assert [config.served_dim(dim) for dim in (None, 4, 8, 12)] == [12, 4, 8, 12]
    for dim in (6, 13):
        with pytest.raises(ConfigError, match=rf"index.dim = {dim}.*4, 8, 12"):
            config.served_dim(dim)


@pytest.mark.parametrize("heads", HeadKind)
def test_a_tower_that_need_not_change_the_width_starts_as_the_identity(heads: HeadKind) -> None:
    config = CONFIG.model_copy(update={"heads": heads, "pin_tower": TowerConfig(hidden=())})
    pin = TwoTower(config, SHAPES).pin
    x = torch.randn(3, CONFIG.dim)
    for task in TASKS:
        torch.testing.assert_close(pin(x, None, task), F.normalize(x, dim=1))
