"""The web application over any `Service`: routes, limits, and one clear message for everything that goes wrong."""

import logging
from typing import Any, Protocol

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convcg.errors import RequestError
from convcg.types import Answer, Request
from serve_app.api import AnswerBody, CandidatesBody, ErrorBody, VersionBody, answer_content

MAX_BODY_BYTES = 2 << 20
_RETRY_AFTER_SECONDS = 1

logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """The service cannot answer now, but may in a moment; the client gets 503 with Retry-After."""


class Service(Protocol):
    """What answers requests, wherever its parts run."""

    async def answer(self, request: Request) -> Answer:
        """The candidates for one request.

        Raises:
            RequestError: the request cannot be answered.
            Unavailable: it can be, but not at this moment.
        """
        ...

    def version(self) -> VersionBody:
        """What is being served."""
        ...


def build_web_app(service: Service) -> FastAPI:
    """The application; its OpenAPI page is at /docs."""
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (400, 413, 422, 503)}
    app = FastAPI(title="convcg", description="Shopping candidates for a person, here and now.")
    app.version = service.version().model_version
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)

    @app.post("/v1/candidates", response_model=AnswerBody, responses=errors)
    async def candidates(body: CandidatesBody) -> JSONResponse:
        """The pins that this person is most likely to buy, best first."""
        answer = await service.answer(body.to_request())
        return JSONResponse(answer_content(answer, body.surface))

    @app.get("/v1/version")
    async def version() -> VersionBody:
        """Which model answers, and how it is laid out."""
        return service.version()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 as soon as a replica can answer."""
        return {"status": "ok"}

    _explain_errors(app)
    return app


def _explain_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def unanswerable(_: HttpRequest, error: RequestError) -> JSONResponse:
        return _error(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        return _error(*_first_problem(error))

    @app.exception_handler(Unavailable)
    async def unavailable(_: HttpRequest, error: Unavailable) -> JSONResponse:
        return _error(503, str(error), {"Retry-After": str(_RETRY_AFTER_SECONDS)})

    @app.exception_handler(HTTPException)
    async def refused(_: HttpRequest, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def broken(_: HttpRequest, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return _error(500, "internal error; the service's log has the details")


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def _first_problem(error: RequestValidationError) -> tuple[int, str]:
    problems = error.errors()
    problem = problems[0]
    if problem["type"] == "json_invalid":
        return 400, f"the body is no valid JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}"
    where = ".".join(str(part) for part in problem["loc"][1:]) or "body"
    if problem["type"] == "extra_forbidden":
        known = ", ".join(CandidatesBody.model_fields)
        return 422, f"{where}: no known field" + (f"; the fields are {known}" if len(problem["loc"]) == 2 else "")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return 422, f"{where}: {problem['msg'].removeprefix('Value error, ')}{more}"


class BodyLimit:
    """Refuses bodies above a size, whether announced or streamed, before they are parsed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, f"the body is above {self._max_bytes} bytes; send less history")
            return message

        await self._app(scope, limited, send)
