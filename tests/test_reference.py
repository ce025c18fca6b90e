"""The pipeline against the slow reference over random logs, and what must hold of every row by itself."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pprint import pformat
from typing import Any

import numpy as np
import pytest
from differences import difference
from observed import observe
from random_logs import World, act, random_world
from reference_examples import reference
from reference_log import (
    ACTIONS,
    CHECKOUT,
    CLICK,
    DAY,
    IMPRESSION,
    MINUTE,
    Event,
    Settings,
    is_valid,
    read,
    split_times,
)

BLOCKS = [range(first, first + 100) for first in range(0, 400, 100)]
over_blocks = pytest.mark.parametrize("seeds", BLOCKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")


@cache
def of_seed(seed: int) -> tuple[World, dict[str, Any]]:
    """A world and what the pipeline makes of it."""
    world = random_world(seed)
    return world, observe(world.events, world.advertisers, world.settings)


@over_blocks
def test_the_pipeline_makes_of_a_random_log_what_the_reference_makes(seeds: range) -> None:
    for seed in seeds:
        world, found = of_seed(seed)
        wanted = reference(world.events, world.advertisers, world.settings)
        differs = difference(found, wanted, weight_tolerance=1e-6)
        if differs:
            pytest.fail(f"seed {seed}, {differs}\n{pformat(world.settings)}\nadvertisers {world.advertisers}")


def test_negatives_leave_out_a_target_that_the_caps_dropped() -> None:
    hour = 60 * MINUTE
    served = [act(IMPRESSION, 0, pin, request_id="r") for pin in (0, 1, 3)]
    clicked, last = act(CLICK, 2 * hour, 0, request_id="r"), act(CHECKOUT, 3 * DAY, 4)
    bought = [act(CHECKOUT, 2 * hour + 10 * MINUTE, 1), act(CHECKOUT, 3 * hour, 2)]
    settings = Settings(click_days=1 / 24, impression_days=1 / 24, per_user=1)
    for cap in (None, 1):
        found = observe([*served, clicked, *bought, last], ["x", "x", "y", None, None], replace(settings, per_user=cap))
        assert sorted((x["task"], x["target"], tuple(x["negatives"])) for x in found["train"]) == [
            *([] if cap else [("conversion", 1, (3,))]),
            ("conversion", 2, ()),
            ("engagement", 0, (3,)),
        ]


def test_the_order_of_the_rows_in_the_log_does_not_matter() -> None:
    for seed in range(40):
        world, found = of_seed(seed)
        turned = observe(sorted(world.events, key=lambda event: repr(event)), world.advertisers, world.settings)
        differs = difference(turned, found, weight_tolerance=1e-12)
        assert differs is None, f"seed {seed}, {differs}"


def test_the_random_logs_reach_every_rule() -> None:
    reached: Counter[str] = Counter()
    for seeds in BLOCKS:
        for seed in seeds:
            world = random_world(seed)
            result = reference(world.events, world.advertisers, world.settings)
            for part in ("train", "validation", "test"):
                for row in result[part]:
                    reached[f"{part}, level {row['level']}"] += 1
                    reached[f"{part}, action {ACTIONS[row['action']]}"] += 1
                    reached["hidden dwell"] += any(entry[4] is None for entry in row["history"])
                    reached["seen dwell"] += any(entry[4] is not None for entry in row["history"])
                    reached["negatives"] += bool(row.get("negatives"))
                    reached["bought before"] += bool(row.get("purchased"))
            reached["no dwell"] += result["median_dwell"] is None
            reached["as of"] += world.settings.as_of is not None
    wanted = [f"{part}, level {level}" for part in ("train", "validation", "test") for level in range(5)]
    wanted += [f"train, action {action}" for action in ACTIONS[1:]]
    wanted += ["train, level -1", "hidden dwell", "seen dwell", "negatives", "bought before", "no dwell", "as of"]
    assert {rule: reached[rule] for rule in wanted if reached[rule] < 8} == {}


def rows_of(seeds: range) -> Iterator[tuple[str, dict[str, Any], list[Event], World, int]]:
    """Each row of each seed with its part, its user's raw events, its world and the end of the training time."""
    for seed in seeds:
        world, found = of_seed(seed)
        raw = read(world.events, world.settings)
        train = split_times(raw, world.settings).train
        for part in ("train", "validation", "test"):
            for row in found[part]:
                yield part, row, [e for e in raw if e.user == row["user_id"]], world, train


@over_blocks
def test_histories_hold_only_what_was_known_strictly_before_the_query(seeds: range) -> None:
    seen = 0
    for _, row, events, world, _ in rows_of(seeds):
        now = row["time"]
        known = {
            (e.pin, e.action, e.surface, float(np.float32((now - e.time) / 1e6))): e for e in events if e.known < now
        }
        dwells = {(e.pin, e.dwell) for e in events if is_valid(e.dwell)}
        for pin, action, surface, age, dwell in row["history"]:
            assert (pin, action, surface, age) in known, (world, row)
            assert age > 0
            assert dwell is None or ((pin, dwell) in dwells and dwell <= age), (world, row)
            assert not (world.settings.exclude_target and pin == row["target"])
            seen += 1
        assert len(row["history"]) <= world.settings.history_length
        bought = {e.pin for e in events if e.action == CHECKOUT and e.known < now}
        assert set(row.get("purchased", ())) <= bought
    assert seen > 500


@over_blocks
def test_training_rows_come_from_events_known_in_the_training_time(seeds: range) -> None:
    seen = 0
    for part, row, events, world, train in rows_of(seeds):
        if part != "train":
            continue
        known = [e for e in events if e.known < train]
        assert (row["target"], row["action"]) in {(e.pin, e.action) for e in known}, (world, row)
        context = (row["time"], row["surface"], row["subject"], row["query"])
        assert context in {(e.time, max(e.surface, 0), e.subject, e.query) for e in known}, (world, row)
        window = max(int(world.settings.click_days * DAY), int(world.settings.impression_days * DAY))
        shown = {e.pin for e in known if e.action == IMPRESSION and e.time + window <= train}
        assert set(row["negatives"]) <= shown - {row["target"]}, (world, row)
        seen += 1
    assert seen > 100
