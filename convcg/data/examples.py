"""Training examples and evaluation queries, point in time: who asked when and where, and what came of it.

The query of a conversion is asked at the time of the click (else the impression) that led to it, never at the time of
the purchase. What training sees is made of nothing that became known after the training time: the log is cut there
first. Pure NumPy on the events of whole users, so that any number of users can be worked on in any number of processes.
"""

from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from convcg.data.attribution import NOT_ATTRIBUTED, Attributed, AttributionConfig
from convcg.data.engagement import DwellConfig, strongest_of_each, visits
from convcg.data.log import CONVERSION_CODES, Log
from convcg.data.pairs import from_the_end
from convcg.setting import Settings
from convcg.types import ACTION_CODE, ACTIONS, Action

Ints = NDArray[np.int64]


def _not_an_impression(action: Action) -> Action:
    if action is Action.IMPRESSION:
        raise ValueError("an impression is nothing that a query could lead to; name a click, repin or conversion")
    return action


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Evaluated = Annotated[Action, AfterValidator(_not_an_impression)]
Cap = Annotated[int, Field(ge=1)]


class ExamplesConfig(Settings):
    """Which events are positives, how much each weighs, and how many of them stay."""

    #: Action -> weight. Actions that are not named, or weigh 0, are no positives; a click's is its mean.
    weights: dict[Action, Weight] = Field(default={Action.CHECKOUT: 1.0, Action.ADD_TO_CART: 1.0}, min_length=1)
    #: What evaluation queries ask for.
    evaluation_actions: tuple[Evaluated, ...] = (Action.CHECKOUT,)
    attribution: AttributionConfig = AttributionConfig()
    dwell: DwellConfig = DwellConfig()
    #: Clicks and repins of a pin without a request id are one visit while they follow each other within this.
    visit_minutes: float = Field(default=30.0, gt=0)
    #: Conversions of a person on a pin that lie this close together are one that was reported twice.
    duplicate_minutes: float = Field(default=10.0, ge=0)
    #: Pins served in the same request and not engaged that a query carries as negatives, at most.
    negatives_per_request: int = Field(default=4, ge=0, le=100)
    #: The latest examples of a person that stay, for each task; None for all.
    per_user: Cap | None = None
    #: About how many examples of a pin, and of an advertiser, stay, thinned evenly; None for all.
    per_pin: Cap | None = None
    per_advertiser: Cap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Parallel arrays, in log order of the query events. `event`: position in the log that was given of the event whose
    time and context the query has; `positive`: of the one that makes the target a positive. `level`: a code of
    `convcg.data.attribution`. `dwell_weight`: NaN for no click.
    """

    event: Ints
    positive: Ints
    target: NDArray[np.int32]
    action: NDArray[np.int8]
    level: NDArray[np.int8]
    weight: NDArray[np.float64]
    dwell_weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.event)

    def take(self, positions: Ints | NDArray[np.bool_]) -> "Examples":
        """The examples at these positions."""
        return Examples(**{field.name: getattr(self, field.name)[positions] for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """How many candidates for examples each rule has dropped."""

    unattributed: int = 0
    conversions_of_the_same_pin: int = 0
    events_of_the_same_visit: int = 0
    engagements_of_the_same_pin: int = 0


def conversions(log: Log, found: Attributed, config: ExamplesConfig) -> tuple[Examples, Dropped]:
    """One example for each pin that a person bought or put in the cart: the strongest, then the earliest conversion.

    `found`: the log's conversions, attributed.
    """
    weight = _weights(config)[log.action[found.conversion]]
    positive = np.flatnonzero(weight > 0)
    conversion = found.conversion[positive]
    candidates = _weights(config)[log.action[log.did(*CONVERSION_CODES)]] > 0
    chosen = strongest_of_each(log.user[conversion], log.pin[conversion], weight[positive])
    kept = positive[chosen]
    examples = Examples(
        event=found.touch[kept],
        positive=found.conversion[kept],
        target=log.pin[found.conversion[kept]],
        action=log.action[found.conversion[kept]],
        level=found.level[kept],
        weight=weight[kept],
        dwell_weight=np.full(len(kept), np.nan),
    )
    return examples.take(np.lexsort((examples.target, examples.event))), Dropped(
        unattributed=int(candidates.sum()) - len(positive),
        conversions_of_the_same_pin=len(positive) - len(kept),
    )


def engagements(log: Log, config: ExamplesConfig, median_dwell: float | None) -> tuple[Examples, Dropped]:
    """One example for each pin that a person clicked or repinned: the strongest, then the earliest visit."""
    weights = dict(config.weights)
    found = visits(log, weights, config.dwell, visit_minutes=config.visit_minutes, median_dwell=median_dwell)
    kept = strongest_of_each(log.user[found.event], log.pin[found.event], found.weight)
    is_click = found.action[kept] == ACTION_CODE[Action.CLICK]
    examples = Examples(
        event=found.event[kept],
        positive=found.event[kept],
        target=log.pin[found.event[kept]],
        action=found.action[kept],
        level=np.full(len(kept), NOT_ATTRIBUTED, np.int8),
        weight=found.weight[kept],
        dwell_weight=np.where(is_click, found.dwell_weight[kept], np.nan),
    )
    acted = [ACTION_CODE[action] for action in (Action.CLICK, Action.REPIN) if weights.get(action, 0.0) > 0]
    return examples, Dropped(
        events_of_the_same_visit=int(log.did(*acted).sum()) - len(found.event),
        engagements_of_the_same_pin=len(found.event) - len(kept),
    )


def evaluation_queries(log: Log, found: Attributed, start: int, end: int, config: ExamplesConfig) -> Examples:
    """The queries asked at `start` <= time < `end` (microseconds) that led to one of the evaluation actions.

    `found`: the log's conversions, attributed. An evaluated click or repin is its own query event.
    """
    asked = np.isin(log.action, [ACTION_CODE[action] for action in config.evaluation_actions])
    engaged = np.flatnonzero(asked & ~log.did(*CONVERSION_CODES, ACTION_CODE[Action.IMPRESSION]))
    done = np.r_[found.conversion, engaged]
    touch = np.r_[found.touch, engaged]
    level = np.r_[found.level, np.full(len(engaged), NOT_ATTRIBUTED, np.int8)]
    kept = np.flatnonzero(asked[done] & (log.time[touch] >= start) & (log.time[touch] < end))
    kept = kept[np.lexsort((done[kept], touch[kept]))]
    return Examples(
        event=touch[kept],
        positive=done[kept],
        target=log.pin[done[kept]],
        action=log.action[done[kept]],
        level=level[kept],
        weight=np.ones(len(kept)),
        dwell_weight=np.full(len(kept), np.nan),
    )


def _weights(config: ExamplesConfig) -> NDArray[np.float64]:
    """The weight of each action code."""
    return np.array([config.weights.get(action, 0.0) for action in ACTIONS])


def latest_of_each_user(log: Log, examples: Examples, most: int | None) -> Examples:
    """The last `most` examples of each person, by the query's time; all of them for None."""
    if most is None:
        return examples
    order = np.lexsort((examples.target, examples.event, log.time[examples.event], log.user[examples.event]))
    following = from_the_end(log.user[examples.event][order], len(log.user_ids))
    return examples.take(np.sort(order[following < most]))
