"""`convcg query`: ask a running service from the command line.

python -m serve_app.query --surface related_pins --user u1 --subject p7 -k 10 --filter price=10..50
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from convcg.commands import invoke
from convcg.errors import RequestError
from convcg.types import Surface

_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.2
_TIMEOUT_SECONDS = 10.0

_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command()
def _command(
    surface: Annotated[Surface, typer.Option(help="Where the candidates are to be shown.")] = Surface.HOME_FEED,
    user: Annotated[str | None, typer.Option(help="Who asks; an unknown person is answered as a new one.")] = None,
    click: Annotated[list[str] | None, typer.Option(help="A pin that the person clicked (repeatable).")] = None,
    subject: Annotated[str | None, typer.Option(help="The pin looked at, on related_pins.")] = None,
    query: Annotated[str | None, typer.Option(help="The text typed, on search.")] = None,
    k: Annotated[int | None, typer.Option("-k", help="How many candidates.")] = None,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="column=value, column=a,b or column=lo..hi (repeatable).")
    ] = None,
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8000",
    wait: Annotated[float, typer.Option(help="Seconds to wait for a service that is still starting.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
) -> None:
    """Ask a running service for candidates."""
    body = {
        "surface": surface.value,
        "user_id": user,
        "history": [{"pin_id": pin} for pin in click] if click else None,
        "subject_pin_id": subject,
        "query": query,
        "k": k,
        "filters": dict(map(parse_filter, filters or ())) or None,
    }
    await_service(url, seconds=wait)
    answer = ask(url, {name: value for name, value in body.items() if value is not None})
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
    else:
        _print(answer)


def parse_filter(text: str) -> tuple[str, Any]:
    """`column=value`, `column=a,b` or `column=lo..hi` (either end may be missing) as the service's JSON.

    Raises:
        RequestError: it is none of these.
    """
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise RequestError(f"--filter {text!r} is no filter; write column=value, column=a,b or column=lo..hi.")
    if ".." in value:
        low, _, high = value.partition("..")
        bounds = {"min": _scalar(low), "max": _scalar(high)}
        given = {side: bound for side, bound in bounds.items() if bound != ""}
        if not given or any(isinstance(bound, str) for bound in given.values()):
            raise RequestError(f"--filter {text!r} is no range of numbers; write column=lo..hi, lo.. or ..hi.")
        return name, given
    if "," in value:
        return name, [_scalar(item) for item in value.split(",")]
    return name, _scalar(value)


def _scalar(text: str) -> Any:
    """A JSON number, boolean or string where the text is one, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float | str) else text


def await_service(url: str, *, seconds: float) -> None:
    """Return as soon as the service is healthy, or the time is over: then `ask` says what is wrong."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url.rstrip('/')}/healthz", timeout=_TIMEOUT_SECONDS).is_success:
                return
        except (httpx.HTTPError, httpx.InvalidURL):
            pass
        time.sleep(_FIRST_WAIT_SECONDS)


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The service's answer. Asking changes nothing there, so what fails for a moment is tried again.

    Raises:
        RequestError: the service refuses the request, cannot be reached, or keeps failing.
    """
    problem = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        try:
            response = httpx.post(f"{url.rstrip('/')}/v1/candidates", json=body, timeout=_TIMEOUT_SECONDS)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise RequestError(f"--url {url!r} is no address: {error}. Give it as http://host:port.") from error
        except httpx.HTTPError as error:
            problem = f"cannot reach {url}: {error or type(error).__name__}. Is `convcg serve` running there?"
            continue
        if response.status_code < 400:
            return _parsed(response, url)
        message = _message(response)
        if response.status_code < 500:
            raise RequestError(f"the service refuses the request: {message}")
        problem = f"the service at {url} fails with status {response.status_code}: {message}"
    raise RequestError(problem)


def _parsed(response: httpx.Response, url: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = response.json()
        answer["candidates"], answer["model_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise RequestError(f"what answers at {url} is no convcg service. Check --url.") from error
    return answer


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, TypeError, KeyError):
        return response.text.strip()[:200] or response.reason_phrase


def _print(answer: dict[str, Any]) -> None:
    person = "known person" if answer["known_user"] else "new person"
    console = Console(highlight=False, markup=False)
    console.print(f"{answer['surface']}, {person}, version {answer['model_version']}")
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("pin")
    table.add_column("score", justify="right")
    for rank, candidate in enumerate(answer["candidates"], start=1):
        table.add_row(str(rank), candidate["pin_id"], f"{candidate['score']:.4f}")
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return invoke(_app, argv, name="convcg query")


if __name__ == "__main__":
    sys.exit(main())
