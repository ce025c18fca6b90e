"""Small real bundles without training: random towers, and random pins and people in every column that serving reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file

from convcg import bundle, config
from convcg.data.encode import PinEncoder
from convcg.data.feature_encoders import Encoders, fit_encoders
from convcg.data.tables import RowTable, build_pin_table, build_user_table, write_table
from convcg.index.shard import shard_bounds
from convcg.model.two_tower import TwoTower, prefix_of
from convcg.storage import locate
from convcg.types import ACTION_CODE, SURFACES, Action

#: The time up to which the people's histories go, in seconds since the epoch.
END = 1_700_000_000.0
NUM_ADVERTISERS = 7
COUNTRIES = ("DE", "FR", "US")
CATEGORIES = ("bags", "hats", "shoes")

_CONFIG: dict[str, Any] = {
    "features": {
        "pin": [
            {"name": "pin_id", "kind": "id"},
            {"name": "category", "kind": "category"},
            {"name": "price", "kind": "number", "log": True},
            {"name": "visual", "kind": "vector"},
        ],
        "user": [
            {"name": "country", "kind": "category"},
            {"name": "age", "kind": "number"},
            {"name": "interests", "kind": "bag"},
            {"name": "taste", "kind": "vector"},
        ],
    },
    "model": {"dim": 16, "query_tower": {"hidden": [32]}, "pin_tower": {"hidden": [32]}, "num_query_words": 64},
    "history": {"length": 20},
}


def make_bundle(
    directory: Path, *, num_pins: int, num_users: int, num_shards: int, seed: int, sets: Sequence[str] = ()
) -> Path:
    """Write a bundle whose content depends on the arguments alone; `sets` override its config (`a.b=c`)."""
    rng = np.random.default_rng(seed)
    run = config.override({**_CONFIG, "index": {"num_shards": num_shards}}, sets, source="make_bundle")
    (directory / "shards").mkdir(parents=True)

    raw_pins, raw_users = _pins(rng, num_pins), _users(rng, num_users, num_pins)
    encoders = Encoders(pin=fit_encoders(raw_pins, run.features.pin), user=fit_encoders(raw_users, run.features.user))
    (directory / bundle.ENCODERS).write_bytes(encoders.to_bytes())
    write_table(build_pin_table(raw_pins, encoders.pin), locate(directory / bundle.PINS))
    write_table(build_user_table(raw_users), locate(directory / bundle.USERS))

    pins = RowTable.open(locate(directory / bundle.PINS))
    towers = _random_towers(run, encoders, seed)
    save_file(_named(towers), directory / bundle.MODEL)
    with torch.inference_mode():
        inputs = towers.pin.inputs(PinEncoder(pins, encoders.shapes.pin).all())
        embedding = prefix_of(towers.pin(inputs), run.model.served_dim(run.index.dim)).numpy()
        seen = towers.pin.seen(inputs, torch.arange(num_pins))
    np.save(directory / bundle.PIN_INPUTS, seen.numpy())
    shards = []
    for shard, (first, end) in enumerate(shard_bounds(num_pins, num_shards)):
        shards.append(f"shards/{shard:05d}.npy")
        np.save(directory / shards[-1], embedding[first:end])
    bundle.seal(directory, config=run.model_dump(mode="json"), shards=tuple(shards))
    return directory


def _random_towers(run: config.RunConfig, encoders: Encoders, seed: int) -> TwoTower:
    torch.manual_seed(seed)
    towers = TwoTower(run.model, encoders.shapes)
    with torch.no_grad():
        for parameter in towers.parameters():  # a fresh tower is the identity in places: leave nothing at zero
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return towers.eval()


def _named(towers: TwoTower) -> dict[str, torch.Tensor]:
    state = towers.state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if name.startswith(("query.", "pin."))}


def _pins(rng: np.random.Generator, count: int) -> pa.Table:
    some = rng.random((3, count))
    surfaces = [None if draw < 0.6 else [str(SURFACES[int(draw * 100) % 3])] for draw in some[0]]
    countries = [None if draw < 0.6 else [COUNTRIES[int(draw * 100) % 3]] for draw in some[1]]
    advertiser = rng.integers(0, NUM_ADVERTISERS, count)
    return pa.table(
        {
            "pin_id": [f"p{row:06d}" for row in range(count)],
            "advertiser_id": [f"a{number}" if number else None for number in advertiser],
            "category": rng.choice(CATEGORIES, count).tolist(),
            "price": pa.array(rng.lognormal(3, 1, count).astype(np.float32)),
            "surfaces": pa.array(surfaces, pa.list_(pa.string())),
            "countries": pa.array(countries, pa.list_(pa.string())),
            "in_stock": [bool(draw < 0.9) for draw in some[2]],
            "visual": pa.array(rng.normal(size=(count, 8)).astype(np.float32).tolist(), pa.list_(pa.float32())),
        }
    )


def dwells(rng: np.random.Generator, size: int) -> np.ndarray:
    """Seconds, half of them unknown."""
    return np.where(rng.random(size) < 0.5, np.nan, rng.exponential(30.0, size)).astype(np.float32)


def _users(rng: np.random.Generator, count: int, num_pins: int) -> pa.Table:
    length = rng.integers(0, 30, count)
    pins = [rng.integers(0, num_pins, size).astype(np.int32) for size in length]
    actions = [rng.choice([ACTION_CODE[Action.CLICK], ACTION_CODE[Action.CHECKOUT]], size) for size in length]
    bought = [np.unique(pin[action == ACTION_CODE[Action.CHECKOUT]]) for pin, action in zip(pins, actions, strict=True)]
    times = [np.sort(END - rng.exponential(86_400, size)) for size in length]
    return pa.table(
        {
            "user_id": [f"u{row:05d}" for row in range(count)],
            "history_pin": pa.array(pins, pa.list_(pa.int32())),
            "history_action": pa.array(actions, pa.list_(pa.int8())),
            "history_surface": pa.array([rng.integers(-1, 3, size) for size in length], pa.list_(pa.int8())),
            "history_time": pa.array(times, pa.list_(pa.float64())),
            "history_dwell": pa.array([dwells(rng, size) for size in length], pa.list_(pa.float32())),
            "purchased": pa.array(bought, pa.list_(pa.int32())),
            "country": [None if draw < 0.2 else COUNTRIES[int(draw * 100) % 3] for draw in rng.random(count)],
            "age": pa.array(rng.integers(18, 80, count)),
            "interests": pa.array([rng.choice(CATEGORIES, 2).tolist() for _ in range(count)]),
            "taste": pa.array(rng.normal(size=(count, 4)).astype(np.float32).tolist(), pa.list_(pa.float32())),
        }
    )
