"""Engagement as positives: what a person did with a pin in one visit counts once, a click by how long it lasted."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from convcg.data.log import MINUTE, Log
from convcg.data.pairs import first_of
from convcg.setting import Settings
from convcg.types import ACTION_CODE, Action

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

_CLICK, _REPIN = ACTION_CODE[Action.CLICK], ACTION_CODE[Action.REPIN]
#: A longer dwell is a tab that was left open.
LONGEST_DWELL = 1800.0
#: A click's weight relative to the mean click's is cut here.
_MOST = 5.0


class DwellCurve(StrEnum):
    """How a click's weight grows with its duration t, up to the cap T.

    The two logarithmic ones are the readings of Pinterest's unpublished formula ("log-based", capped at `t_max`).
    """

    LOG_RATIO = "log_ratio"  # log(1 + t/T) / log 2: nearly a straight line
    LOG = "log"  # log(1 + t) / log(1 + T): the first seconds count most
    NONE = "none"  # every click weighs the same


class DwellConfig(Settings):
    """The weight of a click: `floor` for a bounce, 1 from `cap_seconds` on."""

    curve: DwellCurve = DwellCurve.LOG_RATIO
    cap_seconds: float = Field(default=60.0, gt=0, le=LONGEST_DWELL)
    floor: float = Field(default=0.1, ge=0, le=1)

    def weight(self, seconds: Floats) -> NDArray[np.float64]:
        """w(t) in [floor, 1] of valid durations."""
        kept = np.minimum(np.asarray(seconds, np.float64), self.cap_seconds)
        match self.curve:
            case DwellCurve.LOG_RATIO:
                rise = np.log1p(kept / self.cap_seconds) / math.log(2)
            case DwellCurve.LOG:
                rise = np.log1p(kept) / math.log1p(self.cap_seconds)
            case DwellCurve.NONE:
                return np.ones_like(kept)
        return self.floor + (1 - self.floor) * rise


def is_dwell(seconds: Floats) -> NDArray[np.bool_]:
    """Which durations can be believed: there, finite, and between 0 and half an hour."""
    with np.errstate(invalid="ignore"):
        return (seconds >= 0) & (seconds <= LONGEST_DWELL)


def relative_to_mean(weight: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """Dwell weights over their mean, so that they do not shift the balance between clicks and all else; 5 at most.

    A mean of 0 says that every weight is 0, and leaves them so.
    """
    return np.minimum(_MOST, weight / mean) if mean else weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """One entry a visit, in log order of their first event: its position, its action, and w(t) of its dwell."""

    event: Ints
    action: NDArray[np.int8]
    weight: NDArray[np.float64]  # the action's weight, for a click times w(t)
    dwell_weight: NDArray[np.float64]


def visits(
    log: Log, weights: dict[Action, float], dwell: DwellConfig, *, visit_minutes: float, median_dwell: float | None
) -> Visits:
    """The visits in which a person clicked or repinned a pin, each with its strongest action.

    A visit is what one person did with one pin in one request; without request ids, what follows within
    `visit_minutes` of the action before. Its dwell is the longest believable one of its clicks, else `median_dwell`.
    """
    click, repin = weights.get(Action.CLICK, 0.0), weights.get(Action.REPIN, 0.0)
    event = np.flatnonzero(((log.action == _CLICK) & (click > 0)) | ((log.action == _REPIN) & (repin > 0)))
    event = event[np.lexsort((event, log.request[event], log.pin[event], log.user[event]))]
    new = np.ones(len(event), bool)
    same = np.ones(max(len(event) - 1, 0), bool)
    for column in (log.user, log.pin, log.request):
        same &= column[event][1:] == column[event][:-1]
    pause = np.diff(log.time[event]) > int(visit_minutes * MINUTE)
    new[1:] = ~same | ((log.request[event][1:] < 0) & pause)
    start = np.flatnonzero(new)
    if len(start) == 0:
        nothing = np.zeros(0)
        return Visits(event=start, action=start.astype(np.int8), weight=nothing, dwell_weight=nothing)
    is_click = log.action[event] == _CLICK
    seconds = np.where(is_click & is_dwell(log.dwell[event]), log.dwell[event].astype(np.float64), -1.0)
    longest = np.maximum.reduceat(seconds, start)
    unknown = 1.0 if median_dwell is None else float(dwell.weight(np.array([median_dwell]))[0])
    dwell_weight = np.where(longest >= 0, dwell.weight(np.maximum(longest, 0)), unknown)
    clicked, repinned = np.logical_or.reduceat(is_click, start), np.logical_or.reduceat(~is_click, start)
    as_click, as_repin = np.where(clicked, click * dwell_weight, -1.0), np.where(repinned, repin, -1.0)
    order = np.argsort(event[start])
    return Visits(
        event=event[start][order],
        action=np.where(as_click >= as_repin, _CLICK, _REPIN).astype(np.int8)[order],
        weight=np.maximum(as_click, as_repin)[order],
        dwell_weight=dwell_weight[order],
    )


def strongest_of_each(user: Ints, pin: NDArray[np.int32], weight: NDArray[np.float64]) -> Ints:
    """Of entries in log order, those that stay when each person has one on each pin: the strongest, then the first."""
    strongest = np.argsort(-weight, kind="stable")
    return np.sort(strongest[first_of(user[strongest], pin[strongest])])
