"""The retriever: requests in, candidates out. Evaluation, the service and a notebook use this same object.

Its three parts (encode, search, finish) know nothing of where they run: `serve_app` puts them into one replica or into
several, and the answer is the same.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa

from convcg.bundle import Bundle
from convcg.errors import RequestError
from convcg.index.backends import BackendKind
from convcg.index.shard import Hits, IndexConfig, Shard, merge, shard_bounds
from convcg.retriever.eligibility import Eligibility
from convcg.retriever.policy import RetrievalConfig
from convcg.retriever.query_encoder import QueryEncoder, SearchPlan, all_or_raise
from convcg.types import Answer, Candidate, Request

#: With a cap per advertiser, how many times k is fetched at first, and by how much it grows while that falls short.
_CAP_OVERFETCH = 4


class ShardSearcher:
    """One shard of a bundle with the eligibility of its pins."""

    def __init__(self, bundle: Bundle, shard: int, *, backend: BackendKind) -> None:
        bounds = shard_bounds(len(bundle.pins), len(bundle.manifest.shards))
        first, end = bounds[shard]
        self.model_version = bundle.model_version
        self._shard = Shard(bundle.shard_vectors(shard), first_row=first, backend=backend)
        self._eligibility = Eligibility(bundle.pins, first, end)

    def search(self, plans: Sequence[SearchPlan], fetch: Sequence[int]) -> list[Hits]:
        """For each plan at least its `fetch` best eligible rows of this shard, or all there are.

        Plans with the same rule are searched together.
        """
        found: list[Hits | None] = [None] * len(plans)
        for rule in dict.fromkeys(plan.rule for plan in plans):
            members = [place for place, plan in enumerate(plans) if plan.rule == rule]
            query = np.stack([plans[place].embedding for place in members])
            width, allowed = max(fetch[place] for place in members), self._eligibility.mask(rule)
            hits = self._shard.search(query, width, allowed, [plans[place].bonus for place in members])
            for position, place in enumerate(members):
                found[place] = Hits(score=hits.score[position : position + 1], row=hits.row[position : position + 1])
        return [hits for hits in found if hits is not None]


class Finisher:
    """Merged hits to an answer: leaves out excluded pins, caps advertisers, names the pins."""

    def __init__(self, bundle: Bundle) -> None:
        self._pin_ids = bundle.pins.ids
        self._advertisers = bundle.pins.column("advertiser_id")
        self.num_pins = len(bundle.pins)
        self.model_version = bundle.model_version

    def first_fetch(self, plan: SearchPlan) -> int:
        """How many rows to ask of each shard at first."""
        wanted = plan.k * (_CAP_OVERFETCH if self._is_capped(plan) else 1)
        return min(wanted + len(plan.excluded), self.num_pins)

    def next_fetch(self, plan: SearchPlan, parts: Sequence[Hits], fetch: int, answer: Answer) -> int | None:
        """How many rows to ask for again where the cap left the answer short; None where the answer stands."""
        if len(answer.candidates) >= plan.k or not self._is_capped(plan):
            return None
        found = sum(int((part.row >= 0).sum()) for part in parts)
        return None if found < fetch or fetch >= self.num_pins else min(fetch * _CAP_OVERFETCH, self.num_pins)

    def finish(self, plan: SearchPlan, parts: Sequence[Hits], fetch: int) -> Answer:
        """The answer to one plan from every shard's hits ([1, at least `fetch`, or all there are])."""
        kept = self._kept(plan, merge(parts, fetch))
        pin_ids = self._pin_ids.take(pa.array([row for row, _ in kept], pa.int64())).to_pylist()
        return Answer(
            model_version=self.model_version,
            candidates=tuple(
                Candidate(pin_id=pin_id, score=score) for pin_id, (_, score) in zip(pin_ids, kept, strict=True)
            ),
            known_user=plan.known_user,
        )

    def _is_capped(self, plan: SearchPlan) -> bool:
        return plan.max_per_advertiser is not None and self._advertisers is not None

    def _kept(self, plan: SearchPlan, hits: Hits) -> list[tuple[int, float]]:
        present = hits.row[0] >= 0
        found = zip(hits.row[0, present].tolist(), hits.score[0, present].tolist(), strict=True)
        allowed: Iterable[tuple[int, float]] = ((row, score) for row, score in found if row not in plan.excluded)
        if plan.max_per_advertiser is not None and self._advertisers is not None:
            allowed = self._capped(allowed, plan.max_per_advertiser)
        return list(islice(allowed, plan.k))

    def _capped(self, found: Iterable[tuple[int, float]], cap: int) -> Iterator[tuple[int, float]]:
        """Leave out what exceeds the cap; pins without an advertiser are not counted together."""
        assert self._advertisers is not None
        given: Counter[str] = Counter()
        for row, score in found:
            advertiser = self._advertisers[row].as_py()
            given[advertiser] += 1
            if advertiser is None or given[advertiser] <= cap:
                yield row, score


class Retriever:
    """Everything in one process."""

    def __init__(self, encoder: QueryEncoder, shards: Sequence[ShardSearcher], finisher: Finisher) -> None:
        self._encoder, self._shards, self._finisher = encoder, tuple(shards), finisher

    @classmethod
    def open(cls, bundle: Bundle, retrieval: RetrievalConfig | None = None) -> "Retriever":
        """A retriever over all shards of a bundle, with the policies that it was built with unless others are given.

        Raises:
            BundleError, ConfigError: the bundle or the backend that it asks for cannot be used.
        """
        backend = IndexConfig.model_validate(bundle.manifest.config["index"]).backend
        return cls(
            QueryEncoder(bundle, retrieval or RetrievalConfig.model_validate(bundle.manifest.config["retrieval"])),
            [ShardSearcher(bundle, shard, backend=backend) for shard in range(len(bundle.manifest.shards))],
            Finisher(bundle),
        )

    @property
    def model_version(self) -> str:
        """The version of the bundle behind every answer."""
        return self._finisher.model_version

    def retrieve(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer requests, in order. How they are batched does not change an answer.

        Raises:
            RequestError: a request cannot be answered; none is then.
        """
        return all_or_raise(self.retrieve_each(requests))

    def retrieve_each(self, requests: Sequence[Request]) -> list[Answer | RequestError]:
        """Answer requests, in order; one that cannot be answered gets its error and leaves the others alone."""
        plans = self._encoder.plan_each(requests)
        answers: list[Answer | RequestError | None] = [
            plan if isinstance(plan, RequestError) else None for plan in plans
        ]
        waiting = {
            place: (plan, self._finisher.first_fetch(plan))
            for place, plan in enumerate(plans)
            if not isinstance(plan, RequestError)
        }
        while waiting:
            batch, fetches = zip(*waiting.values(), strict=True)
            found = [shard.search(batch, fetches) for shard in self._shards]
            again = {}
            for place, plan, fetch, parts in zip(waiting, batch, fetches, zip(*found, strict=True), strict=True):
                answer = answers[place] = self._finisher.finish(plan, parts, fetch)
                more = self._finisher.next_fetch(plan, parts, fetch, answer)
                if more is not None:
                    again[place] = (plan, more)
            waiting = again
        return [answer for answer in answers if answer is not None]
