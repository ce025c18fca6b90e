"""The transformer over histories against its formulas in NumPy, and what its tokens and pools hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn
from towers import NUM_PINS, TRANSFORMER, random_queries, rows_of, seeded

from convcg.batch import PADDING, QueryBatch
from convcg.model.history import GatedBlock, HistoryEncoderConfig, HistoryTransformer, Places

WIDTH, SEEN, CONTEXT, OUT, B, L = 8, 5, 3, 4, 14, 6
Matrix = NDArray[np.float64]


def randomised(module: nn.Module) -> nn.Module:
    generator = seeded(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module.double().eval()


def linear(layer: nn.Module, x: Matrix) -> Matrix:
    bias = 0.0 if layer.bias is None else layer.bias.detach().numpy()
    return x @ layer.weight.detach().numpy().T + bias


def norm(layer: nn.LayerNorm, x: Matrix) -> Matrix:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return unit * layer.weight.detach().numpy() + layer.bias.detach().numpy()


def sigmoid(x: Matrix) -> Matrix:
    return 1 / (1 + np.exp(-x))


def attention(layer: nn.Module, asked: Matrix, states: Matrix) -> Matrix:
    """One history at a time: [Q, w] ask [L, w], of which all are present."""
    query, key, value = linear(layer.query, asked), linear(layer.key, states), linear(layer.value, states)
    size = WIDTH // layer.num_heads
    answers = []
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        weight = np.exp(query[:, part] @ key[:, part].T / np.sqrt(size))
        answers.append(weight / weight.sum(1, keepdims=True) @ value[:, part])
    return linear(layer.out, np.concatenate(answers, axis=1))


def gated(block: GatedBlock, x: Matrix) -> Matrix:
    normed = norm(block.attention_norm, x)
    x = x + sigmoid(linear(block.attention_gate, x)) * attention(block.attention, normed, normed)
    normed = norm(block.forward_norm, x)
    gate = linear(block.gate, normed)
    moved = linear(block.down, gate * sigmoid(gate) * linear(block.up, normed))
    return x + sigmoid(linear(block.forward_gate, x)) * moved


def passed(block: GatedBlock, x: Tensor, present: Tensor) -> Tensor:
    places = Places.of(present)
    return places.spread(block(places.taken(x), places)).detach()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_gated_block_is_its_formula_over_what_is_present(heads: int) -> None:
    block = randomised(GatedBlock(WIDTH, heads=heads, dropout=0.5))
    x = torch.randn(B, L, WIDTH, dtype=torch.float64, generator=seeded(1))
    present = random_queries(B).history_pin != PADDING
    found = passed(block, x, present)
    for row in range(1, B):
        if length := int(present[row].sum()):
            np.testing.assert_allclose(found[row, :length], gated(block, x[row, :length].numpy()), rtol=1e-10)


def test_a_hidden_action_in_the_middle_is_as_if_it_were_not_there() -> None:
    block = randomised(GatedBlock(WIDTH, heads=2, dropout=0.0))
    x = torch.randn(1, 4, WIDTH, dtype=torch.float64, generator=seeded(1))
    kept = torch.tensor([[True, False, True, True]])
    np.testing.assert_allclose(passed(block, x, kept)[0, [0, 2, 3]], gated(block, x[0, [0, 2, 3]].numpy()), rtol=1e-10)


def encoder() -> HistoryTransformer:
    config = TRANSFORMER.model_copy(update={"recent": 3, "layers": 2})
    module = randomised(HistoryTransformer(SEEN, OUT, CONTEXT, config))
    assert isinstance(module, HistoryTransformer)
    return module


SEEN_PD = torch.randn(NUM_PINS, SEEN, dtype=torch.float64, generator=seeded(2))
CONTEXT_BC = torch.randn(B, CONTEXT, dtype=torch.float64, generator=seeded(3))


def encoded(module: HistoryTransformer, queries: QueryBatch, context: Tensor = CONTEXT_BC) -> Tensor:
    queries = queries.to("cpu", torch.float64)
    history = SEEN_PD[queries.history_pin.clamp(min=0)]
    return module(queries, history, queries.history_pin != PADDING, context).detach()


def floor_log2(number: float, most: int) -> int:
    return min(int(np.floor(np.log2(number))), most)


def token(module: HistoryTransformer, queries: QueryBatch, row: int, place: int) -> Matrix:
    age = queries.history_age[row].tolist()
    length = int((queries.history_pin[row] != PADDING).sum())
    later = age[place + 1] if place + 1 < length else 0.0
    dwell = queries.history_dwell[row, place].item()
    surface = queries.history_surface[row, place].item()
    rows = {
        "action": queries.history_action[row, place].item(),
        "surface": 3 if surface == PADDING else surface,
        "age": floor_log2(age[place] / 60 + 1, 20),
        "gap": floor_log2(max(age[place] - later, 0) + 1, 26),
        "dwell": 0 if np.isnan(dwell) else floor_log2(dwell + 1, 10) + 1,
    }
    total = linear(module.pin, SEEN_PD[queries.history_pin[row, place]].numpy())
    for name, code in rows.items():
        total = total + getattr(module, name).weight[code].detach().numpy()
    return norm(module.norm, total)


def test_the_encoder_is_its_formula() -> None:
    module, queries = encoder(), random_queries(B)
    found = encoded(module, queries)
    for row in range(B):
        length = int((queries.history_pin[row] != PADDING).sum())
        pooled = module.empty.detach().numpy()
        if length:
            states = np.stack([token(module, queries, row, place) for place in range(length)])
            for block in module.blocks:
                states = gated(block, states)
            states = norm(module.final_norm, states)
            asked = linear(module.asked, CONTEXT_BC[row].numpy())[None]
            pools = [states[-1], states[-3:].mean(0), attention(module.cross, asked, states)[0]]
            pooled = np.concatenate(pools)
        np.testing.assert_allclose(found[row], linear(module.out, pooled), rtol=1e-9, atol=1e-12)


def test_the_time_to_the_next_action_matters() -> None:
    module, queries = encoder(), rows_of(random_queries(B), torch.arange(2, B))
    ages = queries.history_age.sort(1, descending=True).values
    slower = replace(queries, history_age=ages + 40 * (torch.arange(L) == 0))
    found, other = (encoded(module, each, CONTEXT_BC[2:]) for each in (replace(queries, history_age=ages), slower))
    several = (queries.history_pin != PADDING).sum(1) > 1
    same_age = torch.log2(ages[:, 0] / 60 + 1).long() == torch.log2((ages[:, 0] + 40) / 60 + 1).long()
    gaps = [torch.log2(each - ages[:, 1] + 1).long() for each in (ages[:, 0], ages[:, 0] + 40)]
    changed = (found - other).abs().amax(1) > 1e-9
    assert torch.equal(changed[several & same_age], (gaps[0] != gaps[1])[several & same_age])


def test_the_context_asks_the_history_and_an_empty_one_has_nothing_to_say() -> None:
    module, queries = encoder(), random_queries(B)
    moved = (encoded(module, queries) - encoded(module, queries, CONTEXT_BC + 1)).abs().amax(1) > 1e-9
    assert torch.equal(moved, (queries.history_pin != PADDING).sum(1) > 1)  # one alone is all that can be answered


def test_an_empty_history_gets_a_trained_vector() -> None:
    module = encoder()
    nobody = rows_of(random_queries(B, longest=0), torch.arange(B))
    for width in (0, 3):
        found = encoded(module, rows_of(nobody, torch.arange(B), width=width))
        torch.testing.assert_close(found, module.out(module.empty).detach().expand(B, OUT))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 3}, "layers is the transformer's"),
        ({"kind": "mean", "recent": 3}, "recent is the transformer's"),
        ({"kind": "transformer", "width": 30}, "width = 30 must be a multiple of heads = 4"),
        ({"kind": "gru"}, "transformer"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HistoryEncoderConfig.model_validate(settings)
