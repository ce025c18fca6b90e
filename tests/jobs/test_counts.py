"""Counts from the log to the answer: two of pins and one of people, through the stages as users run them, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from convcg.bundle import Bundle
from convcg.data import prepared
from convcg.data.encode import PinEncoder, encode_queries
from convcg.data.feature_encoders import PREFIX
from convcg.data.prepared import Prepared, attached
from convcg.data.split import DAY
from convcg.errors import RequestError
from convcg.metrics import rank_among_all, recall_at
from convcg.model.two_tower import ModelConfig, PinTower, TwoTower
from convcg.retriever.policy import RetrievalConfig
from convcg.retriever.query_encoder import QueryEncoder
from convcg.storage import locate
from convcg.types import Request, Surface, Task
from convcg.validation import Validation, lists
from ray_jobs import evaluate, index, prepare, train

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NUM_PINS, NUM_USERS, NUM_DAYS, FIRST_DAY = 150, 60, 12, 20_000
PIN_COUNTS = [
    {"name": "clicks_3d", "kind": "count", "action": "click", "days": 3},
    {"name": "sales_30d", "kind": "count", "action": "checkout", "days": 30},
]
USER_COUNT = {"name": "carts_5d", "kind": "count", "action": "add_to_cart", "days": 5}
EVENT_COLUMNS = ("timestamp", "reported_at", "user_id", "pin_id", "action")


def write_log(directory: Path) -> list[dict[str, Any]]:
    """A log in which clicks, carts and purchases follow each other, some reported days later; times in microseconds."""
    rng, events = np.random.default_rng(0), []
    for user in range(NUM_USERS):
        for day in range(NUM_DAYS):
            time = (FIRST_DAY + day) * DAY + int(rng.integers(0, DAY - 3600_000_000))
            pin, later = int(rng.integers(NUM_PINS) ** 2 // NUM_PINS), int(rng.choice([0, 0, 1, 3]))
            for step, action in enumerate(("click", "add_to_cart", "checkout")[: int(rng.integers(1, 4))]):
                then = time + step * 900_000_000
                reported = then + later * DAY if action != "click" else None
                events.append(
                    dict(zip(EVENT_COLUMNS, (then, reported, f"u{user:02d}", f"p{pin:03d}", action), strict=True))
                )
    columns = {name: [event[name] for event in events] for name in EVENT_COLUMNS}
    kinds = {name: pa.timestamp("us", "UTC") for name in ("timestamp", "reported_at")}
    pq.write_table(
        pa.table({name: pa.array(column, kinds.get(name)) for name, column in columns.items()}),
        directory / "events.parquet",
    )
    pq.write_table(pa.table({"pin_id": [f"p{row:03d}" for row in range(NUM_PINS)]}), directory / "pins.parquet")
    users = {"user_id": ["silent", *(f"u{row:02d}" for row in range(NUM_USERS - 5))], "age": list(range(NUM_USERS - 4))}
    pq.write_table(pa.table(users), directory / "users.parquet")
    return events


def arguments(directory: Path, *, workdir: str = "run", **features: list[dict[str, Any]]) -> list[str]:
    recipe = {
        "data": {name: str(directory / f"{name}.parquet") for name in ("events", "pins", "users")},
        "examples": {
            "weights": {"checkout": 1.0, "add_to_cart": 1.0, "click": 0.5},
            "evaluation_actions": ["add_to_cart"],
        },
        "features": {"pin": [{"name": "pin_id", "kind": "id"}, *PIN_COUNTS], "user": [USER_COUNT]} | features,
        "model": {"dim": 8, "query_tower": {"hidden": [16]}, "pin_tower": {"hidden": [16]}},
        "train": {"epochs": 2, "batch_size": 64, "warmup_steps": 1, "learning_rate": 0.01, "max_failures": 0},
    }
    (directory / f"{workdir}.yaml").write_text(yaml.safe_dump(recipe))
    return ["--recipe", str(directory / f"{workdir}.yaml"), "--workdir", str(directory / workdir)]


class Finished:
    """A run, and what can be counted in its log by hand."""

    def __init__(self, directory: Path) -> None:
        self.events = write_log(directory)
        for stage in (prepare, train, index, evaluate):
            assert stage.main(arguments(directory)) == 0
        self.data = Prepared.open(locate(directory / "run" / "prepared"))
        self.bundle = Bundle.open(str(directory / "run" / "bundle"))
        self.last_day = self.data.summary().times.train // DAY

    def count(self, action: str, days: int, day: int, **of: str) -> int:
        [(name, key)] = of.items()
        known = [max(event["timestamp"], event["reported_at"] or 0) for event in self.events]
        return sum(
            event[name] == key and event["action"] == action and (day - days) * DAY <= then < day * DAY
            for event, then in zip(self.events, known, strict=True)
        )


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("counts"))


def test_served_embeddings_hold_the_counts_as_of_the_end_of_the_training_time(finished: Finished) -> None:
    bundle = finished.bundle
    tower = PinTower(ModelConfig.model_validate(bundle.manifest.config["model"]), bundle.encoders().shapes.pin).eval()
    tower.load_state_dict(bundle.weights("pin"))
    weight = bundle.weights("pin")["counts.weight"]
    inputs = torch.from_numpy(bundle.pin_inputs().copy())
    shards = range(len(bundle.manifest.shards))
    served = torch.from_numpy(np.concatenate([bundle.shard_vectors(shard) for shard in shards]))
    seen = set()
    for row, pin in enumerate(bundle.pins.ids.to_pylist()):
        counts = [finished.count("click", 3, finished.last_day, pin_id=pin)]
        counts += [finished.count("checkout", 30, finished.last_day, pin_id=pin)]
        with torch.no_grad():
            by_hand = F.normalize(tower.layers(inputs[row] + torch.tensor(counts).float().log1p() @ weight.T), dim=-1)
            without = F.normalize(tower.layers(inputs[row]), dim=-1)
        torch.testing.assert_close(served[row], by_hand, rtol=0, atol=1e-6)
        assert not any(counts) or (by_hand - without).norm() > 1e-3
        seen.add(tuple(counts))
    assert len(seen) > 10


def test_validation_sees_the_pins_that_will_be_served(finished: Finished) -> None:
    data, bundle = finished.data, finished.bundle
    shapes = data.encoders().shapes
    towers = TwoTower(ModelConfig.model_validate(bundle.manifest.config["model"]), shapes)
    towers.load_state_dict(load_file(bundle.directory / "model.safetensors"))
    found = Validation(data, PinEncoder(data.pins(), shapes.pin, data.pin_days()), limit=1000).recall(towers)
    queries = data.queries(prepared.VALIDATION)
    with torch.no_grad():
        inputs = torch.from_numpy(bundle.pin_inputs().copy())
        query = towers.eval().query(encode_queries(queries, shapes.user), inputs).numpy()
        uncounted = towers.pin(inputs, torch.zeros(NUM_PINS, 2)).numpy()
    served = np.concatenate([bundle.shard_vectors(shard) for shard in range(len(bundle.manifest.shards))])

    def recall(pins: np.ndarray) -> float:
        return recall_at(rank_among_all(query @ pins.T, queries["target"].to_numpy(), lists(queries["purchased"])), 100)

    assert found == recall(served)
    assert found != recall(uncounted)


def test_the_user_table_counts_people_and_a_request_may_bring_another_count(finished: Finished) -> None:
    users = finished.bundle.users
    counted = dict(zip(users.ids.to_pylist(), users.table["carts_5d"].to_pylist(), strict=True))
    assert len(counted) == NUM_USERS + 1
    for user, count in counted.items():
        assert count == finished.count("add_to_cart", 5, finished.last_day, user_id=user)
    assert counted["silent"] == 0
    assert len(set(counted.values())) > 2

    encoder = QueryEncoder(finished.bundle, RetrievalConfig())
    user = max(counted, key=lambda each: counted[each])

    def embedding(user_id: str | None, **features: object) -> np.ndarray:
        [plan] = encoder.plan([Request(surface=Surface.HOME_FEED, user_id=user_id, user_features=features)])
        return plan.embedding

    assert np.array_equal(embedding(user, carts_5d=counted[user]), embedding(user))
    assert np.abs(embedding(user, carts_5d=0) - embedding(user)).max() > 1e-4
    assert np.array_equal(embedding("silent"), embedding("a stranger"))
    assert np.array_equal(embedding("silent"), embedding(None, carts_5d=0))
    with pytest.raises(RequestError, match=r"'carts_5d' = -1 cannot be read as a count"):
        embedding(user, carts_5d=-1)


def test_every_query_counts_as_of_its_own_day(finished: Finished) -> None:
    data, tables = finished.data, []
    for task in Task:
        examples = pa.concat_tables(map(prepared.read_part, data.files(task)))
        tables.append(attached(examples, data.location.uri, data.summary().history))
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) > 100
    assert max(row["time"] for row in rows) < data.summary().times.train
    rows += data.queries(prepared.VALIDATION).to_pylist() + data.queries(prepared.TEST).to_pylist()
    counts = [finished.count("add_to_cart", 5, row["time"] // DAY, user_id=row["user_id"]) for row in rows]
    assert [row[PREFIX + "carts_5d"] for row in rows] == np.log1p(counts).astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"user": [USER_COUNT | {"name": "age"}]}, "'age' is a column of the users table"),
        ({"user": [USER_COUNT | {"name": "country"}]}, "'country' is a column of the users table"),
        ({"user": [USER_COUNT | {"name": "purchased"}]}, "'purchased' is a column of the users table"),
        (
            {"pin": [{"name": "pin_id", "kind": "id"}, PIN_COUNTS[0] | {"name": "price"}]},
            "'price' is a column of the pins table",
        ),
    ],
)
def test_a_count_under_the_name_of_a_column_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], features: dict[str, Any], message: str
) -> None:
    write_log(tmp_path)
    assert prepare.main(arguments(tmp_path, **features)) == 1
    assert message in capsys.readouterr().err


def test_people_are_counted_without_a_users_table_and_pins_leave_no_counts_unasked(tmp_path: Path) -> None:
    write_log(tmp_path)
    only_ids = arguments(tmp_path, pin=[{"name": "pin_id", "kind": "id"}])
    assert prepare.main([*only_ids, "--set", "data.users=null", "--set", "data.pins=null"]) == 0
    data = Prepared.open(locate(tmp_path / "run" / "prepared"))
    assert data.pin_days() is None
    users = pa.ipc.open_file(str(tmp_path / "run" / "prepared" / prepared.USERS)).read_all()
    assert users.num_rows == NUM_USERS
    assert max(users["carts_5d"].to_pylist()) > 1


def test_counts_of_many_partitions_add_up_to_those_of_one(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path)
    monkeypatch.setattr(prepare, "_BYTES_TO_BUILD", 4 << 20)  # as if events were large
    assert prepare.main(arguments(tmp_path)) == 0
    assert len(list((tmp_path / "run" / "prepared" / prepared.PEOPLE).iterdir())) > 5
    one, many = (
        Path(each) / prepared.PIN_DAYS for each in (finished.data.location.path, tmp_path / "run" / "prepared")
    )
    assert many.read_bytes() == one.read_bytes()
