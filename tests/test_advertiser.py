"""Who advertises what: which advertisers and pins make bags, what is drawn of them, and the prototypes."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from convcg.batch import PADDING
from convcg.errors import ConfigError
from convcg.model.advertiser import (
    NO_GROUP,
    NO_ROW_GROUP,
    AdvertiserControl,
    AdvertiserForm,
    AdvertiserLossConfig,
    Advertisers,
    Prototypes,
)

SOFT = AdvertiserLossConfig(form=AdvertiserForm.SOFT_BAG, max_share=0.5)
#: b has one pin, c most conversions, and the last pin no advertiser.
COLUMN = pa.array(["c", "a", "b", "a", "c", "a", None])
CONVERSIONS = np.array([90, 4, 1, 0, 0, 8, 2])
ENGAGEMENTS = np.array([0, 10, 0, 20, 0, 0, 0])


def advertisers(column: pa.Array | None = COLUMN, **changes: object) -> Advertisers:
    return Advertisers.of(
        column, conversions=CONVERSIONS, engagements=ENGAGEMENTS, config=SOFT.model_copy(update=changes)
    )


def drawn_shares(bags: Advertisers, target: int, number: int = 40_000) -> dict[int, float]:
    chance = torch.rand(number, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pins = bags.draw(bags.of_rows(torch.full((number,), target)), chance).flatten()
    return {int(pin): int(count) / number for pin, count in zip(*pins.unique(return_counts=True), strict=True)}


def test_advertisers_with_one_pin_or_too_many_conversions_are_left_out() -> None:
    bags = advertisers()
    of_row = bags.of_rows(torch.arange(7)).tolist()
    assert of_row[1] == of_row[3] == of_row[5] >= 0
    assert [of_row[row] for row in (0, 2, 4, 6)] == [NO_ROW_GROUP] * 4
    assert bags.in_bag.tolist() == [each if each >= 0 else NO_GROUP for each in of_row]
    assert bags.of_pin[0] == bags.of_pin[4] >= 0
    assert bags.of_pin[6] == NO_GROUP


def test_pins_are_drawn_as_often_as_the_tempered_counts_say() -> None:
    mass = np.array([4 + 1 + 0.5, 0 + 2 + 0.5, 8 + 0.5]) ** 0.75
    expected = dict(zip((1, 3, 5), mass / mass.sum(), strict=True))
    assert drawn_shares(advertisers(), 1) == pytest.approx(expected, abs=0.01)


def test_a_row_without_a_usable_advertiser_draws_nothing() -> None:
    bags = advertisers()
    chance = torch.tensor([[0.0, 0.999999]] * 7, dtype=torch.float64)
    drawn = bags.draw(bags.of_rows(torch.arange(7)), chance)
    assert (drawn[[0, 2, 4, 6]] == PADDING).all()
    assert drawn[[1, 3, 5]].tolist() == [[5, 3]] * 3  # the heaviest pin first, the lightest last


def test_a_bag_holds_the_pins_with_most_conversions_and_engagements() -> None:
    bags = advertisers(max_pins=2)
    assert torch.nonzero(bags.in_bag != NO_GROUP).flatten().tolist() == [1, 5]
    assert bags.of_rows(torch.tensor([3])).tolist() == bags.of_rows(torch.tensor([1])).tolist()  # still its advertiser
    assert set(drawn_shares(bags, 3)) == {1, 5}


def test_bags_at_the_ends_are_drawn_from_themselves_alone() -> None:
    """Chances just below 1 and at 0 do not reach a neighbouring bag, with thousands of bags."""
    number = 3_000
    column = pa.array([f"a{row % number:05d}" for row in range(3 * number)])
    bags = Advertisers.of(
        column,
        conversions=np.random.default_rng(0).integers(0, 9, 3 * number),
        engagements=np.zeros(3 * number, np.int64),
        config=SOFT,
    )
    targets = torch.arange(3 * number)
    chance = torch.tensor([[0.0, 0.5, np.nextafter(1, 0)]], dtype=torch.float64).expand(3 * number, 3)
    drawn = bags.draw(bags.of_rows(targets), chance)
    assert (drawn % number == (targets % number)[:, None]).all()


def test_permuted_labels_keep_the_sizes_and_little_else() -> None:
    number = 600
    column = pa.array([f"a{row // 6}" if row < 594 else None for row in range(number)])
    ones, none = np.ones(number, np.int64), np.zeros(number, np.int64)
    true = Advertisers.of(column, conversions=ones, engagements=none, config=SOFT)
    permuted = Advertisers.of(
        column,
        conversions=ones,
        engagements=none,
        config=SOFT.model_copy(update={"control": AdvertiserControl.PERMUTED}),
    )
    assert torch.equal(true.of_pin[:594].bincount(), permuted.of_pin[:594].bincount())
    assert (permuted.of_pin[594:] == NO_GROUP).all()
    assert (true.of_pin[:594] == permuted.of_pin[:594]).double().mean() < 0.1


def test_the_popularity_control_draws_of_all_pins_for_the_same_rows() -> None:
    bags = advertisers(control=AdvertiserControl.POPULARITY)
    assert torch.equal(bags.of_rows(torch.arange(7)), advertisers().of_rows(torch.arange(7)))
    mass = (CONVERSIONS + 0.1 * ENGAGEMENTS + 0.5) ** 0.75
    assert drawn_shares(bags, 1) == pytest.approx(dict(enumerate(mass / mass.sum())), abs=0.01)


def test_what_cannot_be_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"advertiser_id, which the pin table lacks. Add it .* or set .*form to none"):
        advertisers(None)
    with pytest.raises(ConfigError, match=r"none of 3 advertisers has two pins and at most 0.05 .*Raise"):
        advertisers(max_share=0.05)
    nobody = pa.array([None] * 7, pa.string())
    with pytest.raises(ConfigError, match="none of 0 advertisers"):
        advertisers(nobody)
    assert advertisers(nobody, form=AdvertiserForm.NONE).of_rows(torch.arange(7)).tolist() == [NO_ROW_GROUP] * 7
    with pytest.raises(ValidationError, match="set form to soft_bag or control to none"):
        AdvertiserLossConfig(form=AdvertiserForm.PROTOTYPE, control=AdvertiserControl.POPULARITY)


def test_prototypes_are_means_of_pins_beside_trained_vectors() -> None:
    prototypes = Prototypes(3, 2)
    with torch.no_grad():
        prototypes.table.weight.copy_(torch.tensor([[10.0, 0.0], [20.0, 0.0], [30.0, 0.0]]))
    pool = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 5.0]]).requires_grad_()
    in_bag, kept = torch.tensor([0, 0, NO_GROUP]), torch.tensor([False, False, True])
    first = prototypes(pool, in_bag, kept)
    # Of the second nothing was seen yet: its trained vector takes part all the same.
    torch.testing.assert_close(first, torch.tensor([[0.5, 0.5], [20.0, 0.0], [30.0, 0.0]]))
    (gradient,) = torch.autograd.grad(first[0, 0], pool)
    torch.testing.assert_close(gradient[:, 0], torch.tensor([0.25, 0.25, 0.0]))  # half of the mean; the rest is past
    second = prototypes(torch.tensor([[3.0, 1.0]]), torch.tensor([0]), torch.tensor([True, False, False]))
    torch.testing.assert_close(second[0], torch.tensor([10 + 0.5 * 0.5 + 0.5 * 3, 0.5 * 0.5 + 0.5 * 1]))
    torch.testing.assert_close(prototypes.mean[0], torch.tensor([0.9 * 0.5 + 0.1 * 3, 0.9 * 0.5 + 0.1 * 1]))
    assert prototypes.mean[1:].abs().max() == 0
    before = prototypes.mean.clone()
    prototypes.eval()(pool, in_bag, kept)
    assert torch.equal(prototypes.mean, before)
