"""What the report shows, read from a measured run: shares with their intervals, curves, samples.

An interval is the middle 95 % of the bootstrap over people, whose queries stay together.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcg.errors import DataError
from convcg.metrics import paired_difference
from convcg.ranks import Measured
from convcg.storage import Location, exists, read_bytes

MODEL, ORACLE = "model", "oracle"
_KS = (20, 100, 1000)
_MAIN_K = 100
_DRAWS = 2_000
#: The order in which a slice's values are shown, where it is not that of the alphabet.
_ORDER = (
    "small",
    "medium",
    "large",
    "head",
    "mid",
    "tail",
    "warm",
    "cold",
    "novel",
    "seen",
    "bought",
    "served",
    "unserved",
)
_CURVES = ("loss", "temperature", "validation_recall_at_100")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share in [0, 1] and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The queries that have one value of a slice: how many, and what each system finds at the main k."""

    value: str
    num_queries: int
    found: dict[str, Share]


Curve = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A run, as the report shows it.

    recall: system -> k -> share of queries. slices: name -> its values. shown: the systems that slices are shown for,
    the model first. curves: metric -> a curve of (step, value) for each seed. metrics, samples: what `convcg evaluate`
    wrote for the first seed; empty without. settings: the recipe as YAML, empty without.
    """

    name: str
    num_queries: int
    num_users: int
    num_seeds: int
    ks: tuple[int, ...]
    main_k: int
    recall: dict[str, dict[int, Share]]
    shown: tuple[str, ...]
    slices: dict[str, list[Part]]
    curves: dict[str, list[Curve]]
    metrics: dict[str, Any]
    samples: list[dict[str, Any]]
    settings: str

    @property
    def best_baseline(self) -> str | None:
        """The baseline that finds most at the main k; the oracle is none."""
        return _best(self.recall, self.main_k)


def read_facts(run: Measured) -> Facts:
    """All that the report shows of a run.

    Raises:
        DataError: a file of the run is damaged.
        StorageError: one cannot be read.
    """
    metrics = _json(run.places[0] / "metrics.json", {})
    ks = tuple(int(name.rpartition("@")[2]) for name in metrics.get("recall", {}).get(MODEL, ())) or _KS
    main_k = _MAIN_K if _MAIN_K in ks else ks[len(ks) // 2]
    users = np.unique(np.asarray(run.users), return_inverse=True)[1]
    everything = np.arange(run.num_queries)
    hits = {(system, k): run.hits(system, k).mean(0) for system in run.systems for k in ks}
    recall = {name: {k: _share(hits[name, k], users, everything) for k in ks} for name in run.systems}
    best = _best(recall, main_k)
    shown = tuple(name for name in (MODEL, best, ORACLE) if name in recall)
    slices = {}
    for name in run.slices:
        values = run.slice_values(name)
        slices[name] = [
            Part(
                value=value,
                num_queries=len(chosen),
                found={system: _share(hits[system, main_k], users, chosen) for system in shown},
            )
            for value in sorted(set(values), key=_place)
            if len(chosen := np.flatnonzero(values == value))
        ]
    config = run.places[0] / "config.yaml"
    return Facts(
        name=run.name,
        num_queries=run.num_queries,
        num_users=len(np.unique(users)),
        num_seeds=len(run.places),
        ks=ks,
        main_k=main_k,
        recall=recall,
        shown=shown,
        slices=slices,
        curves=_curves(run.places),
        metrics=metrics,
        samples=_json(run.places[0] / "samples.json", []),
        settings=read_bytes(config).decode() if exists(config) else "",
    )


def _best(recall: dict[str, dict[int, Share]], k: int) -> str | None:
    baselines = [name for name in recall if name not in (MODEL, ORACLE)]
    return max(baselines, key=lambda name: recall[name][k].mean, default=None)


def _share(hit: NDArray[np.float64], users: NDArray[np.int64], chosen: NDArray[np.int64]) -> Share:
    found = paired_difference(hit[chosen], np.zeros(len(chosen)), users[chosen], draws=_DRAWS)
    return Share(mean=found.mean, low=found.low, high=found.high)


def _place(value: str) -> tuple[int, str]:
    return (_ORDER.index(value) if value in _ORDER else len(_ORDER), value)


def _curves(places: Sequence[Location]) -> dict[str, list[Curve]]:
    """The curves that each seed's last training left."""
    found: dict[str, list[Curve]] = {name: [] for name in _CURVES}
    for place in places:
        fingerprint = _json(place / "stages" / "train.json", {}).get("fingerprint")
        log = place / "train" / f"run-{fingerprint}" / "metrics.jsonl"
        lines = [json.loads(line) for line in read_bytes(log).splitlines() if line] if exists(log) else []
        for name, curves in found.items():
            curve = [(line["step"], line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]
            if curve:
                curves.append(curve)
    return {name: curves for name, curves in found.items() if curves}


def _json(location: Location, otherwise: Any) -> Any:
    if not exists(location):
        return otherwise
    try:
        return json.loads(read_bytes(location))
    except ValueError as error:
        raise DataError(f"{location.uri} is damaged: {error}. Run `convcg evaluate` again.") from error
