"""The advertiser loss: a conversion says something about all that its advertiser sells.

Three readings of "a loss at the granularity of advertisers", for conversions alone, S_a being the bag of advertiser a:

    soft bag      - sum over j in S_a of q(j) s_ij + log Z_i,  q(j) ~ (conversions_j + 0.1 engagements_j + 0.5)^0.75
                  the target's label is smoothed towards its advertiser's pins; the sum is the mean over a few draws
    prototype     the softmax of the advertiser among all, each a trained vector beside the mean of its pins
    marginal bag  - log sum over j in S_a of exp(s_ij) + log Z_i: any pin of the advertiser will do

Two controls tell what an advertiser's part in it is: labels permuted among the pins, and q over all pins.

Shape suffixes: B queries, M draws, N catalogue, P pool, A advertisers, S pins in bags, d width.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from convcg.batch import PADDING
from convcg.errors import ConfigError
from convcg.setting import Settings
from convcg.types import TASK_CODE, Task

#: A pin of no group, and a row of none: they never equal each other or anything else.
NO_GROUP, NO_ROW_GROUP = -1, -2
_ENGAGEMENT_WEIGHT, _FLOOR, _POWER = 0.1, 0.5, 0.75
#: How much of a prototype is its pins' mean in this step, how slowly the running mean forgets, and how often the
#: trained vector is left out: a table alone absorbs the signal that is meant for the pins.
_MEAN_SHARE, _DECAY, _TABLE_DROPOUT = 0.5, 0.9, 0.5
_PERMUTATION_SEED = 0


class AdvertiserForm(StrEnum):
    """How the advertiser enters the loss."""

    NONE = "none"
    SOFT_BAG = "soft_bag"
    PROTOTYPE = "prototype"
    MARGINAL_BAG = "marginal_bag"


class AdvertiserControl(StrEnum):
    """What replaces the advertisers, to tell what they add."""

    NONE = "none"
    PERMUTED = "permuted"  # bags of the same sizes with pins at random
    POPULARITY = "popularity"  # one bag of all pins


class AdvertiserLossConfig(Settings):
    """The advertiser loss; needs the column `advertiser_id` of the pin table."""

    form: AdvertiserForm = AdvertiserForm.NONE
    #: Its weight beside a conversion's own loss.
    weight: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    #: Pins of the advertiser that a soft bag draws for each conversion.
    draws: int = Field(default=2, ge=1, le=64)
    control: AdvertiserControl = AdvertiserControl.NONE
    #: The pins of an advertiser that make its bag: those with most conversions and engagements.
    max_pins: int = Field(default=256, ge=2)
    #: Advertisers with a larger share of all conversions are left out.
    max_share: float = Field(default=0.05, gt=0, le=1)

    @model_validator(mode="after")
    def _popularity_is_for_draws(self) -> "AdvertiserLossConfig":
        if self.control is AdvertiserControl.POPULARITY and self.form is not AdvertiserForm.SOFT_BAG:
            raise ValueError(
                "control = popularity replaces a soft bag's draws; set form to soft_bag or control to none"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is an advertiser loss."""
        return self.form is not AdvertiserForm.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisers:
    """Who advertises which pin, and the bags that losses read.

    of_pin: [N] int64 advertiser of each pin, `NO_GROUP` without one.  usable: [A] bool, has two pins or more and not
    too many of all conversions.  in_bag: [N] int64, a pin's usable advertiser if it is among its bag, else `NO_GROUP`.
    drawn_pin: [S] int64 pins, bag after bag.  drawn_until: [S] float64, number of the bag plus the chance of this pin
    or one before it in the bag.  one_bag: draws are of all pins together.
    """

    of_pin: Tensor
    usable: Tensor
    in_bag: Tensor
    drawn_pin: Tensor
    drawn_until: Tensor
    one_bag: bool

    @classmethod
    def of(
        cls,
        column: pa.Array | None,
        *,
        conversions: NDArray[np.int64],
        engagements: NDArray[np.int64],
        config: AdvertiserLossConfig,
    ) -> "Advertisers":
        """From the pin table's `advertiser_id` and the [N] training targets of each task.

        Raises:
            ConfigError: there is no such column, or the loss is on and no advertiser is usable.
        """
        if column is None:
            raise ConfigError(
                "loss.advertiser and loss.mask_same_advertiser need the column advertiser_id, which the pin table "
                "lacks. Add it (a brand or a shop will do), or set loss.advertiser.form to none."
            )
        encoded = column.dictionary_encode()
        codes = pc.fill_null(encoded.indices, NO_GROUP).to_numpy(zero_copy_only=False).astype(np.int64)
        has = np.flatnonzero(codes >= 0)
        if config.control is AdvertiserControl.PERMUTED:
            codes[has] = np.random.default_rng(_PERMUTATION_SEED).permutation(codes[has])
        num_pins = np.bincount(codes[has], minlength=1)
        bought = np.bincount(codes[has], weights=conversions[has], minlength=1)
        usable = (num_pins > 1) & (bought <= config.max_share * conversions.sum())
        if config.is_on and not usable.any():
            raise ConfigError(
                f"loss.advertiser.form is {config.form.value}, but none of {len(encoded.dictionary)} advertisers has "
                f"two pins and at most {config.max_share:g} of all conversions. Raise loss.advertiser.max_share, or "
                "set form to none."
            )
        mass = (conversions + _ENGAGEMENT_WEIGHT * engagements + _FLOOR) ** _POWER
        eligible = has[usable[codes[has]]]
        bags = _heaviest(eligible, codes, mass, config.max_pins)
        in_bag = np.full(len(codes), NO_GROUP)
        in_bag[bags] = codes[bags]
        one_bag = config.control is AdvertiserControl.POPULARITY
        drawn = np.arange(len(codes)) if one_bag else bags
        return cls(
            of_pin=torch.from_numpy(codes),
            usable=torch.from_numpy(usable),
            in_bag=torch.from_numpy(in_bag),
            drawn_pin=torch.from_numpy(drawn),
            drawn_until=torch.from_numpy(
                _cumulative(np.zeros(len(codes), int) if one_bag else codes[drawn], mass[drawn])
            ),
            one_bag=one_bag,
        )

    def to(self, device: torch.device) -> "Advertisers":
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("of_pin", "usable", "in_bag", "drawn_pin")}
        return Advertisers(**moved, drawn_until=self.drawn_until.to(device), one_bag=self.one_bag)

    def of_rows(self, target_B: Tensor) -> Tensor:
        """[B] int64: the advertiser of each target if it is usable, else `NO_ROW_GROUP`."""
        code = self.of_pin[target_B]
        return torch.where((code >= 0) & self.usable[code.clamp(min=0)], code, NO_ROW_GROUP)

    def of_conversions(self, task_B: Tensor, target_B: Tensor) -> Tensor:
        """[B] int64: `of_rows` of the conversions, `NO_ROW_GROUP` of all else."""
        return torch.where(task_B == TASK_CODE[Task.CONVERSION], self.of_rows(target_B), NO_ROW_GROUP)

    def draw(self, advertiser_B: Tensor, chance_BM: Tensor) -> Tensor:
        """[B, M] int64 pins of each row's advertiser (from `of_rows`), drawn with probability q; `PADDING` without one.

        chance_BM: [B, M] float64 in [0, 1), uniform.
        """
        bag_B = torch.zeros_like(advertiser_B) if self.one_bag else advertiser_B.clamp(min=0)
        # A chance just below 1 is rounded up to the next bag.
        last_B = torch.nextafter(bag_B.double() + 1, bag_B.double())
        wanted = torch.minimum(bag_B[:, None] + chance_BM, last_B[:, None])
        place = torch.searchsorted(self.drawn_until, wanted, right=True)
        pins = self.drawn_pin[place.clamp(max=len(self.drawn_pin) - 1)]
        return torch.where((advertiser_B >= 0)[:, None], pins, PADDING)


def _heaviest(
    pins: NDArray[np.int64], codes: NDArray[np.int64], mass: NDArray[np.float64], most: int
) -> NDArray[np.int64]:
    """The `most` pins of each advertiser with the greatest mass, advertiser after advertiser."""
    ordered = pins[np.lexsort((pins, -mass[pins], codes[pins]))]
    rank = np.arange(len(ordered)) - np.searchsorted(codes[ordered], codes[ordered], side="left")
    kept: NDArray[np.int64] = ordered[rank < most]
    return kept


def _cumulative(bag: NDArray[np.int64], mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """The number of the bag plus the share of it up to and with each entry; `bag` ascends."""
    total = np.cumsum(mass)
    first, after = np.searchsorted(bag, bag, side="left"), np.searchsorted(bag, bag, side="right")
    before = np.r_[0.0, total][first]
    share = np.where(np.arange(len(bag)) == after - 1, 1.0, (total - before) / (total[after - 1] - before))
    summed: NDArray[np.float64] = bag.astype(np.float64) + share
    return summed


class Prototypes(nn.Module):
    """A vector for each advertiser: the mean of its pins, running and of this step, and a trained one beside it."""

    mean: Tensor

    def __init__(self, num_advertisers: int, dim: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):  # no other layer draws other numbers
            self.table = nn.Embedding(num_advertisers, dim)
            nn.init.normal_(self.table.weight, std=dim**-0.5)
        self.register_buffer("mean", torch.zeros(num_advertisers, dim))

    @staticmethod
    def kept_tables(num_advertisers: int, generator: torch.Generator) -> Tensor:
        """[A] bool: whose trained vector takes part in a step; the same on every rank."""
        return torch.rand(num_advertisers, generator=generator) >= _TABLE_DROPOUT

    def forward(self, pool_Pd: Tensor, in_bag_P: Tensor, kept_A: Tensor) -> Tensor:
        """[A, d] vectors of any length, and the running means move on.

        pool_Pd: a step's pins.  in_bag_P: their advertisers, `NO_GROUP` for none.
        """
        member = torch.nonzero(in_bag_P != NO_GROUP).flatten()
        members, codes = F.embedding(member, pool_Pd).to(self.mean), in_bag_P[member]
        number_A = torch.bincount(codes, minlength=len(self.mean)).to(self.mean)
        here_Ad = torch.zeros_like(self.mean).index_add(0, codes, members) / number_A.clamp(min=1)[:, None]
        is_here, was_seen = (number_A > 0)[:, None], (self.mean != 0).any(1, keepdim=True)
        running = torch.where(was_seen, self.mean, here_Ad.detach())
        mean_Ad = torch.where(is_here, (1 - _MEAN_SHARE) * running + _MEAN_SHARE * here_Ad, running)
        if self.training:
            moved = torch.where(is_here, _DECAY * running + (1 - _DECAY) * here_Ad.detach(), self.mean)
            with torch.no_grad():
                self.mean.copy_(moved)
        # Of whom no pin was seen yet, only the trained vector can be told.
        takes_part = kept_A[:, None] | ~(is_here | was_seen)
        return mean_Ad + self.table.weight * takes_part
