"""`convcg query` against a stand-in for the network."""

import json

import httpx
import pytest

from serve_app import query

ANSWER = {
    "model_version": "v1",
    "known_user": True,
    "surface": "home_feed",
    "candidates": [{"pin_id": "p1", "score": 0.5}],
}


@pytest.fixture
def network(monkeypatch):
    """Replies to hand out in order (exceptions are raised), and the bodies that were sent."""
    replies, sent = [], []

    def post(url, *, json, timeout):
        sent.append(json)
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(httpx, "post", post)
    monkeypatch.setattr(query.time, "sleep", lambda seconds: None)
    return replies, sent


def test_options_become_the_body(network, capsys):
    replies, sent = network
    replies.append(httpx.Response(200, json=ANSWER))
    arguments = (
        "--surface search --user u --click a --click b --query shoes -k 3 --filter price=5.. --filter brand=x,y --json"
    )
    assert query.main(arguments.split()) == 0
    assert json.loads(capsys.readouterr().out) == ANSWER
    assert sent == [
        {
            "surface": "search",
            "user_id": "u",
            "history": [{"pin_id": "a"}, {"pin_id": "b"}],
            "query": "shoes",
            "k": 3,
            "filters": {"price": {"min": 5}, "brand": ["x", "y"]},
        }
    ]


def test_prints_a_table(network, capsys):
    network[0].append(httpx.Response(200, json=ANSWER))
    assert query.main([]) == 0
    shown = capsys.readouterr().out
    assert "p1" in shown
    assert "0.5000" in shown


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("price=1..2.5", {"min": 1, "max": 2.5}),
        ("price=..3", {"max": 3}),
        ("brand=acme", "acme"),
        ('size="42"', "42"),
        ("size=42", 42),
        ("new=true", True),
        ("size=40,41", [40, 41]),
    ],
)
def test_filters_are_read(text, parsed):
    assert query.parse_filter(text)[1] == parsed


@pytest.mark.parametrize("text", ["price", "=3", "price=", "price=..", "price=a..b"])
def test_what_is_no_filter_is_refused(network, capsys, text):
    assert query.main(["--filter", text]) == 1
    assert "--filter" in capsys.readouterr().err


def test_a_passing_failure_is_tried_again(network, capsys):
    replies, sent = network
    replies += [
        httpx.ConnectError("refused"),
        httpx.Response(503, json={"error": "busy"}),
        httpx.Response(200, json=ANSWER),
    ]
    assert query.main(["--json"]) == 0
    assert len(sent) == 3


@pytest.mark.parametrize(
    ("reply", "message", "attempts"),
    [
        (httpx.ConnectError("refused"), "Is `convcg serve` running there?", 4),
        (httpx.Response(503, json={"error": "busy"}), "status 503: busy", 4),
        (httpx.Response(422, json={"error": "k = 0"}), "refuses the request: k = 0", 1),
        (httpx.Response(200, text="<html>"), "no convcg service", 1),
        (httpx.UnsupportedProtocol("no scheme"), "--url", 1),
    ],
)
def test_a_lasting_failure_is_one_line(network, capsys, reply, message, attempts):
    replies, sent = network
    replies.append(reply)
    assert query.main([]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert len(sent) == attempts
