"""What `prepare` must make of a log, computed slowly and plainly: one short function for each rule.

Nothing here is shared with the package, so that the two cannot be wrong in the same way.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reference_log import (
    ACTIONS,
    ADD_TO_CART,
    CHECKOUT,
    CLICK,
    DAY,
    IMPRESSION,
    MINUTE,
    REPIN,
    Event,
    Settings,
    attributed,
    context,
    deduplicated,
    evaluation_rows,
    history,
    is_valid,
    pin_count,
    purchased,
    read,
    split_times,
    user_count,
)

__all__ = ["Settings", "pin_count", "reference", "user_count"]

TWO_64 = 2**64


@dataclass(frozen=True)
class Example:
    """One training example before its history: the query event, what is to be found, and what it weighs."""

    touch: Event
    target: int
    task: str
    action: int
    level: int
    weight: float
    dwell_weight: float | None = None


# --- 3. training conversions ------------------------------------------------------------------------------------------


def conversion_examples(
    training_log: list[Event], advertisers: list[str | None], settings: Settings
) -> list[tuple[Event, Example]]:
    """Each conversion that is learned from, with its example: one for each user and pin."""
    best: dict[tuple[str, int], tuple[Event, Example]] = {}
    for e in training_log:
        weight = settings.weights.get(ACTIONS[e.action], 0.0)
        if e.action not in (ADD_TO_CART, CHECKOUT) or weight <= 0:
            continue
        found = attributed(e, training_log, advertisers, settings)
        if found is None:
            continue
        rival = best.get((e.user, e.pin))
        if rival is None or (-weight, e.position) < (-rival[1].weight, rival[0].position):
            best[e.user, e.pin] = e, Example(found[0], e.pin, "conversion", e.action, found[1], weight)
    return list(best.values())


# --- 4. training engagements ------------------------------------------------------------------------------------------


def median_dwell(raw: list[Event], train: int) -> float | None:
    """The lower median of the whole seconds of all valid dwells of clicks, before duplicates are removed."""
    seconds = sorted(
        math.floor(e.dwell)
        for e in raw
        if e.action == CLICK and e.known < train and e.dwell is not None and is_valid(e.dwell)
    )
    return float(seconds[(len(seconds) - 1) // 2]) if seconds else None


def dwell_weight(seconds: float | None, settings: Settings) -> float:
    """The weight of a click by its dwell; `seconds` is None where no dwell is known at all."""
    if seconds is None or settings.dwell_curve == "none":
        return 1.0
    cap, floor = settings.dwell_cap_seconds, settings.dwell_floor
    if settings.dwell_curve == "log_ratio":
        share = math.log(1 + min(seconds, cap) / cap) / math.log(2)
    else:
        share = math.log(1 + min(seconds, cap)) / math.log(1 + cap)
    return floor + (1 - floor) * share


def visits(training_log: list[Event], settings: Settings) -> list[list[Event]]:
    """The clicks and repins that weigh something, grouped into visits; events in log order."""
    with_request: dict[tuple[str, int, str], list[Event]] = {}
    chains: dict[tuple[str, int], list[list[Event]]] = {}
    for e in sorted(training_log, key=lambda e: (e.user, e.position)):
        if e.action not in (CLICK, REPIN) or settings.weights.get(ACTIONS[e.action], 0.0) <= 0:
            continue
        if e.request is not None:
            with_request.setdefault((e.user, e.pin, e.request), []).append(e)
            continue
        chain = chains.setdefault((e.user, e.pin), [])
        if chain and e.time - chain[-1][-1].time <= int(settings.visit_minutes * MINUTE):
            chain[-1].append(e)
        else:
            chain.append([e])
    return [*with_request.values(), *(visit for chain in chains.values() for visit in chain)]


def visit_example(visit: list[Event], median: float | None, settings: Settings) -> Example:
    """The example of one visit, asked at its first event."""
    dwells = [e.dwell for e in visit if e.action == CLICK and e.dwell is not None and is_valid(e.dwell)]
    w = dwell_weight(max(dwells) if dwells else median, settings)
    clicked = [settings.weights["click"] * w for e in visit if e.action == CLICK]
    repinned = [settings.weights["repin"] for e in visit if e.action == REPIN]
    if clicked and (not repinned or clicked[0] >= repinned[0]):
        return Example(visit[0], visit[0].pin, "engagement", CLICK, -1, clicked[0], w)
    return Example(visit[0], visit[0].pin, "engagement", REPIN, -1, repinned[0])


def engagement_examples(training_log: list[Event], median: float | None, settings: Settings) -> list[Example]:
    """One example for each user and pin: that of the visit which weighs most, of equal ones the first."""
    best: dict[tuple[str, int], Example] = {}
    for visit in visits(training_log, settings):
        example = visit_example(visit, median, settings)
        key = example.touch.user, example.target
        rival = best.get(key)
        if rival is None or (-example.weight, example.touch.position) < (-rival.weight, rival.touch.position):
            best[key] = example
    return list(best.values())


# --- 5. caps and 6. final weights -------------------------------------------------------------------------------------


def within_user_cap(examples: list[Example], settings: Settings) -> list[Example]:
    """Of each user and task, the latest examples."""
    if settings.per_user is None:
        return examples
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.touch.user, example.task), []).append(example)
    latest_first = [
        sorted(group, key=lambda x: (x.touch.time, x.touch.position, x.target), reverse=True)
        for group in groups.values()
    ]
    return [example for group in latest_first for example in group[: settings.per_user]]


def keep_rates(examples: list[Example], advertisers: list[str | None], settings: Settings) -> dict[int, float]:
    """The share of a pin's examples that stay under the caps per pin and per advertiser."""
    count = Counter(example.target for example in examples)
    pin_rate = {p: min(1.0, settings.per_pin / n) if settings.per_pin is not None else 1.0 for p, n in count.items()}
    rates = {}
    for p in count:
        advertiser_rate = 1.0
        if settings.per_advertiser is not None and advertisers[p] is not None:
            left = sum(pin_rate[q] * count[q] for q in count if advertisers[q] == advertisers[p])
            advertiser_rate = min(1.0, settings.per_advertiser / left)
        rates[p] = pin_rate[p] * advertiser_rate
    return rates


def hashed(time: int, pin: int) -> int:
    """64 mixed bits of a time and a pin."""
    x = (time * 0x9E3779B97F4A7C15 + pin * 0xC2B2AE3D27D4EB4F) % TWO_64
    x ^= x >> 32
    x = x * 0xD6E8FEB86659FD93 % TWO_64
    return x ^ (x >> 32)


def within_global_caps(examples: list[Example], advertisers: list[str | None], settings: Settings) -> list[Example]:
    """The examples that stay under the caps per pin and per advertiser."""
    rates = keep_rates(examples, advertisers, settings)
    return [
        example
        for example in examples
        if rates[example.target] == 1.0 or hashed(example.touch.time, example.target) / TWO_64 < rates[example.target]
    ]


def mean_dwell_weight(examples: list[Example]) -> float | None:
    """The mean of w over the click examples; None where there is none."""
    w = [example.dwell_weight for example in examples if example.dwell_weight is not None]
    return math.fsum(w) / len(w) if w else None


def final_weight(example: Example, mean: float | None, settings: Settings) -> float:
    """A click's weight beside the mean click, at most five times it; every other example as it is."""
    if example.dwell_weight is None or mean is None:
        return example.weight
    ratio = example.dwell_weight / mean if mean > 0 else 1.0
    return settings.weights["click"] * min(5.0, ratio)


# --- 7. served, not engaged -------------------------------------------------------------------------------------------


def served_not_engaged(
    training_log: list[Event], advertisers: list[str | None], train: int, settings: Settings
) -> list[Event]:
    """The impressions whose windows are over and that nothing followed or preceded nearby."""
    window = max(int(settings.click_days * DAY), int(settings.impression_days * DAY))

    def near(e: Event, f: Event) -> bool:
        same = e.pin == f.pin or (advertisers[e.pin] is not None and advertisers[e.pin] == advertisers[f.pin])
        return e.user == f.user and same and abs(e.time - f.time) <= window

    return [
        e
        for e in training_log
        if e.action == IMPRESSION
        and e.time + window <= train
        and not any(f.action != IMPRESSION and near(e, f) for f in training_log)
    ]


def negatives(touch: Event, survivors: list[Event], examples: list[Example], settings: Settings) -> list[int]:
    """Pins that the query event's own request served in vain; `examples` are those before caps."""
    if touch.request is None:
        return []
    targets = {x.target for x in examples if (x.touch.user, x.touch.position) == (touch.user, touch.position)}
    pins = {e.pin for e in survivors if (e.user, e.request) == (touch.user, touch.request)} - targets
    return sorted(pins, key=lambda pin: hashed(touch.time, pin))[: settings.negatives_per_request]


# --- the whole --------------------------------------------------------------------------------------------------------


def reference(events: Iterable[dict[str, Any]], advertisers: list[str | None], settings: Settings) -> dict[str, Any]:
    """Everything that comes of a log; `advertisers` holds each pin's, None where unknown.

    Training and evaluation rows are in no promised order. Pins that occur nowhere are in no count.
    """
    raw = read(events, settings)
    times = split_times(raw, settings)
    log = deduplicated(raw, settings)
    training_log = [e for e in log if e.known < times.train]

    median = median_dwell(raw, times.train)
    conversions = [example for _, example in conversion_examples(training_log, advertisers, settings)]
    examples = conversions + engagement_examples(training_log, median, settings)
    capped = within_user_cap(examples, settings)
    mean = mean_dwell_weight(capped)
    final = within_global_caps(capped, advertisers, settings)
    survivors = served_not_engaged(training_log, advertisers, times.train, settings)

    def row(x: Example) -> dict[str, Any]:
        return (
            {"user_id": x.touch.user, "time": x.touch.time, "target": x.target}
            | {"task": x.task, "action": x.action, "level": x.level}
            | context(x.touch)
            | {
                "weight": final_weight(x, mean, settings),
                "history": history(log, x.touch.user, x.touch.time, x.target, settings),
                "negatives": negatives(x.touch, survivors, examples, settings),
            }
        )

    return {
        "median_dwell": median,
        "train": [row(x) for x in final],
        "validation": evaluation_rows(log, times.validation, times.test, times.train, advertisers, settings),
        "test": evaluation_rows(log, times.test, times.end, times.train, advertisers, settings),
        "users": {
            user: {
                "history": history(log, user, times.train, None, settings),
                "purchased": purchased(log, user, times.train),
            }
            for user in sorted({e.user for e in raw})
        },
        "served": dict(Counter(e.pin for e in survivors)),
        "targets": {
            task: dict(Counter(x.target for x in final if x.task == task)) for task in ("conversion", "engagement")
        },
    }
