"""`convcg prepare` on a real local Ray: the same whatever the memory, and never silently less than what was there."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from convcg.data import prepared
from convcg.data.prepared import Prepared, attached
from convcg.data.world import WorldConfig, write_world
from convcg.storage import locate
from convcg.types import Task
from ray_jobs import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NUM_BROKEN = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    write_world(WorldConfig(num_users=400, num_pins=300, num_advertisers=20), str(directory))
    return directory


def arguments(world: Path, workdir: Path, *overrides: str) -> list[str]:
    tables = [f"data.{name}={world / name}" for name in ("events", "users")] + [f"data.pins={world / 'pins.parquet'}"]
    settings = [*tables, "examples.weights={checkout: 1.0, add_to_cart: 1.0, click: 0.1}", *overrides]
    return ["--recipe", "smoke", "--workdir", str(workdir), *(part for text in settings for part in ("--set", text))]


def rows_of(table: pa.Table) -> Counter[str]:
    dropped = [name for name in ("request",) if name in table.column_names]
    return Counter(json.dumps(row, sort_keys=True, default=str) for row in table.drop_columns(dropped).to_pylist())


def everything(workdir: Path) -> dict[str, Any]:
    """All that training and evaluation see, in no order."""
    data = Prepared.open(locate(workdir / "prepared"))
    history = data.summary().history
    train = {
        task: rows_of(attached(pa.concat_tables(map(prepared.read_part, data.files(task))), data.location.uri, history))
        for task in Task
    }
    evaluation = {part: rows_of(data.queries(part)) for part in (prepared.VALIDATION, prepared.TEST)}
    users = rows_of(pa.ipc.open_file(str(workdir / "prepared" / prepared.USERS)).read_all())
    return {**train, **evaluation, "users": users, "frequencies": data.frequencies().to_pydict()}


@pytest.fixture(scope="module")
def whole(ray_cluster: None, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("whole")
    assert prepare.main(arguments(world, workdir)) == 0
    return workdir


def test_the_memory_of_a_task_changes_no_example(whole: Path, world: Path, tmp_path: Path) -> None:
    assert prepare.main(arguments(world, tmp_path, "data.task_memory_mb=16")) == 0
    assert len(list((tmp_path / "prepared" / "conversion").iterdir())) > 2
    assert len(list((whole / "prepared" / "conversion").iterdir())) == 1
    assert everything(tmp_path) == everything(whole)


def test_every_fact_is_stored_once(whole: Path) -> None:
    data = Prepared.open(locate(whole / "prepared"))
    (examples,) = (prepared.read_part(file) for file in data.files(Task.ENGAGEMENT))
    (requests,) = (prepared.read_part(file) for file in data.files(prepared.REQUESTS))
    asked = requests.select(["user", "time", "surface", "subject_pin", "query"])
    assert asked.num_rows == len({tuple(row.values()) for row in asked.to_pylist()})
    flat = attached(examples, data.location.uri, data.summary().history)
    assert flat.num_rows == examples.num_rows
    assert flat.nbytes > 3 * (examples.nbytes + requests.nbytes)
    assert not (whole / "prepared" / "unfinished").exists()


def test_the_data_card_adds_up(whole: Path, world: Path) -> None:
    card = json.loads((whole / "prepared" / prepared.CARD).read_text())
    events = pq.read_table(world / "events")
    counts = events["action"].value_counts().to_pylist()
    assert card["actions"] == {entry["values"]: entry["counts"] for entry in counts}
    assert sum(sum(day[action] for action in card["actions"]) for day in card["by_day"]) == events.num_rows
    summary = Prepared.open(locate(whole / "prepared")).summary()
    assert sum(card["attribution"].values()) == card["examples"]["conversion"] == summary.num_train[Task.CONVERSION]
    assert all(0 <= rule["dropped"] <= rule["of"] for rule in card["rules"])
    dropped = {rule["rule"]: rule["dropped"] for rule in card["rules"]}
    assert dropped["reported again under the same event_id"] > 0
    assert dropped["reported again within minutes"] > 0
    assert "<svg" in (whole / "prepared" / prepared.CARD_PAGE).read_text()


def test_caps_and_weights_of_clicks_are_those_of_the_whole_log(world: Path, tmp_path: Path) -> None:
    capped = ["data.task_memory_mb=16", "examples.per_pin=30", "examples.per_user=20"]
    assert prepare.main(arguments(world, tmp_path, *capped)) == 0
    data = Prepared.open(locate(tmp_path / "prepared"))
    frequencies = data.frequencies()
    targets = np.concatenate([_column(data, task, "target") for task in Task])
    counted = frequencies[Task.CONVERSION].to_numpy() + frequencies[Task.ENGAGEMENT].to_numpy()
    assert (np.bincount(targets, minlength=300) == counted).all()
    assert counted.max() < 30 * 2
    assert 15 < np.sort(counted)[-50:].mean() <= 40
    weights = _column(data, Task.ENGAGEMENT, "weight")
    assert weights.mean() == pytest.approx(0.1, rel=0.05)
    assert weights.std() > 0.02


def _column(data: Prepared, part: str, name: str) -> np.ndarray:
    return np.concatenate([prepared.read_part(file)[name].to_numpy() for file in data.files(part)])


@pytest.fixture(scope="module")
def broken_world(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with some rows that break a rule each, spread over its files."""
    directory = tmp_path_factory.mktemp("broken")
    (directory / "events").mkdir()
    for name in ("pins.parquet", "users"):
        (directory / name).symlink_to(world / name)
    events = pq.read_table(world / "events")
    extra = events.take(pa.array(np.linspace(0, events.num_rows - 1, NUM_BROKEN).astype(int)))
    actions = pa.array(["clicked" if row % 2 else "click" for row in range(NUM_BROKEN)])
    pins = pa.array(["nowhere" if row % 2 == 0 else "pin_000001" for row in range(NUM_BROKEN)])
    extra = extra.set_column(extra.column_names.index("action"), "action", actions)
    extra = extra.set_column(extra.column_names.index("pin_id"), "pin_id", pins)
    pq.write_table(pa.concat_tables([events, extra]), directory / "events" / "part-0.parquet", row_group_size=7000)
    return directory


def test_broken_rows_are_an_error_by_default(
    broken_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(arguments(broken_world, tmp_path)) == 1
    error = capsys.readouterr().err
    assert "unknown action" in error
    assert "data.max_broken_share" in error
    assert not (tmp_path / "prepared").exists()


def test_tolerated_broken_rows_are_stored_counted_and_change_nothing_else(
    whole: Path, broken_world: Path, tmp_path: Path
) -> None:
    tolerant = arguments(broken_world, tmp_path, "data.max_broken_share=0.01", "data.task_memory_mb=16")
    assert prepare.main(tolerant) == 0
    aside = pq.read_table(tmp_path / "prepared" / prepared.QUARANTINE)
    assert aside.num_rows == NUM_BROKEN
    assert Counter(aside["broken_column"].to_pylist()) == {"action": NUM_BROKEN // 2, "pin_id": NUM_BROKEN // 2}
    card = json.loads((tmp_path / "prepared" / prepared.CARD).read_text())
    assert card["rows"]["quarantined"] == NUM_BROKEN
    assert everything(tmp_path) == everything(whole)


def test_a_damaged_file_is_one_message_and_nothing_is_prepared(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events").mkdir()
    content = bytearray((next((world / "events").iterdir())).read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
    (tmp_path / "events" / "part-0.parquet").write_bytes(content)
    for name in ("pins.parquet", "users"):
        (tmp_path / name).symlink_to(world / name)
    assert prepare.main(arguments(tmp_path, tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert "part-0.parquet" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "prepared").exists()


def test_a_full_disk_is_one_message_and_the_data_does_not_pass_for_finished(
    small_disk: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(arguments(world, small_disk / "run")) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "Traceback" not in error
    assert not (small_disk / "run" / "prepared" / prepared.SUMMARY).exists()


def test_a_run_as_of_a_day_is_the_run_on_the_log_of_that_day(world: Path, tmp_path: Path) -> None:
    (tmp_path / "then" / "events").mkdir(parents=True)
    for name in ("pins.parquet", "users"):
        (tmp_path / "then" / name).symlink_to(world / name)
    events = pq.read_table(world / "events")
    day = pa.scalar(np.datetime64("2025-01-29T00:00:00", "us"), pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    known = pc.coalesce(events["reported_at"], events["timestamp"])  # a report is never early
    pq.write_table(events.filter(pc.less(known, day)), tmp_path / "then" / "events" / "part-0.parquet")
    assert prepare.main(arguments(tmp_path / "then", tmp_path / "cut")) == 0
    assert prepare.main(arguments(world, tmp_path / "as_of", "split.as_of=2025-01-29")) == 0
    assert everything(tmp_path / "as_of") == everything(tmp_path / "cut")
