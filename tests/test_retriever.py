"""The retriever: policies kept, and one answer whatever the batch, the shards and the backend."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from bundles import END, make_bundle
from eligible import is_eligible
from questions import questions

from convcg.bundle import Bundle
from convcg.errors import RequestError
from convcg.retriever.policy import RetrievalConfig, SurfacePolicy
from convcg.retriever.query_encoder import QueryEncoder
from convcg.retriever.retriever import Retriever
from convcg.types import Action, HistoryEvent, Range, Request, Surface

NUM_PINS = 600
CAPPED = SurfacePolicy(k=50, max_per_advertiser=2)


def open_bundle(tmp, *, num_shards=2, sets=()):
    return Bundle.open(str(make_bundle(tmp, num_pins=NUM_PINS, num_users=60, num_shards=num_shards, seed=3, sets=sets)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(tmp_path_factory.mktemp("retriever") / "bundle")


@pytest.fixture(scope="module")
def retriever(bundle):
    return Retriever.open(bundle)


def home(user="u00001", **fields):
    return Request(surface=Surface.HOME_FEED, user_id=user, timestamp=END, **fields)


def pins_of(bundle, answer):
    rows = [bundle.pins.row(candidate.pin_id) for candidate in answer.candidates]
    return bundle.pins.table.take(rows).to_pylist()


@pytest.mark.parametrize(
    ("num_shards", "backend"), [(1, "numpy"), (2, "numpy"), (3, "faiss"), (7, "faiss"), (7, "numpy")]
)
def test_shards_and_backend_change_nothing(retriever, tmp_path, num_shards, backend):
    other = Retriever.open(open_bundle(tmp_path / "b", num_shards=num_shards, sets=[f"index.backend={backend}"]))
    asked = questions(80, num_pins=NUM_PINS, num_users=60, seed=1)
    for mine, theirs in zip(retriever.retrieve(asked), other.retrieve(asked), strict=True):
        assert mine.candidates == theirs.candidates


def test_a_batch_changes_nothing(retriever):
    asked = questions(60, num_pins=NUM_PINS, num_users=60, seed=2)
    together = retriever.retrieve(asked)
    assert [retriever.retrieve([request])[0] for request in asked] == together
    assert list(reversed(retriever.retrieve(asked[::-1]))) == together


CONCAT = ["model.inputs=concat", "model.feature_dim=8"]
TOWER = "{kind: parallel, hidden: [24]}"
EVERYTHING = [
    *CONCAT,
    f"model.query_tower={TOWER}",
    f"model.pin_tower={TOWER}",
    "model.pin_length=free",
    "model.history_gain=true",
    "model.heads=multi",
    "model.task_token=true",
    "model.history={kind: transformer, width: 16, recent: 3}",
]
MODELS = {
    "concat": CONCAT,
    "transformer": ["model.history={kind: transformer, width: 16}"],
    "prefix": ["model.prefixes=[4, 8]", "index.dim=8"],
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_any_model_answers_alike_from_any_batch_shards_and_backend(tmp_path, model):
    answers = []
    asked = questions(60, num_pins=NUM_PINS, num_users=60, seed=1)
    for num_shards, backend in ((1, "numpy"), (4, "numpy"), (1, "faiss"), (4, "faiss")):
        sets = [*model, f"index.backend={backend}"]
        retriever = Retriever.open(open_bundle(tmp_path / f"{backend}{num_shards}", num_shards=num_shards, sets=sets))
        together = retriever.retrieve(asked)
        assert [retriever.retrieve([request])[0] for request in asked] == together
        answers.append([answer.candidates for answer in together])
    assert answers[1:] == answers[:1] * 3
    assert len({candidates[0].pin_id for candidates in answers[0] if candidates}) > 5


def test_agrees_with_brute_force_over_the_bundle(retriever, bundle):
    encoder = QueryEncoder(bundle, RetrievalConfig())
    vectors = np.concatenate([bundle.shard_vectors(shard) for shard in range(2)]).astype(np.float64)
    for request in questions(30, num_pins=NUM_PINS, num_users=60, seed=4):
        answer = retriever.retrieve([request])[0]
        plan = encoder.plan([request])[0]
        score = (vectors * plan.embedding.astype(np.float64)).sum(1).astype(np.float32)
        allowed = allowed_by_hand(bundle, request, plan)
        best = [row for row in np.lexsort((np.arange(NUM_PINS), -score)) if allowed[row]][: plan.k]
        assert [candidate.pin_id for candidate in answer.candidates] == [f"p{row:06d}" for row in best]
        assert [candidate.score for candidate in answer.candidates] == [float(score[row]) for row in best]


def allowed_by_hand(bundle, request, plan):
    return [
        row not in plan.excluded and is_eligible(pin, request, plan.rule.country)
        for row, pin in enumerate(bundle.pins.table.to_pylist())
    ]


def test_purchased_subject_and_excluded_pins_never_return(retriever, bundle):
    for row, user in enumerate(bundle.users.ids.to_pylist()):
        request = Request(
            surface=Surface.RELATED_PINS,
            user_id=user,
            subject_pin_id="p000005",
            exclude_pin_ids=("p000007", "nowhere"),
            history=(HistoryEvent(pin_id="p000011", action=Action.CHECKOUT),) if row % 2 else None,
            k=NUM_PINS,
        )
        found = {candidate.pin_id for candidate in retriever.retrieve([request])[0].candidates}
        bought = {f"p{pin:06d}" for pin in bundle.users.column("purchased")[row].as_py()}
        assert not found & (bought | {"p000005", "p000007"})
        assert row % 2 == 0 or "p000011" not in found


def test_purchases_may_return_where_the_policy_says_so(bundle):
    allowed = Retriever.open(bundle, RetrievalConfig(home_feed=SurfacePolicy(exclude_purchased=False)))
    purchased = bundle.users.column("purchased")
    users = [row for row in range(len(bundle.users)) if len(purchased[row].as_py()) > 3]
    answers = allowed.retrieve([home(f"u{row:05d}", k=NUM_PINS) for row in users])
    returned = [{candidate.pin_id for candidate in answer.candidates} for answer in answers]
    assert any(
        f"p{pin:06d}" in found for row, found in zip(users, returned, strict=True) for pin in purchased[row].as_py()
    )


def test_the_cap_is_kept_and_refilled(bundle, retriever):
    capped = Retriever.open(bundle, RetrievalConfig(home_feed=CAPPED))
    answer = capped.retrieve([home(k=12)])[0]
    everything = pins_of(bundle, retriever.retrieve([home(k=NUM_PINS)])[0])
    given, expected = Counter(), []
    for pin in everything:
        given[pin["advertiser_id"]] += 1
        if pin["advertiser_id"] is None or given[pin["advertiser_id"]] <= 2:
            expected.append(pin["pin_id"])
    assert [candidate.pin_id for candidate in answer.candidates] == expected[:12]


def test_a_cap_that_cannot_be_filled_ends(bundle):
    capped = Retriever.open(bundle, RetrievalConfig(home_feed=CAPPED))
    request = home(filters={"advertiser_id": ("a1", "a2", "a3")}, k=50)
    answer = capped.retrieve([request])[0]
    assert Counter(pin["advertiser_id"] for pin in pins_of(bundle, answer)) == {"a1": 2, "a2": 2, "a3": 2}


def test_inline_history_counts_as_the_stored_one(retriever, bundle):
    user = bundle.users.table.slice(4, 1).to_pylist()[0]
    actions, surfaces = list(Action), list(Surface)
    columns = ("history_pin", "history_action", "history_surface", "history_time", "history_dwell")
    history = tuple(
        HistoryEvent(
            pin_id=f"p{pin:06d}",
            action=actions[action],
            surface=None if surface < 0 else surfaces[surface],
            timestamp=then,
            dwell_seconds=None if np.isnan(dwell) else dwell,
        )
        for pin, action, surface, then, dwell in zip(*(user[name] for name in columns), strict=True)
    )
    features = {name: user[name] for name in ("country", "age", "interests", "taste")}
    stored = home(user["user_id"], exclude_pin_ids=tuple(f"p{pin:06d}" for pin in user["purchased"]))
    inline = replace(stored, user_id="somebody new", user_features=features, history=history)
    mine, theirs = retriever.retrieve([stored, inline])
    assert mine.candidates == theirs.candidates
    assert (mine.known_user, theirs.known_user) == (True, False)


def test_a_feature_of_one_request_does_not_change_the_type_of_another(retriever):
    odd, plain = home(user_features={"age": True}), home()
    assert retriever.retrieve([odd, plain])[1] == retriever.retrieve([plain])[0]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (home(k=0), "k = 0"),
        (home(k=10**9), "1..2000"),
        (home(subject_pin_id="nowhere"), "subject_pin_id 'nowhere'"),
        (home(user_features={"shoe_size": 3}), "'shoe_size' is not known"),
        (home(user_features={"age": "old"}), "'age' = 'old'"),
        (home(user_features={"age": 10**30}), "'age'"),
        (home(user_features={"taste": [1.0, 2.0]}), "'taste'"),
        (home(user_features={"country": 3}), "'country' = 3"),
        (home(filters={"colour": "red"}), "'colour' is no column"),
        (home(filters={"surfaces": "search"}), "'surfaces' is no column"),
        (home(filters={"price": "cheap"}), "'price' = 'cheap'"),
        (home(filters={"category": 3}), "give a string"),
        (home(filters={"category": Range(min=1)}), "a range needs a numeric column"),
    ],
)
def test_a_bad_request_is_named_and_leaves_the_others_alone(retriever, request_, message):
    good = home()
    with pytest.raises(RequestError, match=message.replace(".", r"\.")):
        retriever.retrieve([good, request_])
    first, second, third = retriever.retrieve_each([good, request_, good])
    assert isinstance(second, RequestError)
    assert first == third == retriever.retrieve([good])[0]


def test_a_range_includes_the_price_that_it_names(retriever, bundle):
    best = retriever.retrieve([home("nobody", k=1)])[0]
    price = float(str(np.float32(pins_of(bundle, best)[0]["price"])))  # as a person reads and types a float32
    assert retriever.retrieve([home("nobody", k=1, filters={"price": Range(min=price, max=price)})])[0] == best


def test_no_requests_have_no_answers(retriever):
    assert retriever.retrieve([]) == []
