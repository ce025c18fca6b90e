"""What the service costs over the retriever that it serves: requests a second and latency, fused and split, over HTTP.

    python -m benchmarks.serving --bundle runs/demo/bundle --requests 300

Everything is measured in one run and in turns, several times, so that a busy machine slows all of it alike; read the
ratios. The load generator shares the machine with what it measures.
"""

import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import aiohttp
import typer

from serve_app.environment import prepare_environment

PORT = 8210
TOPOLOGIES = ("fused", "split")
CONCURRENCY = (1, 16)
_WARM_UP = 64


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run: seconds of each request, and of all of them together."""

    latencies: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """A quantile of the latencies in milliseconds."""
        return 1e3 * sorted(self.latencies)[min(int(share * len(self.latencies)), len(self.latencies) - 1)]


async def run_at(concurrency: int, bodies: list[bytes], ask: Callable[[bytes], Awaitable[None]]) -> Run:
    """Ask every body once, `concurrency` at a time."""
    waiting, latencies = iter(bodies), []

    async def client() -> None:
        for body in waiting:
            started = time.perf_counter()
            await ask(body)
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return Run(latencies, time.perf_counter() - started)


def over_http(session: aiohttp.ClientSession, url: str) -> Callable[[bytes], Awaitable[None]]:
    """Asks a running service."""

    async def ask(body: bytes) -> None:
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
            content = await response.read()
            assert response.status == 200, content

    return ask


def in_process(retriever: Any) -> Callable[[bytes], Awaitable[None]]:
    """Asks the bare retriever, with the same parsing of bodies but no server."""
    from serve_app.api import CandidatesBody

    async def ask(body: bytes) -> None:
        retriever.retrieve([CandidatesBody.model_validate(json.loads(body)).to_request()])

    return ask


def request_bodies(bundle: Any, count: int, seed: int) -> list[bytes]:
    """Requests of people drawn from the bundle's user table, on all three surfaces."""
    draw = random.Random(seed)
    bodies = []
    for number in range(count):
        surface = ("home_feed", "related_pins", "search")[number % 3]
        body: dict[str, Any] = {"surface": surface, "k": 100}
        if len(bundle.users):
            body["user_id"] = bundle.users.ids[draw.randrange(len(bundle.users))].as_py()
        if surface == "related_pins":
            body["subject_pin_id"] = bundle.pins.ids[draw.randrange(len(bundle.pins))].as_py()
        if surface == "search":
            body["query"] = draw.choice(("red shoes", "leather bag", "summer hat"))
        bodies.append(json.dumps(body).encode())
    return bodies


async def measure(
    bundle: Any, retriever: Any, urls: dict[str, str], *, requests: int, repetitions: int
) -> dict[str, list[Run]]:
    """Every configuration in turn, `repetitions` times."""
    runs: dict[str, list[Run]] = {}
    async with aiohttp.ClientSession() as session:
        askers = {"bare retriever": in_process(retriever)} | {
            topology: over_http(session, url) for topology, url in urls.items()
        }
        for ask in askers.values():
            await run_at(8, request_bodies(bundle, _WARM_UP, seed=0), ask)
        for repetition in range(1, repetitions + 1):
            bodies = request_bodies(bundle, requests, seed=repetition)
            for name, ask in askers.items():
                for concurrency in CONCURRENCY[:1] if name == "bare retriever" else CONCURRENCY:
                    run = await run_at(concurrency, bodies, ask)
                    runs.setdefault(f"{name}, {concurrency} at a time", []).append(run)
    return runs


def table(runs: dict[str, list[Run]]) -> str:
    """A markdown table: the median of the repetitions, and in brackets the smallest and the largest."""
    bare = statistics.median(run.rate for run in next(iter(runs.values())))
    lines = ["| | requests/s | of the bare retriever | p50 ms | p99 ms |", "|---|---|---|---|---|"]
    for name, repeated in runs.items():
        rates, p50, p99 = (
            [run.rate for run in repeated],
            [run.quantile(0.5) for run in repeated],
            [run.quantile(0.99) for run in repeated],
        )
        share = f"{statistics.median(rates) / bare:.2f}"
        lines.append(f"| {name} | {_spread(rates, 0)} | {share} | {_spread(p50, 1)} | {_spread(p99, 1)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


@contextmanager
def served(bundle: str) -> Iterator[dict[str, str]]:
    """A bundle behind Ray Serve in both topologies at once; yields where each answers."""
    prepare_environment()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a replica
    import ray
    from ray import serve

    from serve_app.app import ServeArguments, build

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"log_level": "ERROR"})
        for topology in TOPOLOGIES:
            arguments = ServeArguments(bundle=bundle, sets=(f"serve.topology={topology}",))
            serve.run(build(arguments), name=topology, route_prefix=f"/{topology}")
        time.sleep(1)  # the proxy hears of a new application a moment after Serve does
        yield {topology: f"http://127.0.0.1:{PORT}/{topology}/v1/candidates" for topology in TOPOLOGIES}
    finally:
        ray.shutdown()


def main(
    bundle: Annotated[str, typer.Option(help="The bundle to serve.")],
    requests: Annotated[int, typer.Option(min=10, max=100_000, help="Requests in each run.")] = 300,
    repetitions: Annotated[int, typer.Option(min=1, max=20)] = 3,
) -> None:
    """Print the table."""
    from convcg.bundle import Bundle
    from convcg.retriever.retriever import Retriever

    opened = Bundle.open(bundle)
    with served(bundle) as urls:
        bare = Retriever.open(opened)
        runs = asyncio.run(measure(opened, bare, urls, requests=requests, repetitions=repetitions))
    print(f"{len(opened.pins)} pins, {len(opened.manifest.shards)} shards, k = 100, load {os.getloadavg()[0]:.1f}\n")
    print(table(runs))


if __name__ == "__main__":
    typer.run(main)
