"""The HTTP contract: the bodies of request and answer, and their translation to and from `convcg.types`."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema

from convcg.types import Action, Answer, Filter, HistoryEvent, Range, Request, Surface

MAX_HISTORY = 10_000
MAX_EXCLUDED = 10_000
MAX_FILTERS = 32
MAX_FILTER_VALUES = 1_000
MAX_USER_FEATURES = 256
#: The end of the year 9999, in seconds since the epoch.
_LATEST = 253_402_300_799.0


class _Body(BaseModel):
    """Closed to keys that it does not know; nothing is guessed: "5" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _filter(value: Any) -> Filter:
    if isinstance(value, dict):
        unknown = set(value) - {"min", "max"}
        if not value or unknown or not all(bound is None or _is_number(bound) for bound in value.values()):
            raise ValueError('a range must be {"min": number, "max": number}, either of them optional')
        return Range(min=value.get("min"), max=value.get("max"))
    if isinstance(value, list):
        if not 1 <= len(value) <= MAX_FILTER_VALUES:
            raise ValueError(f"a list must hold 1 to {MAX_FILTER_VALUES} values")
        if all(isinstance(item, str) for item in value) or all(_is_number(item) for item in value):
            return tuple(value)
        raise ValueError("a list must hold strings alone or numbers alone")
    if isinstance(value, str | bool) or _is_number(value):
        return value  # type: ignore[no-any-return]
    raise ValueError('must be a string, a number, a boolean, a list, or a range {"min": number, "max": number}')


def _is_number(value: Any) -> bool:
    # JSON has no infinity, but Python's parser makes one of 1e999; integers beyond 64 bits fit no column.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2.0**63


_FILTER_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "number"}]}, "minItems": 1},
        {"type": "object", "properties": {"min": {"type": "number"}, "max": {"type": "number"}}},
    ]
}
_Id = Annotated[str, Field(min_length=1, max_length=256)]
_Time = Annotated[float, Field(gt=0, le=_LATEST, description="seconds since the epoch, UTC")]
_Surface = Annotated[Surface, Field(strict=False)]
_Filter = Annotated[Any, BeforeValidator(_filter), WithJsonSchema(_FILTER_SCHEMA)]


class HistoryEventBody(_Body):
    """One past action of the person who asks."""

    pin_id: _Id
    action: Annotated[Action, Field(strict=False)] = Action.CLICK
    surface: _Surface | None = None
    dwell_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False, description="how long a click lasted")] | None = (
        None
    )
    timestamp: _Time | None = None


class CandidatesBody(_Body):
    """A request for candidates; see `convcg.types.Request` for what the fields mean together."""

    surface: _Surface
    k: Annotated[int, Field(ge=1, description="how many; the surface's default where absent")] | None = None
    user_id: Annotated[_Id, Field(description="an unknown person is answered as a new one")] | None = None
    user_features: dict[str, JsonValue] = Field(default={}, max_length=MAX_USER_FEATURES)
    history: Annotated[list[HistoryEventBody], Field(max_length=MAX_HISTORY)] | None = None
    subject_pin_id: _Id | None = None
    query: Annotated[str, Field(max_length=1_000)] | None = None
    filters: dict[str, _Filter] = Field(default={}, max_length=MAX_FILTERS)
    exclude_pin_ids: list[_Id] = Field(default=[], max_length=MAX_EXCLUDED)
    timestamp: _Time | None = None

    def to_request(self) -> Request:
        """The same request in the library's words."""
        return Request(
            surface=self.surface,
            k=self.k,
            user_id=self.user_id,
            user_features=self.user_features,
            history=None if self.history is None else tuple(_event(event) for event in self.history),
            subject_pin_id=self.subject_pin_id,
            query=self.query,
            filters=self.filters,
            exclude_pin_ids=tuple(self.exclude_pin_ids),
            timestamp=self.timestamp,
        )


def _event(event: HistoryEventBody) -> HistoryEvent:
    return HistoryEvent(
        pin_id=event.pin_id,
        action=event.action,
        surface=event.surface,
        timestamp=event.timestamp,
        dwell_seconds=event.dwell_seconds,
    )


class CandidateBody(BaseModel):
    """One retrieved pin."""

    pin_id: str
    score: float = Field(description="dot product of query and pin, plus what the surface adds; larger is better")


class AnswerBody(BaseModel):
    """The candidates, best first, all from one model version."""

    model_version: str
    known_user: bool
    surface: Surface
    candidates: list[CandidateBody]


class VersionBody(BaseModel):
    """What is being served."""

    model_version: str
    topology: str
    shards: int
    pins: int


class ErrorBody(BaseModel):
    """Why a request was not answered, in one sentence."""

    error: str


def answer_content(answer: Answer, surface: Surface) -> dict[str, Any]:
    """An answer as plain JSON types, shaped like `AnswerBody`."""
    return {
        "model_version": answer.model_version,
        "known_user": answer.known_user,
        "surface": surface.value,
        "candidates": [{"pin_id": each.pin_id, "score": each.score} for each in answer.candidates],
    }
