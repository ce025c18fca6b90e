"""Nothing that becomes known later changes what was made of the time before: the pipeline against altered futures.

Two statements, over random worlds whose split is held in place by one event of a separate user at the very end:

* Deleting, shifting or scrambling all events known at or after the end of the training time changes no training row, no
  weight, no count and no user state, to the bit. Evaluation queries come from that time and may change.
* Deleting or shifting all events known at or after any other time T changes no history, no purchases and no context of
  a query before T. Other things may rightly change and are not compared: whether the query is an example at all (its
  conversion may be one of the later events, or a heavier or earlier one of the same pin), its level, its weight (a
  mean over all clicks), its place under the caps, and its negatives (a served pin is one that was not engaged with
  LATER). Contexts are compared only where the user did one thing at that moment: with two, the later events decide
  which of the two is the touch.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from differences import difference, plain
from observed import observe
from random_logs import Row, World, act, random_world
from reference_log import DAY, IMPRESSION, read, split_times

Change = Callable[[np.random.Generator, Row, World, int], Row | None]
LAST_USER = "the last one"


def deleted(draw: np.random.Generator, event: Row, world: World, end: int) -> Row | None:
    return None


def shifted(draw: np.random.Generator, event: Row, world: World, end: int) -> Row | None:
    """Days later, in time and report, but not past the end of the log."""
    days = int(draw.integers(1, 6)) * DAY
    reported = None if event["reported"] is None else event["reported"] + days
    return event | {"time": min(event["time"] + days, end - 1), "reported": reported}


def scrambled(draw: np.random.Generator, event: Row, world: World, end: int) -> Row | None:
    """Another event that became known when this one did, made of the values of two others."""
    one, other = (world.events[int(place)] for place in draw.integers(len(world.events), size=2))
    from_one = {name: one[name] for name in ("pin", "event_id", "query", "dwell", "user_id")}
    from_other = {name: other[name] for name in ("action", "surface", "subject", "request_id")}
    return event | from_one | from_other


def held_in_place(world: World, seed: int) -> tuple[World, int]:
    """The world with a last event whose user does nothing else, and the end of the log that it fixes."""
    end = (max(event["time"] for event in world.events) // DAY + 1) * DAY
    last = act(IMPRESSION, 0, 0, user_id=LAST_USER) | {"time": end - 1}
    as_of = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=end)).date() if seed % 2 else None
    return World([*world.events, last], world.advertisers, replace(world.settings, as_of=as_of)), end


def with_other_future(world: World, known_from: int, end: int, change: Change, seed: int) -> World:
    """The world with every event that became known at `known_from` or later changed."""
    draw = np.random.default_rng(seed)
    events: list[Row] = []
    for event in world.events:
        known = max(event["time"], event["reported"] or 0)
        left = event if known < known_from or event["user_id"] == LAST_USER else change(draw, event, world, end)
        events += [] if left is None else [left]
    return replace(world, events=events)


def observed(world: World) -> dict[str, Any]:
    return observe(world.events, world.advertisers, world.settings)


@pytest.mark.parametrize("change", [deleted, shifted, scrambled])
def test_the_training_time_does_not_know_what_comes_after_it(change: Change) -> None:
    rows = changed = 0
    for seed in range(60):
        world, end = held_in_place(random_world(seed), seed)
        train = split_times(read(world.events, world.settings), world.settings).train
        other = with_other_future(world, train, end, change, seed)
        before, after = observed(world), observed(other)
        differs = difference(after, before, parts=("median_dwell", "train", "served", "targets"))
        assert differs is None, f"seed {seed}, {differs}\n{world.settings}"
        for user in before["users"].keys() & after["users"].keys():
            assert plain(after["users"][user]) == plain(before["users"][user]), f"seed {seed}, user {user}"
        rows += len(before["train"])
        changed += difference(after, before, parts=("validation", "test")) is not None
    assert rows > 150
    assert changed > 20


Queries = dict[tuple[str, int, int], tuple[Any, ...]]


def histories(result: dict[str, Any]) -> Queries:
    """The history of each query by (user, time, target): equal for all queries that share these."""
    found: Queries = {}
    for part in ("train", "validation", "test"):
        for query in result[part]:
            history = plain(query["history"])
            assert found.setdefault((query["user_id"], query["time"], query["target"]), history) == history
    return found


def purchases(result: dict[str, Any]) -> Queries:
    """The purchases of each evaluation query by (user, time, target)."""
    queries = [query for part in ("validation", "test") for query in result[part]]
    return {(query["user_id"], query["time"], query["target"]): plain(query["purchased"]) for query in queries}


def contexts(result: dict[str, Any], world: World) -> Queries:
    """The context of each query by (user, time, target) where its user did one thing at that time."""
    moments = [(event["user_id"], event["time"]) for event in world.events]
    parts = ("train", "validation", "test") if world.settings.evaluation_cutoff == "request" else ("train",)
    queries = [query for part in parts for query in result[part]]
    return {
        (query["user_id"], query["time"], query["target"]): (query["surface"], query["subject"], query["query"])
        for query in queries
        if moments.count((query["user_id"], query["time"])) == 1
    }


@pytest.mark.parametrize("change", [deleted, shifted])
def test_a_query_does_not_know_what_comes_after_it(change: Change) -> None:
    compared = {"histories": 0, "purchases": 0, "contexts": 0}
    for seed in range(60):
        world, end = held_in_place(random_world(seed), seed)
        moments = sorted(event["time"] for event in world.events)
        now = moments[int(np.random.default_rng(seed).integers(len(moments) // 3, len(moments)))]
        other = with_other_future(world, now, end, change, seed)
        untouched = {(event["user_id"], event["time"]) for event in world.events if event in other.events}
        before, after = observed(world), observed(other)
        pairs = {
            "histories": (histories(before), histories(after)),
            "purchases": (purchases(before), purchases(after)),
            "contexts": (contexts(before, world), contexts(after, other)),
        }
        for name, (one, two) in pairs.items():
            for query in one.keys() & two.keys():
                if query[1] < now and (name != "contexts" or query[:2] in untouched):
                    assert one[query] == two[query], f"seed {seed}, {name} before {now}: {query}\n{world.settings}"
                    compared[name] += 1
    assert min(compared.values()) > 30, compared
