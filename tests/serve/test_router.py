"""The router of the split topology never merges parts of two versions."""

import asyncio
from dataclasses import replace

import pytest
from bundles import END

from convcg.errors import RequestError
from convcg.index.backends import BackendKind
from convcg.retriever.query_encoder import QueryEncoder
from convcg.retriever.retriever import ShardSearcher
from convcg.types import Request, Surface
from serve_app import deployments
from serve_app.app import ServeArguments, release_of
from serve_app.deployments import RouterService, ShardHits
from serve_app.web import Unavailable

HOME = Request(surface=Surface.HOME_FEED, user_id="u00001", timestamp=END)


class Handle:
    """Stands in for a deployment's handle: `handle.plan.remote(...)` and `handle.search.remote(...)`."""

    def __init__(self, function):
        async def remote(*arguments):
            return function(*arguments)

        self.plan = self.search = type("Method", (), {"remote": staticmethod(remote)})

    def options(self, **_):
        return self


@pytest.fixture
def router(bundle, bundle_uri):
    """A router over shards whose answers claim the given versions, in turn; None is the true one."""

    def make(*claims):
        release = release_of(ServeArguments(bundle=bundle_uri, sets=("serve.topology=split",)))
        encoder = QueryEncoder(bundle, release.retrieval)
        shards = [ShardSearcher(bundle, shard, backend=BackendKind.NUMPY) for shard in range(2)]
        remaining = list(claims)

        def search(shard, plan, fetch):
            claim = remaining.pop(0) if shard == 1 and remaining else None
            hits = shards[shard].search([plan], [fetch])[0]
            return ShardHits(model_version=claim or bundle.model_version, hits=hits)

        handles = [Handle(lambda plan, fetch, shard=shard: search(shard, plan, fetch)) for shard in range(2)]
        return RouterService(release, Handle(lambda request: encoder.plan_each([request])[0]), handles)

    return make


def test_merges_parts_of_one_version(router, retriever):
    assert asyncio.run(router().answer(HOME)) == retriever.retrieve([HOME])[0]


def test_asks_again_where_a_shard_was_of_another_version(router, retriever):
    assert asyncio.run(router("another").answer(HOME)) == retriever.retrieve([HOME])[0]


def test_gives_up_where_it_stays_of_another_version(router, monkeypatch):
    monkeypatch.setattr(deployments, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(Unavailable, match="being replaced"):
        asyncio.run(router(*["another"] * 9).answer(HOME))


def test_a_refused_request_is_no_reason_to_ask_again(router):
    with pytest.raises(RequestError, match="k = 0"):
        asyncio.run(router().answer(replace(HOME, k=0)))
