"""The mean gradient of sampled losses against the exact one that they estimate."""

import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from losses import TEMPERATURE, softmax, unit
from torch import Tensor

from convcg.model.advertiser import AdvertiserForm, AdvertiserLossConfig, Advertisers
from convcg.model.loss import PinShares, log_expected_count

NUM_PINS, DIM, NUM_DRAWS, NUM_POOLS = 48, 6, 2, 300
#: Head, middle and tail.
TARGET = torch.tensor([0, 0, 1, 3, 8, 20, 33, 47])
ADVERTISER_WEIGHT = 0.5
FREQUENCY = 1 / torch.arange(1, NUM_PINS + 1.0)
FREQUENCY /= FREQUENCY.sum()
#: What is served is spread otherwise than what is bought.
SERVED = FREQUENCY.flip(0)
CONVERSIONS = (FREQUENCY * 500).round().long()


def advertisers() -> Advertisers:
    """Six of them, eight pins each."""
    return Advertisers.of(
        pa.array([f"a{row % 6}" for row in range(NUM_PINS)]),
        conversions=CONVERSIONS.numpy(),
        engagements=torch.arange(NUM_PINS).numpy(),
        config=AdvertiserLossConfig(form=AdvertiserForm.SOFT_BAG, max_share=1.0),
    )


def mass_of_advertiser() -> Tensor:
    """[targets, N] float64: q of each target's advertiser, by its formula."""
    mass = (CONVERSIONS.double() + 0.1 * torch.arange(NUM_PINS) + 0.5) ** 0.75
    same = torch.arange(NUM_PINS)[None, :] % 6 == TARGET[:, None] % 6
    return (mass * same) / (mass * same).sum(1, keepdim=True)


@pytest.mark.parametrize("bag", [False, True], ids=["targets alone", "with soft bags"])
@pytest.mark.parametrize(
    ("num_in_batch", "num_uniform", "num_served"),
    [(1, 1024, 0), (2049, 0, 0), (1, 0, 2048), (385, 640, 0), (385, 384, 256)],
    ids=["uniform", "in batch", "served", "mixed", "mixed with served"],
)
def test_the_mean_sampled_gradient_is_the_exact_one(
    num_in_batch: int, num_uniform: int, num_served: int, bag: bool
) -> None:
    generator = torch.Generator().manual_seed(11)
    query, pins = unit(len(TARGET), DIM, seed=12).requires_grad_(), unit(NUM_PINS, DIM, seed=13).requires_grad_()
    shares = PinShares(trained=torch.stack([FREQUENCY, SERVED]), served=SERVED)
    bags = advertisers()

    def gradient(loss_B: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss_B.mean(), (query, pins))])

    logits = query @ pins.T / TEMPERATURE
    loss = F.cross_entropy(logits, TARGET, reduction="none")
    if bag:
        loss = loss + ADVERTISER_WEIGHT * F.cross_entropy(logits, mass_of_advertiser().float(), reduction="none")
    exact = gradient(loss)

    total = torch.zeros_like(exact)
    for _ in range(NUM_POOLS):
        # Beside its own positive, which is left out wherever it is, a query sees the others of its batch.
        others = TARGET[:0]
        if num_in_batch > 1:
            others = torch.multinomial(FREQUENCY, num_in_batch - 1, replacement=True, generator=generator)
        uniform = torch.randint(NUM_PINS, (num_uniform,), generator=generator)
        shown = torch.multinomial(SERVED, max(1, num_served), replacement=True, generator=generator)[:num_served]
        rows = torch.cat([others, uniform, shown])
        log_count = log_expected_count(
            rows_P=rows,
            shares=shares,
            in_batch_T=torch.tensor([num_in_batch, 0]),
            num_uniform=num_uniform,
            num_served=num_served,
        )
        own = TARGET[:, None]
        if bag:
            chance = torch.rand(len(TARGET), NUM_DRAWS, generator=generator, dtype=torch.float64)
            own = torch.cat([own, bags.draw(bags.of_rows(TARGET), chance)], dim=1)
        found = softmax(query, pins, own, rows, log_count, num_draws=NUM_DRAWS if bag else 0)
        loss = found.target_loss()
        if bag:
            loss = loss + ADVERTISER_WEIGHT * found.draws_loss()
        total += gradient(loss)
    mean = total / NUM_POOLS
    assert F.cosine_similarity(mean, exact, dim=0) > 0.99
    assert mean.norm().item() == pytest.approx(exact.norm().item(), rel=0.02)
