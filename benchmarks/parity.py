"""Does the service give what evaluation measured? The same requests over HTTP, in both topologies, and in process.

    python -m benchmarks.parity --bundle runs/taobao/bundle --prepared runs/taobao/prepared --queries 1000

Equal means: the same pins in the same order with the same scores, to the bit.
"""

import asyncio
from typing import Annotated, Any

import aiohttp
import typer

from benchmarks.serving import served
from convcg.bundle import Bundle
from convcg.data.prepared import Prepared
from convcg.evaluate import requests, test_queries
from convcg.retriever.retriever import Retriever
from convcg.storage import locate
from convcg.types import Answer, Request

_CONCURRENCY = 16


def body_of(request: Request) -> dict[str, Any]:
    """A request as the service's JSON."""
    history = [
        {"pin_id": event.pin_id, "action": event.action, "surface": event.surface, "timestamp": event.timestamp}
        for event in request.history or ()
    ]
    return {
        "surface": request.surface,
        "k": request.k,
        "user_id": request.user_id,
        "history": history,
        "subject_pin_id": request.subject_pin_id,
        "query": request.query,
        "exclude_pin_ids": list(request.exclude_pin_ids),
        "timestamp": request.timestamp,
    }


async def ask_all(url: str, asked: list[Request]) -> list[list[tuple[str, float]]]:
    """Every request's pins and scores, `_CONCURRENCY` requests at a time."""
    limit = asyncio.Semaphore(_CONCURRENCY)
    async with aiohttp.ClientSession() as session:

        async def ask(request: Request) -> list[tuple[str, float]]:
            async with limit, session.post(url, json=body_of(request)) as response:
                answer = await response.json()
                assert response.status == 200, answer
                return [(candidate["pin_id"], candidate["score"]) for candidate in answer["candidates"]]

        return await asyncio.gather(*(ask(request) for request in asked))


def pairs(answer: Answer) -> list[tuple[str, float]]:
    """Pins and scores of an answer."""
    return [(candidate.pin_id, candidate.score) for candidate in answer.candidates]


def main(
    bundle: Annotated[str, typer.Option(help="The bundle to serve.")],
    prepared: Annotated[str, typer.Option(help="The prepared data whose test queries are asked.")],
    queries: Annotated[int, typer.Option(min=1, max=100_000)] = 1000,
    k: Annotated[int, typer.Option(min=1)] = 1000,
) -> None:
    """Print how many answers are equal; exit code 1 where one is not."""
    opened = Bundle.open(bundle)
    table = test_queries(Prepared.open(locate(prepared)), queries)
    asked = list(requests(table, opened.pins, k=k))
    expected = [pairs(answer) for answer in Retriever.open(opened).retrieve(asked)]
    unequal = 0
    with served(bundle) as urls:
        for topology, url in urls.items():
            found = asyncio.run(ask_all(url, asked))
            equal = sum(one == other for one, other in zip(found, expected, strict=True))
            unequal += len(asked) - equal
            print(f"{topology}: {equal} of {len(asked)} answers equal, k = {k}")
    raise typer.Exit(code=1 if unequal else 0)


if __name__ == "__main__":
    typer.run(main)
