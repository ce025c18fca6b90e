"""A request becomes a search plan: the query embedding, and what the surface's policy asks of the search.

The embedding is computed in float64 and rounded to float32, so that it does not depend, in its last bits, on which
other requests shared the batch; offline evaluation and any serving topology then give the same candidates in the same
order.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from convcg.bundle import Bundle
from convcg.data.encode import encode_queries
from convcg.data.engagement import is_dwell
from convcg.data.feature_encoders import PREFIX, FeatureEncoder
from convcg.data.history import HistoryConfig
from convcg.errors import DataError, RequestError
from convcg.index.shard import Bonus, IndexConfig
from convcg.model.two_tower import ModelConfig, QueryTower, mentioned_pins, prefix_of
from convcg.retriever.eligibility import Eligibility, Rule
from convcg.retriever.people import History, People
from convcg.retriever.policy import RetrievalConfig
from convcg.types import ACTION_CODE, SURFACE_CODE, Action, Request

_CHECKOUT = ACTION_CODE[Action.CHECKOUT]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What shards and router need of a request: small, and free of tables.

    embedding: [d] float32 unit vector.  excluded: pin rows that must not be returned.  bonus: of what the person bought
    before and may be shown again, None for none.  known_user: whether the user table knows the person.
    """

    model_version: str
    embedding: NDArray[np.float32]
    k: int
    rule: Rule
    excluded: frozenset[int]
    bonus: Bonus | None
    max_per_advertiser: int | None
    known_user: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request, checked and resolved. `user_row` is -1 for a new person; the history's arrays are oldest first."""

    surface: int
    subject_pin: int
    query: str | None
    user_row: int
    user_features: Mapping[str, pa.Array]
    history_pin: NDArray[np.int32]
    history_action: NDArray[np.int8]
    history_surface: NDArray[np.int8]
    history_age: NDArray[np.float32]
    history_dwell: NDArray[np.float32]
    k: int
    rule: Rule
    excluded: frozenset[int]
    bonus: Bonus | None
    max_per_advertiser: int | None


def all_or_raise(results: Sequence[T | RequestError]) -> list[T]:
    """The results, unless one is an error; then the first of them is raised."""
    for result in results:
        if isinstance(result, RequestError):
            raise result
    return [result for result in results if not isinstance(result, RequestError)]


class QueryEncoder:
    """The query tower with the tables that it reads."""

    def __init__(self, bundle: Bundle, retrieval: RetrievalConfig) -> None:
        config = bundle.manifest.config
        self.model_version = bundle.model_version
        self._retrieval = retrieval
        self._history_length = HistoryConfig.model_validate(config["history"]).length
        self._pins, self._people = bundle.pins, People(bundle.users)
        self._encoders = bundle.encoders()
        self._pin_inputs = np.asarray(bundle.pin_inputs())  # a memory map's own indexing is several times slower
        self._eligibility = Eligibility(bundle.pins)
        model = ModelConfig.model_validate(config["model"])
        self._dim = model.served_dim(IndexConfig.model_validate(config["index"]).dim)
        self._tower = QueryTower(model, self._encoders.shapes)
        self._tower.load_state_dict(bundle.weights("query"))
        self._tower.double().eval()

    def plan(self, requests: Sequence[Request]) -> list[SearchPlan]:
        """Encode requests in one pass through the tower.

        Raises:
            RequestError: the first request that cannot be answered; the message says which field and why.
        """
        return all_or_raise(self.plan_each(requests))

    def plan_each(self, requests: Sequence[Request]) -> list[SearchPlan | RequestError]:
        """Encode requests in one pass; one that cannot be answered gets its error and leaves the others alone."""
        now = time.time()
        resolved = [self._resolve_or_error(request, now) for request in requests]
        asked = [each for each in resolved if not isinstance(each, RequestError)]
        embedding = iter(self._embed(asked) if asked else ())
        return [each if isinstance(each, RequestError) else self._plan(each, next(embedding)) for each in resolved]

    def _plan(self, asked: _Asked, embedding: NDArray[np.float32]) -> SearchPlan:
        return SearchPlan(
            model_version=self.model_version,
            embedding=embedding,
            k=asked.k,
            rule=asked.rule,
            excluded=asked.excluded,
            bonus=asked.bonus,
            max_per_advertiser=asked.max_per_advertiser,
            known_user=asked.user_row >= 0,
        )

    def _embed(self, asked: Sequence[_Asked]) -> NDArray[np.float32]:
        columns = {
            "surface": pa.array([each.surface for each in asked], pa.int8()),
            "subject_pin": pa.array([each.subject_pin for each in asked], pa.int32()),
            "query": pa.array([each.query for each in asked], pa.string()),
            "history_pin": _lists([each.history_pin for each in asked]),
            "history_action": _lists([each.history_action for each in asked]),
            "history_surface": _lists([each.history_surface for each in asked]),
            "history_age": _lists([each.history_age for each in asked]),
            "history_dwell": _lists([each.history_dwell for each in asked]),
        }
        columns |= {PREFIX + encoder.feature.name: self._feature(encoder, asked) for encoder in self._encoders.user}
        query = encode_queries(pa.table(columns), self._encoders.shapes.user).to("cpu", torch.float64)
        mentioned = mentioned_pins(query)
        seen = torch.from_numpy(self._pin_inputs[mentioned.numpy()]).double()
        if not len(seen):  # nobody in this batch has a history: any one row stands in, unread
            seen = torch.zeros(1, self._pin_inputs.shape[1], dtype=torch.float64)
        with torch.inference_mode():
            embedding = prefix_of(self._tower(query, seen, mentioned), self._dim)
        rounded: NDArray[np.float32] = embedding.float().numpy()
        return rounded

    def _feature(self, encoder: FeatureEncoder, asked: Sequence[_Asked]) -> pa.Array:
        """One encoded user feature: what the request carries, else what the table holds, else missing."""
        name = encoder.feature.name
        encoded = encoder.encode(self._people.take(name, [each.user_row for each in asked]))
        if not any(name in each.user_features for each in asked):
            return encoded
        return pa.concat_arrays(
            [each.user_features.get(name, encoded[row : row + 1]) for row, each in enumerate(asked)]
        )

    def _resolve_or_error(self, request: Request, now: float) -> "_Asked | RequestError":
        try:
            return self._resolve(request, request.timestamp or now)
        except RequestError as error:
            return error

    def _resolve(self, request: Request, now: float) -> _Asked:
        policy = self._retrieval.policy(request.surface)
        k = policy.k if request.k is None else request.k
        if not 1 <= k <= policy.max_k:
            raise RequestError(f"k = {k} is outside 1..{policy.max_k}, the range of {request.surface.value}.")
        subject = None if request.subject_pin_id is None else self._pins.row(request.subject_pin_id)
        if request.subject_pin_id is not None and subject is None:
            raise RequestError(f"subject_pin_id {request.subject_pin_id!r} is no pin of version {self.model_version}.")
        user_row = self._people.row(request.user_id)
        history = self._history(request, user_row, now)
        named = (subject, *(self._pins.row(pin) for pin in request.exclude_pin_ids))
        unwanted = {row for row in named if row is not None}
        # Not those of the user table's history: they are among its purchases.
        bought = set(self._people.purchased(user_row))
        bought.update(history.pin[history.action == _CHECKOUT].tolist() if request.history is not None else ())
        again = sorted(bought - unwanted) if policy.repeat_bonus else []
        if policy.exclude_purchased:
            unwanted |= bought
        last = slice(-self._history_length, None)
        return _Asked(
            surface=SURFACE_CODE[request.surface],
            subject_pin=-1 if subject is None else subject,
            query=request.query,
            user_row=user_row,
            user_features=self._given_features(request),
            history_pin=history.pin[last],
            history_action=history.action[last],
            history_surface=history.surface[last],
            history_age=np.maximum(now - history.time[last], 0).astype(np.float32),
            history_dwell=history.dwell[last],
            k=k,
            rule=self._eligibility.rule(request.surface, self._country(request, user_row), request.filters),
            excluded=frozenset(unwanted),
            bonus=Bonus(row=np.array(again, np.int64), amount=policy.repeat_bonus) if again else None,
            max_per_advertiser=policy.max_per_advertiser,
        )

    def _country(self, request: Request, user_row: int) -> str | None:
        country = (
            request.user_features["country"] if "country" in request.user_features else self._people.country(user_row)
        )
        if country is None or isinstance(country, str):
            return country
        raise RequestError(f"user feature 'country' = {country!r} is no text; give the country as a string.")

    def _given_features(self, request: Request) -> dict[str, pa.Array]:
        """The request's own features, each encoded by itself, so that no other request can change its type."""
        encoders = {encoder.feature.name: encoder for encoder in self._encoders.user}
        known = encoders.keys() | {"country"}
        if unknown := sorted(set(request.user_features) - known):
            raise RequestError(f"user feature {unknown[0]!r} is not known. Known: {', '.join(sorted(known))}.")
        encoded = {}
        for name, value in request.user_features.items():
            try:
                if name in encoders:
                    encoded[name] = encoders[name].encode(pa.array([value]))
            except (DataError, pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise RequestError(
                    f"user feature {name!r} = {value!r} cannot be read as a {encoders[name].feature.kind.value}. "
                    "Give it as the user table does."
                ) from error
        return encoded

    def _history(self, request: Request, user_row: int, now: float) -> History:
        """Oldest first; of an inline history, pins that this version does not know are left out."""
        if request.history is None:
            return self._people.history(user_row)
        events = [
            (now if event.timestamp is None else event.timestamp, row, event)
            for event in request.history
            if (row := self._pins.row(event.pin_id)) is not None
        ]
        events.sort(key=lambda item: item[0])
        dwell = np.array([event.dwell_seconds for _, _, event in events], np.float32)
        surfaces = [-1 if event.surface is None else SURFACE_CODE[event.surface] for _, _, event in events]
        return History(
            pin=np.array([row for _, row, _ in events], np.int32),
            action=np.array([ACTION_CODE[event.action] for _, _, event in events], np.int8),
            surface=np.array(surfaces, np.int8),
            time=np.array([then for then, _, _ in events], np.float64),
            dwell=np.where(is_dwell(dwell), dwell, np.float32(np.nan)),
        )


def _lists(rows: Sequence[NDArray[Any]]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(rows)))
