"""A real service over HTTP behind HAProxy, in each topology, over one small bundle."""

import time
from collections.abc import Iterator

import httpx
import pytest
from bundles import make_bundle

from convcg.bundle import Bundle
from convcg.retriever.retriever import Retriever
from serve_app.environment import free_port

NUM_PINS, NUM_USERS = 500, 40
SETS = ("retrieval.search.max_per_advertiser=2", "retrieval.related_pins.k=30")
_SECONDS_TO_APPEAR = 20.0


@pytest.fixture(scope="session")
def bundle_uri(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("serve") / "bundle"
    return str(make_bundle(directory, num_pins=NUM_PINS, num_users=NUM_USERS, num_shards=2, seed=7, sets=SETS))


@pytest.fixture(scope="session")
def bundle(bundle_uri) -> Bundle:
    return Bundle.open(bundle_uri)


@pytest.fixture(scope="session")
def retriever(bundle) -> Retriever:
    return Retriever.open(bundle)


@pytest.fixture(scope="session")
def serve_url(ray_cluster) -> Iterator[str]:
    """Ray Serve without an application."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 20.0})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="session", params=["fused", "split"])
def client(request, serve_url, bundle_uri) -> Iterator[httpx.Client]:
    """A client of a running service."""
    from ray import serve

    from serve_app.app import ServeArguments, build

    sets = (f"serve.topology={request.param}", "serve.cpus_per_replica=0.2")
    serve.run(build(ServeArguments(bundle=bundle_uri, sets=sets)), name=request.param, route_prefix="/")
    with httpx.Client(base_url=serve_url, timeout=30) as client:
        wait_until_served(client, request.param)
        yield client
    serve.delete(request.param)


def wait_until_served(client: httpx.Client, topology: str) -> None:
    """The proxy hears of a new application a moment after Serve does."""
    until = time.monotonic() + _SECONDS_TO_APPEAR
    while time.monotonic() < until:
        response = client.get("/v1/version")
        if response.status_code == 200 and response.json()["topology"] == topology:
            return
        time.sleep(0.1)
    raise AssertionError(f"the service did not appear: {response.status_code} {response.text}")
