"""What runs in replicas. Each class holds parts of the retriever and nothing of its own but where they are."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from convcg.bundle import Bundle
from convcg.errors import BundleError, RequestError
from convcg.index.shard import Hits, IndexConfig
from convcg.retriever.policy import RetrievalConfig
from convcg.retriever.query_encoder import QueryEncoder, SearchPlan
from convcg.retriever.retriever import Finisher, Retriever, ShardSearcher
from convcg.serving import ServeConfig
from convcg.types import Answer, Request
from serve_app.api import VersionBody
from serve_app.web import Unavailable, build_web_app

logger = logging.getLogger("ray.serve")

#: While a release replaces another, its parts do so one by one: how long the router asks again for parts that are lost
#: or of another version, and how long it waits in between.
_PATIENCE_SECONDS = 3.0
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What all replicas of one release serve. `uri` is a bundle, never a channel, and holds `model_version`."""

    uri: str
    model_version: str
    num_shards: int
    retrieval: RetrievalConfig
    serve: ServeConfig

    def open(self) -> Bundle:
        """The bundle, verified, on this machine's disk.

        Raises:
            BundleError: it is corrupt, or no longer the version that was released.
        """
        bundle = Bundle.open(self.uri)
        if bundle.model_version != self.model_version:
            raise BundleError(
                f"{self.uri} holds version {bundle.model_version}, but {self.model_version} was released. "
                "Serve it again; never write a bundle over another."
            )
        return bundle

    def describe(self, bundle: Bundle) -> VersionBody:
        """What the service says of itself."""
        return VersionBody(
            model_version=bundle.model_version,
            topology=self.serve.topology.value,
            shards=self.num_shards,
            pins=len(bundle.pins),
        )


def _together(compute: Callable[[Sequence[Any]], Sequence[Any]], *, max_size: int, wait_seconds: float) -> Any:
    """An async function of one item that computes the items of concurrent calls together, one batch at a time.

    It computes in the event loop's own thread: requests that come meanwhile wait in their sockets and make the next
    batch, which measures a third faster than handing batches to another thread.
    """

    async def batch(items: list[Any]) -> Sequence[Any]:
        return compute(items)

    return serve.batch(max_batch_size=max_size, batch_wait_timeout_s=wait_seconds)(batch)


class FusedService:
    """The whole retriever in each replica of the ingress."""

    def __init__(self, release: Release) -> None:
        bundle = release.open()
        retriever = Retriever.open(bundle, release.retrieval)
        self._version = release.describe(bundle)
        self._answer = _together(retriever.retrieve_each, max_size=release.serve.max_batch_size, wait_seconds=0)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve for the ingress's web application."""
        return build_web_app(self)

    def version(self) -> VersionBody:
        """See `web.Service`."""
        return self._version

    async def answer(self, request: Request) -> Answer:
        """See `web.Service`."""
        answer: Answer | RequestError = await self._answer(request)
        if isinstance(answer, RequestError):
            raise answer
        return answer


class EncoderService:
    """The query tower, for the split topology."""

    def __init__(self, release: Release) -> None:
        encoder = QueryEncoder(release.open(), release.retrieval)
        config = release.serve
        self._plan = _together(
            encoder.plan_each, max_size=config.max_batch_size, wait_seconds=config.batch_wait_seconds
        )

    async def plan(self, request: Request) -> SearchPlan | RequestError:
        """The search plan of one request, or why there is none."""
        plan: SearchPlan | RequestError = await self._plan(request)
        return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHits:
    """What one shard found for one plan, and the version of the shard."""

    model_version: str
    hits: Hits


class ShardService:
    """One shard, for the split topology."""

    def __init__(self, release: Release, shard: int) -> None:
        bundle = release.open()
        backend = IndexConfig.model_validate(bundle.manifest.config["index"]).backend
        searcher = ShardSearcher(bundle, shard, backend=backend)
        self._model_version = searcher.model_version
        config = release.serve
        self._search = _together(
            lambda asked: searcher.search(*zip(*asked, strict=True)),
            max_size=config.max_batch_size,
            wait_seconds=config.batch_wait_seconds,
        )

    async def search(self, plan: SearchPlan, fetch: int) -> ShardHits:
        """See `ShardSearcher.search`."""
        return ShardHits(model_version=self._model_version, hits=await self._search((plan, fetch)))


class _MixedVersions(Exception):
    """Parts of an answer came from different releases, as they may for a moment while one replaces another."""


class RouterService:
    """The ingress of the split topology: asks encoder and shards, merges what they find."""

    def __init__(self, release: Release, encoder: Any, shards: Sequence[Any]) -> None:
        bundle = release.open()
        self._version = release.describe(bundle)
        self._finisher = Finisher(bundle)
        self._request_timeout_seconds = release.serve.request_timeout_seconds
        # By value: plans and hits are small, and Ray's object store costs more than it saves on them.
        self._encoder = encoder.options(_by_reference=False)
        self._shards = [shard.options(_by_reference=False) for shard in shards]

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve for the ingress's web application."""
        return build_web_app(self)

    def version(self) -> VersionBody:
        """See `web.Service`."""
        return self._version

    async def answer(self, request: Request) -> Answer:
        """See `web.Service`."""
        until = time.monotonic() + min(_PATIENCE_SECONDS, self._request_timeout_seconds / 2)
        while True:
            try:
                return await self._answer(request)
            except (_MixedVersions, RayActorError) as error:
                logger.warning("asking again: %s", error)
                if time.monotonic() > until:
                    raise Unavailable("parts of the service are being replaced; try again shortly") from error
            except BackPressureError as error:
                raise Unavailable("the service is at its capacity; try again shortly") from error
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _answer(self, request: Request) -> Answer:
        plan: SearchPlan | RequestError = await self._encoder.plan.remote(request)
        if isinstance(plan, RequestError):
            raise plan
        self._require_own_version("the encoder", plan.model_version)
        fetch: int | None = self._finisher.first_fetch(plan)
        while fetch is not None:
            found: list[ShardHits] = await asyncio.gather(*(shard.search.remote(plan, fetch) for shard in self._shards))
            for number, part in enumerate(found):
                self._require_own_version(f"shard {number}", part.model_version)
            parts = [part.hits for part in found]
            answer = self._finisher.finish(plan, parts, fetch)
            fetch = self._finisher.next_fetch(plan, parts, fetch, answer)
        return answer

    def _require_own_version(self, part: str, found: str) -> None:
        own = self._version.model_version
        if found != own:
            raise _MixedVersions(f"{part} serves version {found}, the router {own}")
