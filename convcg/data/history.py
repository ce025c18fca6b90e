"""What was known of a person at a moment: their actions, each written once, and where in them a history lies.

Everything is strictly before the moment, by the time at which it became *known*: a purchase that is reported after a
request was not part of that request's history, whenever it happened. A dwell is known once the visit is over.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from convcg.data.engagement import is_dwell
from convcg.data.log import Log
from convcg.data.pairs import from_the_end, joined, ragged, searchsorted_pairs
from convcg.data.split import MICROSECONDS
from convcg.setting import Settings
from convcg.types import ACTION_CODE, Action

Ints = NDArray[np.int64]

_CHECKOUT = ACTION_CODE[Action.CHECKOUT]
_IMPRESSION = ACTION_CODE[Action.IMPRESSION]


class HistoryCutoff(StrEnum):
    """Where the history of an evaluation query ends."""

    REQUEST = "request"  # strictly before the request: a history that is refreshed at once
    SPLIT = "split"  # at the end of the training time: a user table that is as old as the model


class HistoryConfig(Settings):
    """What a query knows of the past."""

    length: int = Field(default=100, ge=1, le=10_000)
    actions: tuple[Action, ...] = (Action.CLICK, Action.REPIN, Action.ADD_TO_CART, Action.CHECKOUT)
    #: Leave the target's own earlier events out of the history: for discovery, not revisits.
    exclude_target: bool = False
    evaluation_cutoff: HistoryCutoff = HistoryCutoff.REQUEST

    @property
    def codes(self) -> list[int]:
        """The codes of `actions`."""
        return [ACTION_CODE[action] for action in self.actions]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What people did, by person and the time it became known; one entry an action, impressions only where histories
    hold them.

    user, time, known: int64.  pin: int32.  action, surface: int8.  dwell: float32 seconds, NaN for none.
    """

    user: Ints
    time: Ints
    known: Ints
    pin: NDArray[np.int32]
    action: NDArray[np.int8]
    surface: NDArray[np.int8]
    dwell: NDArray[np.float32]

    @classmethod
    def of(cls, log: Log, config: HistoryConfig) -> "Actions":
        """The actions of a log."""
        kept = np.flatnonzero((log.action != _IMPRESSION) | np.isin(log.action, config.codes))
        kept = kept[np.lexsort((log.known[kept], log.user[kept]))]
        dwell = np.where(is_dwell(log.dwell[kept]), log.dwell[kept], np.float32(np.nan))
        return cls(
            user=log.user[kept],
            time=log.time[kept],
            known=log.known[kept],
            pin=log.pin[kept],
            action=log.action[kept],
            surface=log.surface[kept],
            dwell=dwell,
        )

    def table(self) -> pa.Table:
        """As Arrow columns of the same names, `user` as int32."""
        columns = {name: getattr(self, name) for name in ("time", "known", "pin", "action", "surface", "dwell")}
        return pa.table({"user": self.user.astype(np.int32), **columns})

    @classmethod
    def read(cls, table: pa.Table) -> "Actions":
        """The inverse of `table`."""
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return cls(**{**columns, "user": columns["user"].astype(np.int64)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Whose past is asked for, when, and without which pin (-1 for none): parallel arrays."""

    user: Ints
    time: Ints
    target: NDArray[np.int32]


def spans(actions: Actions, moments: Moments, config: HistoryConfig) -> tuple[Ints, Ints]:
    """First and end, in `actions`, of the stretch that holds each moment's history: see `histories`."""
    end = searchsorted_pairs(actions.user, actions.known, moments.user, moments.time)
    wanted = np.flatnonzero(np.isin(actions.action, config.codes))
    wanted_end = np.searchsorted(wanted, end)
    wanted_first = np.searchsorted(wanted, np.searchsorted(actions.user, moments.user))
    back = np.full(len(end), config.length, np.int64)
    if config.exclude_target:
        back += _own_before(actions, wanted, moments)
    first = np.maximum(wanted_first, wanted_end - back)
    return np.where(first < wanted_end, np.append(wanted, 0)[first], end), end


def _own_before(actions: Actions, wanted: Ints, moments: Moments) -> Ints:
    """How many history actions of each moment's person on its target were known before it."""
    user, pin, known = actions.user[wanted], actions.pin[wanted], actions.known[wanted]
    span = int(max(pin.max(initial=0), moments.target.max(initial=0))) + 2
    order = np.argsort(joined(user, pin, span), kind="stable")  # `known` ascends within a person already
    key, asked = joined(user, pin, span)[order], joined(moments.user, moments.target + 0, span)
    return searchsorted_pairs(key, known[order], asked, moments.time) - np.searchsorted(key, asked, side="left")


def histories(
    actions: Actions, moments: Moments, spans_of: tuple[Ints, Ints], config: HistoryConfig
) -> dict[str, pa.Array]:
    """The last `config.length` history actions before each moment, oldest first, as Arrow lists.

    Returns history_pin (int32), history_action, history_surface (int8), history_age (float32 seconds before the moment)
    and history_dwell (float32 seconds, NaN where it is not known yet, or not at all). With `exclude_target` the
    target's own actions do not count towards the length.
    """
    first, end = spans_of
    moment, place = ragged(first, end - first)
    kept = np.isin(actions.action[place], config.codes)
    if config.exclude_target:
        kept &= actions.pin[place] != moments.target[moment]
    moment, place = moment[kept], place[kept]
    recent = from_the_end(moment, len(end)) < config.length
    moment, place = moment[recent], place[recent]
    time, dwell = moments.time[moment], actions.dwell[place]
    age = ((time - actions.time[place]) / MICROSECONDS).astype(np.float32)
    with np.errstate(invalid="ignore"):
        over = dwell.astype(np.float64) * MICROSECONDS < time - actions.time[place]
    flat = {
        "history_pin": actions.pin[place],
        "history_action": actions.action[place],
        "history_surface": actions.surface[place],
        "history_age": age,
        "history_dwell": np.where(over, dwell, np.float32(np.nan)),
    }
    offsets = np.searchsorted(moment, np.arange(len(end) + 1)).astype(np.int32)
    return {name: pa.ListArray.from_arrays(pa.array(offsets), pa.array(column)) for name, column in flat.items()}


def purchases(actions: Actions, moments: Moments) -> pa.Array:
    """The distinct pins that each moment's person was known to have checked out before it, as lists of int32 rows."""
    bought = np.flatnonzero(actions.action == _CHECKOUT)
    user = actions.user[bought]
    end = searchsorted_pairs(user, actions.known[bought], moments.user, moments.time)
    first = np.searchsorted(user, moments.user)
    moment, place = ragged(first, end - first)
    pairs = np.unique(np.stack([moment, actions.pin[bought[place]].astype(np.int64)]), axis=1)
    offsets = np.searchsorted(pairs[0], np.arange(len(end) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(pairs[1].astype(np.int32)))
