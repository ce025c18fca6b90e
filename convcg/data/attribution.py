"""Which touch led to a conversion: the last click, else the last impression, of the pin, else of its advertiser.

Buyers of pin B often clicked pin A of the same shop (click-A-buy-B): a touch of another pin of the advertiser counts
where the pin itself was not touched, and the example says so.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from convcg.data.log import CONVERSION_CODES, Log
from convcg.data.pairs import joined, searchsorted_pairs
from convcg.data.split import DAY
from convcg.setting import Settings
from convcg.types import ACTION_CODE, Action

Ints = NDArray[np.int64]


class Touch(StrEnum):
    """What led to a conversion. The order of the members is the code that examples carry; after them: nothing did."""

    PIN_CLICK = "pin_click"
    PIN_IMPRESSION = "pin_impression"
    ADVERTISER_CLICK = "advertiser_click"
    ADVERTISER_IMPRESSION = "advertiser_impression"


TOUCHES = tuple(Touch)
TOUCH_CODE = {touch: code for code, touch in enumerate(TOUCHES)}
UNATTRIBUTED = len(TOUCHES)
#: The code of an engagement, which is its own touch.
NOT_ATTRIBUTED = -1
_CLICKS = (Touch.PIN_CLICK, Touch.ADVERTISER_CLICK)
_SAME_PIN = (Touch.PIN_CLICK, Touch.PIN_IMPRESSION)


class AttributionConfig(Settings):
    """How conversions find their touch. The first of `levels` that has one within its window decides."""

    levels: tuple[Touch, ...] = TOUCHES
    click_days: float = Field(default=7.0, gt=0, le=365)
    impression_days: float = Field(default=1.0, gt=0, le=365)
    #: A conversion that nothing led to is asked for at its own time; without this it is left out.
    keep_unattributed: bool = True

    @field_validator("levels")
    @classmethod
    def _distinct(cls, levels: tuple[Touch, ...]) -> tuple[Touch, ...]:
        if len(set(levels)) < len(levels):
            raise ValueError(f"levels {[level.value for level in levels]} must be distinct; name each once")
        return levels

    def window(self, touch: Touch) -> int:
        """How old a touch may be, in microseconds."""
        return int((self.click_days if touch in _CLICKS else self.impression_days) * DAY)

    @property
    def maturity(self) -> int:
        """The age, in microseconds, from which on nothing can be attributed to a touch any more."""
        return max(self.window(Touch.PIN_CLICK), self.window(Touch.PIN_IMPRESSION))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributed:
    """Conversions with what led to them, parallel, in log order: positions in the log, and codes of `Touch`."""

    conversion: Ints
    touch: Ints
    level: NDArray[np.int8]


def attribute(log: Log, config: AttributionConfig) -> Attributed:
    """The touch of every conversion: at most its window older, and before it in log order.

    A conversion without one is its own touch, of level `UNATTRIBUTED`, or is left out, as the config says.
    """
    conversion = np.flatnonzero(log.did(*CONVERSION_CODES))
    touch, level = conversion.copy(), np.full(len(conversion), UNATTRIBUTED, np.int8)
    for kind in config.levels:
        open_ = np.flatnonzero(level == UNATTRIBUTED)
        found = _last_touch(log, conversion[open_], kind)
        recent = (found >= 0) & (log.time[conversion[open_]] - log.time[found] <= config.window(kind))
        touch[open_[recent]], level[open_[recent]] = found[recent], TOUCH_CODE[kind]
    if config.keep_unattributed:
        return Attributed(conversion=conversion, touch=touch, level=level)
    kept = level != UNATTRIBUTED
    return Attributed(conversion=conversion[kept], touch=touch[kept], level=level[kept])


def _last_touch(log: Log, conversion: Ints, kind: Touch) -> Ints:
    """The last touch of a kind before each conversion, -1 for none."""
    of_kind = log.action == ACTION_CODE[Action.CLICK if kind in _CLICKS else Action.IMPRESSION]
    buyers = np.zeros(len(log.user_ids), bool)
    buyers[log.user[conversion]] = True
    touch = np.flatnonzero(of_kind & buyers[log.user])
    group = log.pin if kind in _SAME_PIN else log.advertiser
    span = int(group.max(initial=0)) + 2
    if kind not in _SAME_PIN:
        touch = touch[log.advertiser[touch] >= 0]
    # Touches by (person, group) and position: within a group, the last one before a conversion's place is its touch.
    touch = touch[np.argsort(joined(log.user[touch], group[touch], span), kind="stable")]
    key = joined(log.user[touch], group[touch], span)
    wanted = joined(log.user[conversion], group[conversion], span)
    place = searchsorted_pairs(key, touch, wanted, conversion) - 1
    inside = (place >= 0) & (group[conversion] >= 0)
    inside[inside] = key[place[inside]] == wanted[inside]
    place = np.where(inside, place, -1)
    if kind not in _SAME_PIN:
        place = _of_another_pin(log.pin[touch], key, place, log.pin[conversion])
    return np.where(place >= 0, touch[place] if len(touch) else -1, -1)


def _of_another_pin(pin: NDArray[np.int32], key: Ints, place: Ints, unlike: NDArray[np.int32]) -> Ints:
    """At or before each place, within its group, the last touch of a pin that differs from `unlike`; -1 for none."""
    if len(pin) == 0:
        return place
    here = np.arange(len(pin))
    new_group = np.r_[True, key[1:] != key[:-1]]
    new_run = new_group | np.r_[True, pin[1:] != pin[:-1]]
    run_start = np.maximum.accumulate(np.where(new_run, here, 0))
    before_run = np.where(new_group[run_start], -1, run_start - 1)
    same = (place >= 0) & (pin[place] == unlike)
    return np.where(same, before_run[place], place)
