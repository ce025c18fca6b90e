"""`convcg serve`: what it refuses before it starts, and one whole life of a service."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from bundles import make_bundle

from convcg import log
from convcg.channel import publish
from convcg.storage import locate
from serve_app import serve
from serve_app.environment import free_port


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["model.dim=3"], "'model' is settled in the bundle"),
        (["serve.prot=1"], "Did you mean port?"),
        (["serve.min_replicas=3"], "raise max_replicas"),
        (["serve"], "is no override"),
    ],
)
def test_wrong_settings_are_refused(bundle_uri, monkeypatch, capsys, sets, message):
    assert refused(monkeypatch, "--bundle", bundle_uri, *(word for text in sets for word in ("--set", text)))
    assert message in capsys.readouterr().err


def test_a_missing_bundle_is_refused(tmp_path, monkeypatch, capsys):
    assert refused(monkeypatch, "--bundle", str(tmp_path / "nowhere"))
    assert "no complete bundle" in capsys.readouterr().err


def test_a_corrupt_bundle_is_refused(bundle_uri, tmp_path, monkeypatch, capsys):
    shutil.copytree(bundle_uri, tmp_path / "bundle")
    (tmp_path / "bundle" / "pins.arrow").write_bytes(b"no pins")
    assert refused(monkeypatch, "--bundle", str(tmp_path / "bundle"))
    assert "pins.arrow is corrupt" in capsys.readouterr().err


def test_a_taken_port_is_refused(bundle_uri, monkeypatch, capsys):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert refused(monkeypatch, "--bundle", bundle_uri, "--set", f"serve.port={port}")
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_an_address_where_nothing_is_is_refused(bundle_uri, monkeypatch, capsys):
    assert refused(monkeypatch, "--bundle", bundle_uri, "--address", f"127.0.0.1:{free_port()}")
    assert "no Ray answers" in capsys.readouterr().err


def refused(monkeypatch, *arguments) -> bool:
    monkeypatch.setattr(log, "set_up", lambda **_: None)  # pytest's own handlers stay
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return serve.main(arguments) == 1


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("topology", ["fused", "split"])
def test_serves_follows_its_channel_and_stops(tmp_path, topology):
    """Asked all the while, no request fails for good, and every answer is of one of the two versions."""
    versions = [publish_bundle(tmp_path, seed=1)]
    port = free_port()
    settings = (f"serve.port={port}", f"serve.topology={topology}", "serve.refresh_seconds=0.5")
    command = [sys.executable, "-m", "serve_app.serve", "--bundle", str(tmp_path / "channel")]
    command += [word for text in settings for word in ("--set", text)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert service.stdout.readline().startswith(f"Serving {versions[0]} at http://127.0.0.1:{port}")
        versions.append(publish_bundle(tmp_path, seed=2))
        with httpx.Client(transport=httpx.HTTPTransport(retries=1), timeout=20) as client:
            seen = ask_until(client, f"http://127.0.0.1:{port}/v1/candidates", versions[1])
        assert seen[0] == versions[0]
        assert seen == sorted(seen, key=versions.index) or topology == "split"
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0


def publish_bundle(directory, *, seed) -> str:
    made = make_bundle(directory / f"made{seed}", num_pins=200, num_users=10, num_shards=2, seed=seed)
    return publish(locate(made), locate(directory / "channel"), keep=3)


def ask_until(client, url, version) -> list[str]:
    """Ask without a pause until `version` has answered 50 times; a 503 is tried again, as it says, and so is a request
    on a connection that the server has just closed, which a client cannot tell from an open one.
    """
    seen, until = [], time.monotonic() + 90
    while seen.count(version) < 50 and time.monotonic() < until:
        try:
            response = client.post(url, json={"surface": "home_feed", "user_id": "u00001", "k": 5})
        except httpx.RemoteProtocolError:
            continue
        assert response.status_code in (200, 503), response.text
        if response.status_code == 200:
            seen.append(response.json()["model_version"])
    assert seen.count(version) == 50
    return seen
