"""The running service, in both topologies: the library's own answers, over HTTP."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from bundles import END
from questions import questions

from convcg.types import Action, Range, Request

pytestmark = pytest.mark.ray


def body_of(request: Request) -> dict:
    """A request as a client would write it."""
    body = {
        "surface": request.surface.value,
        "k": request.k,
        "user_id": request.user_id,
        "user_features": dict(request.user_features),
        "subject_pin_id": request.subject_pin_id,
        "query": request.query,
        "filters": {name: filter_of(wanted) for name, wanted in request.filters.items()},
        "exclude_pin_ids": list(request.exclude_pin_ids),
        "timestamp": request.timestamp,
    }
    if request.history is not None:
        body["history"] = [
            {"pin_id": event.pin_id, "action": event.action, "surface": event.surface, "timestamp": event.timestamp}
            for event in request.history
        ]
    return {name: value for name, value in body.items() if value is not None}


def filter_of(wanted):
    if isinstance(wanted, Range):
        return {name: bound for name, bound in (("min", wanted.min), ("max", wanted.max)) if bound is not None}
    return list(wanted) if isinstance(wanted, tuple) else wanted


def ask(client, **body):
    response = client.post("/v1/candidates", json={"surface": "home_feed", "timestamp": END, **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_answers_are_the_librarys_to_the_bit(client, retriever):
    asked = questions(120, num_pins=500, num_users=40, seed=11)
    expected = retriever.retrieve(asked)
    with ThreadPoolExecutor(8) as pool:  # at once, so that they share batches
        responses = list(pool.map(lambda request: client.post("/v1/candidates", json=body_of(request)), asked))
    for request, answer, response in zip(asked, expected, responses, strict=True):
        assert response.status_code == 200, response.text
        assert response.json() == {
            "model_version": answer.model_version,
            "known_user": answer.known_user,
            "surface": request.surface.value,
            "candidates": [{"pin_id": each.pin_id, "score": each.score} for each in answer.candidates],
        }


def test_says_what_it_serves(client, bundle):
    version = client.get("/v1/version").json()
    assert version.pop("topology") in ("fused", "split")
    assert version == {"model_version": bundle.model_version, "shards": 2, "pins": 500}
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/docs").status_code == 200
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/v1/candidates", "/v1/version", "/healthz"}
    assert schema["components"]["schemas"]["CandidatesBody"]["additionalProperties"] is False


def test_a_new_person_is_answered(client):
    answer = ask(client, user_id="who is that", k=5)
    assert answer["known_user"] is False
    assert len(answer["candidates"]) == 5
    assert ask(client, user_id="u00001", k=5)["known_user"] is True


def test_ineligible_and_purchased_pins_never_return(client, bundle):
    pins = {pin["pin_id"]: pin for pin in bundle.pins.table.to_pylist()}
    for user in bundle.users.table.slice(0, 15).to_pylist():
        found = {candidate["pin_id"] for candidate in ask(client, user_id=user["user_id"], k=500)["candidates"]}
        assert found
        assert not found & {f"p{row:06d}" for row in user["purchased"]}
        for pin in map(pins.__getitem__, found):
            assert pin["in_stock"]
            assert pin["surfaces"] is None or "home_feed" in pin["surfaces"]
            assert user["country"] is None or pin["countries"] is None or user["country"] in pin["countries"]


def test_a_purchase_of_a_moment_ago_counts(client):
    first = ask(client, k=1)["candidates"][0]["pin_id"]
    bought = [{"pin_id": first, "action": Action.CHECKOUT.value}]
    assert first not in {candidate["pin_id"] for candidate in ask(client, k=500, history=bought)["candidates"]}


def test_no_advertiser_exceeds_the_cap_of_its_surface(client, bundle):
    advertiser = dict(zip(bundle.pins.ids.to_pylist(), bundle.pins.column("advertiser_id").to_pylist(), strict=True))
    answer = ask(client, surface="search", query="shoes", k=100)
    given = Counter(advertiser[candidate["pin_id"]] for candidate in answer["candidates"])
    assert max(count for name, count in given.items() if name is not None) == 2


def test_a_refused_request_does_not_disturb_its_neighbours(client):
    bodies = [
        {"surface": "home_feed", "k": 3} if place % 2 else {"surface": "home_feed", "k": 10**6} for place in range(24)
    ]
    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(lambda body: client.post("/v1/candidates", json=body), bodies))
    assert [response.status_code for response in responses] == [422, 200] * 12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 5_000}, "k = 5000 is outside 1..2000"),
        ({"subject_pin_id": "nowhere"}, "subject_pin_id 'nowhere' is no pin"),
        ({"filters": {"colour": "red"}}, "filter 'colour' is no column"),
        ({"filters": {"category": {"min": 1}}}, "a range needs a numeric column"),
        ({"user_features": {"age": "old"}}, "user feature 'age' = 'old'"),
        ({"user_features": {"shoe_size": 44}}, "user feature 'shoe_size' is not known"),
    ],
)
def test_what_this_bundle_cannot_answer_is_explained(client, fields, message):
    response = client.post("/v1/candidates", json={"surface": "home_feed", **fields})
    assert response.status_code == 422
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
