"""The HTTP contract alone, over a stand-in service: every bad body gets one clear message."""

import asyncio

import httpx
import pytest

from convcg.types import Answer, Candidate, HistoryEvent, Range, Surface
from serve_app.api import VersionBody
from serve_app.web import MAX_BODY_BYTES, Unavailable, build_web_app


class StandIn:
    """Remembers the request, and answers or fails as told."""

    def __init__(self, failure=None):
        self.failure, self.request = failure, None

    async def answer(self, request):
        self.request = request
        if self.failure is not None:
            raise self.failure
        return Answer(model_version="v", candidates=(Candidate(pin_id="p", score=0.25),), known_user=False)

    def version(self):
        return VersionBody(model_version="v", topology="fused", shards=1, pins=1)


def send(service, content, path="/v1/candidates"):
    async def post():
        transport = httpx.ASGITransport(build_web_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            if isinstance(content, bytes):
                return await client.post(path, content=content, headers={"Content-Type": "application/json"})
            return await client.post(path, json=content)

    return asyncio.run(post())


def test_a_full_body_becomes_a_request():
    service = StandIn()
    response = send(
        service,
        {
            "surface": "related_pins",
            "k": 3,
            "history": [{"pin_id": "a", "action": "repin", "surface": "search", "timestamp": 5}],
            "subject_pin_id": "b",
            "filters": {"price": {"min": 1, "max": None}, "shop": ["x", "y"], "new": True, "size": 4.5},
            "exclude_pin_ids": ["c"],
        },
    )
    assert response.status_code == 200
    assert response.json()["candidates"] == [{"pin_id": "p", "score": 0.25}]
    request = service.request
    assert request.surface is Surface.RELATED_PINS
    assert request.filters == {"price": Range(min=1), "shop": ("x", "y"), "new": True, "size": 4.5}
    assert request.history == (HistoryEvent(pin_id="a", action="repin", surface="search", timestamp=5.0),)
    assert request.exclude_pin_ids == ("c",)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "body: Field required"),
        (b"{", 400, "the body is no valid JSON"),
        (b"\xff\xfe", 400, ""),
        (b"[" * 100_000, 400, ""),
        (b"[]", 422, "body: Input should be a valid"),
        ({}, 422, "surface: Field required"),
        ({"surface": "shop_window"}, 422, "surface: Input should be 'home_feed', 'related_pins' or 'search'"),
        ({"k": 3}, 422, "surface: Field required"),
        ({"surface": "search", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ({"surface": "search", "k": "5"}, 422, "k: Input should be a valid integer"),
        ({"surface": "search", "k": 2.5}, 422, "k: Input should be a valid integer"),
        ({"surface": "search", "user": "u"}, 422, "user: no known field; the fields are surface, k, user_id"),
        ({"surface": "search", "user_id": 7}, 422, "user_id: Input should be a valid string"),
        ({"surface": "search", "user_id": ""}, 422, "user_id: String should have at least 1 character"),
        ({"surface": "search", "query": "x" * 2_000}, 422, "query: String should have at most 1000 characters"),
        ({"surface": "search", "timestamp": -1}, 422, "timestamp: Input should be greater than 0"),
        (b'{"surface": "search", "timestamp": 1e999}', 422, "timestamp: Input should be a finite number"),
        (b'{"surface": "search", "timestamp": NaN}', 422, "timestamp: Input should be a finite number"),
        (b'{"surface": "search", "query": "\\ud800"}', 422, "query: "),
        ({"surface": "search", "history": [{"pin_id": "a", "dwell": 3}]}, 422, "history.0.dwell: no known field"),
        ({"surface": "search", "history": [{}]}, 422, "history.0.pin_id: Field required"),
        ({"surface": "search", "history": [{"pin_id": "a"}] * 10_001}, 422, "history: List should have at most 10000"),
        ({"surface": "search", "exclude_pin_ids": ["a"] * 10_001}, 422, "exclude_pin_ids: List should have at most"),
        ({"surface": "search", "filters": {"price": {"low": 1}}}, 422, "filters.price: a range must be"),
        ({"surface": "search", "filters": {"price": {"min": "1"}}}, 422, "filters.price: a range must be"),
        ({"surface": "search", "filters": {"price": []}}, 422, "filters.price: a list must hold 1 to 1000 values"),
        ({"surface": "search", "filters": {"price": ["a", 1]}}, 422, "filters.price: a list must hold strings alone"),
        ({"surface": "search", "filters": {"price": None}}, 422, "filters.price: must be a string, a number"),
        (b'{"surface": "search", "filters": {"price": 1e999}}', 422, "filters.price: must be a string, a number"),
        (b'{"surface": "search", "filters": {"price": {"min": NaN}}}', 422, "filters.price: a range must be"),
        (b" " * (MAX_BODY_BYTES + 1), 413, f"the body is above {MAX_BODY_BYTES} bytes"),
    ],
)
def test_a_bad_body_gets_one_message(content, status, message):
    service = StandIn()
    response = send(service, content)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(message)
    assert "\n" not in response.json()["error"]
    assert service.request is None


def test_a_service_that_is_busy_says_when_to_come_back():
    response = send(StandIn(Unavailable("full")), {"surface": "search"})
    assert (response.status_code, response.json(), response.headers["Retry-After"]) == (503, {"error": "full"}, "1")


def test_a_broken_service_shows_no_traceback(caplog):
    response = send(StandIn(ZeroDivisionError("secret")), {"surface": "search"})
    assert response.status_code == 500
    assert response.json() == {"error": "internal error; the service's log has the details"}
    assert "secret" in caplog.text


def test_an_unknown_path_is_404():
    response = send(StandIn(), {}, path="/v2/candidates")
    assert (response.status_code, response.json()) == (404, {"error": "Not Found"})
