"""The bonus of what was bought before, against brute force: from the shard's search to the retriever's answer."""

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from bundles import END, make_bundle
from eligible import is_eligible
from pydantic import ValidationError
from questions import questions

from convcg.bundle import Bundle
from convcg.config import load_config
from convcg.errors import ConfigError
from convcg.index.backends import BackendKind
from convcg.index.shard import Bonus, Hits, Shard, merge, shard_bounds
from convcg.retriever.policy import RetrievalConfig, SurfacePolicy
from convcg.retriever.query_encoder import QueryEncoder
from convcg.retriever.retriever import Finisher, Retriever, ShardSearcher
from convcg.types import SURFACES, Action, HistoryEvent, Request, Surface

BACKENDS = list(BackendKind)
#: Next to nothing, about what scores differ by, and more than that.
AMOUNTS = [1e-7, 0.2, 50.0]
NUM_PINS, NUM_USERS = 600, 60


def oracle(vectors, query, k, bonuses, allowed=None):
    """Rows and scores of [k] by sorting everything, for each query."""
    rows, scores = [], []
    for one, bonus in zip(query.astype(np.float64), bonuses, strict=True):
        score = (vectors.astype(np.float64) * one).sum(1).astype(np.float32)
        if bonus is not None:
            score[bonus.row] += np.float32(bonus.amount)
        order = [row for row in np.lexsort((np.arange(len(vectors)), -score)) if allowed is None or allowed[row]][:k]
        rows.append([*order, *[-1] * (k - len(order))])
        scores.append([*score[order], *[-np.inf] * (k - len(order))])
    return np.array(rows), np.array(scores, np.float32)


def sharded(vectors, query, k, bonuses, *, num_shards, backend, allowed=None) -> Hits:
    parts = []
    for first, end in shard_bounds(len(vectors), num_shards):
        shard = Shard(vectors[first:end], first_row=first, backend=backend)
        parts.append(shard.search(query, k, None if allowed is None else allowed[first:end], bonuses))
    return merge(parts, k)


def some_bonuses(rng, count, num_pins, amount):
    """For one query none, for the others of none to many rows."""
    sizes = [0, 1, 3, 40, num_pins, *rng.integers(0, 60, count)][: count - 1]
    bonuses = [Bonus(row=np.sort(rng.choice(num_pins, size, replace=False)), amount=amount) for size in sizes]
    return [None, *bonuses]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize("share_allowed", [None, 0.5, 0.02, 0.0])
@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_search_with_a_bonus_agrees_with_brute_force(rng, backend, num_shards, share_allowed, amount):
    vectors, query = rng.normal(size=(300, 16)).astype(np.float32), rng.normal(size=(12, 16)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    allowed = None if share_allowed is None else rng.random(300) < share_allowed
    bonuses = some_bonuses(rng, 12, 300, amount)
    for k in (1, 10, 300):
        hits = sharded(vectors, query, k, bonuses, num_shards=num_shards, backend=backend, allowed=allowed)
        row, score = oracle(vectors, query, k, bonuses, allowed)
        np.testing.assert_array_equal(hits.row, row)
        np.testing.assert_array_equal(hits.score, score)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize("amount", [1.0, 2.0])
def test_ties_that_a_bonus_makes_go_to_the_lower_row(rng, backend, num_shards, amount):
    vectors = rng.integers(0, 3, (500, 2)).astype(np.float32)  # scores are 0, 1 and 2, and so is the bonus
    query = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 8)]
    bonuses = some_bonuses(rng, 8, 500, amount)
    for k in (1, 30, 450):
        hits = sharded(vectors, query, k, bonuses, num_shards=num_shards, backend=backend)
        row, score = oracle(vectors, query, k, bonuses)
        np.testing.assert_array_equal(hits.row, row)
        np.testing.assert_array_equal(hits.score, score)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bonus_of_one_query_is_not_another_ones(rng, backend):
    vectors, query = rng.normal(size=(400, 8)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    bonuses = some_bonuses(rng, 20, 400, 0.5)
    shard = Shard(vectors, first_row=0, backend=backend)
    together = shard.search(query, 25, None, bonuses)
    for place in range(len(query)):
        alone = shard.search(query[place : place + 1], 25, None, bonuses[place : place + 1])
        np.testing.assert_array_equal(alone.row[0], together.row[place])
        np.testing.assert_array_equal(alone.score[0], together.score[place])


def on_all_surfaces(policy):
    return RetrievalConfig(home_feed=policy, related_pins=policy, search=policy)


def open_bundle(directory, *, num_shards, backend):
    sets = ["model.pin_length=free", f"index.backend={backend}"]
    path = make_bundle(directory, num_pins=NUM_PINS, num_users=NUM_USERS, num_shards=num_shards, seed=3, sets=sets)
    return Bundle.open(str(path))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("repeat")
    return [
        open_bundle(root / f"{backend}{num_shards}", num_shards=num_shards, backend=backend)
        for backend in BACKENDS
        for num_shards in (1, 4)
    ]


def asked():
    """Also people whose own history says what they bought, with and without a row in the user table."""
    own = tuple(HistoryEvent(pin_id=f"p{row:06d}", action=Action.CHECKOUT) for row in range(0, 300, 17))
    users = [f"u{row:05d}" for row in range(0, NUM_USERS, 6)]
    inline = [
        Request(surface=surface, user_id=user, history=own, timestamp=END, k=150, exclude_pin_ids=("p000017",))
        for user in (*users, None)
        for surface in SURFACES
    ]
    return [*questions(120, num_pins=NUM_PINS, num_users=NUM_USERS, seed=1), *inline]


def expected(bundle, pins, request, plan, policy):
    """(pin, score) of the answer, from the vectors of the whole catalogue and the rows of the pin table."""
    vectors = np.concatenate([bundle.shard_vectors(shard) for shard in range(len(bundle.manifest.shards))])
    unwanted = {request.subject_pin_id, *request.exclude_pin_ids}
    allowed = np.array([is_eligible(pin, request, plan.rule.country) and pin["pin_id"] not in unwanted for pin in pins])
    bonus = Bonus(row=bought_by(bundle, request), amount=policy.repeat_bonus)
    rows, scores = oracle(vectors, plan.embedding[None], NUM_PINS, [bonus], allowed)
    given, found = Counter(), []
    for row, score in zip(rows[0, : allowed.sum()], scores[0], strict=False):
        advertiser = pins[row]["advertiser_id"]
        given[advertiser] += 1
        if advertiser is None or policy.max_per_advertiser is None or given[advertiser] <= policy.max_per_advertiser:
            found.append((pins[row]["pin_id"], float(score)))
    return found[: plan.k]


def bought_by(bundle, request):
    """Of the user table, and of the request's own history."""
    row = None if request.user_id is None else bundle.users.row(request.user_id)
    bought = set() if row is None else set(bundle.users.column("purchased")[row].as_py())
    for event in request.history or ():
        if event.action is Action.CHECKOUT:
            bought.add(bundle.pins.row(event.pin_id))
    return np.array(sorted(bought - {None}), np.int64)


@pytest.mark.parametrize("cap", [None, 3])
@pytest.mark.parametrize("amount", AMOUNTS)
def test_what_was_bought_before_has_its_bonus_whatever_the_shards_the_backend_and_the_batch(bundles, cap, amount):
    policy = SurfacePolicy(exclude_purchased=False, repeat_bonus=amount, max_per_advertiser=cap)
    retrieval, requests = on_all_surfaces(policy), asked()
    plans = QueryEncoder(bundles[0], retrieval).plan(requests)
    pins = bundles[0].pins.table.to_pylist()
    wanted = [expected(bundles[0], pins, *each, policy) for each in zip(requests, plans, strict=True)]
    for bundle in bundles:
        retriever = Retriever.open(bundle, retrieval)
        together = retriever.retrieve(requests)
        found = [[(candidate.pin_id, candidate.score) for candidate in answer.candidates] for answer in together]
        assert found == wanted
        assert [retriever.retrieve([request])[0] for request in requests[::7]] == together[::7]


def test_a_large_bonus_puts_all_that_was_bought_first(bundles):
    retriever = Retriever.open(bundles[0], on_all_surfaces(SurfacePolicy(exclude_purchased=False, repeat_bonus=50.0)))
    stranger = Request(surface=Surface.HOME_FEED, timestamp=END, k=NUM_PINS)
    shown = [candidate.pin_id for candidate in retriever.retrieve([stranger])[0].candidates]
    bought, clicked, excluded = shown[-3:], shown[-4], shown[-5]
    history = [HistoryEvent(pin_id=pin, action=Action.CHECKOUT) for pin in (*bought, excluded)]
    history.append(HistoryEvent(pin_id=clicked, action=Action.CLICK))
    answer = retriever.retrieve([replace(stranger, history=tuple(history), exclude_pin_ids=(excluded,))])[0]
    found = [candidate.pin_id for candidate in answer.candidates]
    assert set(found[:3]) == set(bought)
    assert set(found[3:]) == set(shown) - {*bought, excluded}


def test_no_bonus_is_the_default_and_changes_nothing(bundles):
    requests = asked()
    for exclude_purchased in (True, False):
        retrieval = on_all_surfaces(SurfacePolicy(exclude_purchased=exclude_purchased))
        assert {plan.bonus for plan in QueryEncoder(bundles[0], retrieval).plan(requests)} == {None}
    policy = SurfacePolicy(exclude_purchased=False)
    answers = Retriever.open(bundles[-1], on_all_surfaces(policy)).retrieve(requests)
    plans = QueryEncoder(bundles[-1], on_all_surfaces(policy)).plan(requests)
    pins = bundles[-1].pins.table.to_pylist()
    for answer, *each in zip(answers, requests, plans, strict=True):
        found = [(candidate.pin_id, candidate.score) for candidate in answer.candidates]
        assert found == expected(bundles[-1], pins, *each, policy)


def test_a_plan_crosses_processes_whole_and_small(bundles):
    bundle = bundles[1]
    retrieval = on_all_surfaces(SurfacePolicy(exclude_purchased=False, repeat_bonus=0.3, max_per_advertiser=5))
    shards = [ShardSearcher(bundle, shard, backend=BackendKind.NUMPY) for shard in range(len(bundle.manifest.shards))]
    encoder, finisher, retriever = QueryEncoder(bundle, retrieval), Finisher(bundle), Retriever.open(bundle, retrieval)
    for request in asked():
        sent = pickle.dumps(encoder.plan([request])[0])
        assert len(sent) < 4096
        plan = pickle.loads(sent)
        parts = [shard.search([plan], [NUM_PINS])[0] for shard in shards]
        assert finisher.finish(plan, parts, NUM_PINS) == retriever.retrieve([request])[0]


def test_what_is_bought_and_excluded_is_not_in_the_plan_twice(bundles):
    encoder = QueryEncoder(bundles[0], on_all_surfaces(SurfacePolicy(exclude_purchased=False, repeat_bonus=0.3)))
    for request, plan in zip(asked(), encoder.plan(asked()), strict=True):
        bought = set(bought_by(bundles[0], request).tolist())
        assert set(() if plan.bonus is None else plan.bonus.row.tolist()) == bought - plan.excluded


@pytest.mark.parametrize("amount", [-0.1, 1e9, float("nan"), float("inf")])
def test_a_bonus_that_no_score_can_carry_is_refused(amount):
    with pytest.raises(ValidationError, match="repeat_bonus"):
        SurfacePolicy(exclude_purchased=False, repeat_bonus=amount)


def test_a_bonus_for_what_is_left_out_is_refused():
    with pytest.raises(ConfigError, match="set exclude_purchased to false or repeat_bonus to 0"):
        load_config("smoke", ["retrieval.search.repeat_bonus=0.5"])
    sets = ["retrieval.search.repeat_bonus=0.5", "retrieval.search.exclude_purchased=false"]
    assert load_config("smoke", sets).retrieval.search.repeat_bonus == 0.5
