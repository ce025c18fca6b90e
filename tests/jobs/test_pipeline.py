"""The stages as users run them: through `main(argv)`, on a real local Ray, from tables to a published bundle."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convcg.bundle import Bundle
from convcg.channel import current_bundle, published
from convcg.data import prepared
from convcg.data.prepared import Prepared
from convcg.errors import ConfigError
from convcg.storage import locate
from convcg.train import TrainConfig
from ray_jobs import pipeline, publish
from ray_jobs.tracking import METRICS_FILE
from ray_jobs.train import check_resources

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("smoke")
    assert pipeline.main(["--recipe", "smoke", "--workdir", str(workdir)]) == 0
    return workdir


def metrics_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "metrics.json").read_text())


def test_pipeline_measures_model_and_baselines_on_every_test_query(finished: Path) -> None:
    metrics = metrics_of(finished)
    assert set(metrics["recall"]) == {"model", "popularity", "item_item"}
    assert all(set(recall) == {"recall@20", "recall@100", "recall@1000"} for recall in metrics["recall"].values())
    queries = Prepared.open(locate(finished / "prepared")).queries(prepared.TEST)
    assert metrics["num_queries"] == queries.num_rows
    assert set(metrics["seconds"]) == {"prepare", "graph", "train", "index", "evaluate", "publish"}


def test_published_bundle_is_the_one_that_was_measured(finished: Path) -> None:
    bundle = Bundle.open(current_bundle(locate(finished / "channel")).uri)
    assert bundle.model_version == metrics_of(finished)["model_version"]


def test_every_step_is_logged_once_and_wandb_has_an_offline_run(finished: Path) -> None:
    (log,) = (finished / "train").glob(f"*/{METRICS_FILE}")
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(steps)
    assert list(log.parent.glob("wandb/offline-run-*/run-*.wandb"))


def test_second_run_skips_every_stage(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != "metrics.json"}
    assert pipeline.main(["--recipe", "smoke", "--workdir", str(finished)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_same_config_in_another_place_gives_the_same_model_version(finished: Path, tmp_path: Path) -> None:
    assert pipeline.main(["--recipe", "smoke", "--workdir", str(tmp_path)]) == 0
    again, first = metrics_of(tmp_path), metrics_of(finished)
    assert again["model_version"] == first["model_version"]
    assert again["recall"] == first["recall"]


def test_gate_fails_the_run_and_nothing_is_published(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = metrics_of(finished)["model_version"]
    gated = ["--recipe", "smoke", "--workdir", str(finished), "--set", "evaluate.gate.100=1.1"]
    assert pipeline.main(gated) == 1
    assert "the gate asks for 1.1000" in capsys.readouterr().err
    assert published(locate(finished / "channel")).versions == (version,)
    assert pipeline.main(["--recipe", "smoke", "--workdir", str(finished)]) == 0


def test_rollback_without_an_earlier_version_says_so(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main(["--recipe", "smoke", "--workdir", str(finished), "--rollback"]) == 1
    assert "there is none to go back to" in capsys.readouterr().err


def log_of_ids(path: Path, *, num_users: int = 60, num_pins: int = 40, days: int = 5) -> None:
    """Integer ids, seconds since the epoch, nothing else: each person clicks and buys neighbours of one pin."""
    rows = [
        {"timestamp": 1_760_000_000 + day * 86_400 + user * 60 + step, "user_id": user, "pin_id": pin, "action": action}
        for user in range(num_users)
        for day in range(days)
        for step, (pin, action) in enumerate(
            [((user + day) % num_pins, "click"), ((user + day + 1) % num_pins, "checkout")]
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_any_log_of_ids_runs_with_the_taobao_recipe(ray_cluster: None, tmp_path: Path) -> None:
    log_of_ids(tmp_path / "mine.parquet")  # with fewer examples than one batch of the recipe
    arguments = ["--recipe", "taobao", "--set", f"data.events={tmp_path / 'mine.parquet'}"]
    assert pipeline.main([*arguments, "--workdir", str(tmp_path / "run")]) == 0
    metrics = metrics_of(tmp_path / "run")
    assert (metrics["num_pins"], metrics["num_queries"]) == (40, 60)
    assert Bundle.open(str(tmp_path / "run" / "bundle")).pins.row("39") is not None


def test_a_changed_input_is_noticed(ray_cluster: None, tmp_path: Path) -> None:
    log_of_ids(tmp_path / "mine.parquet")
    small = ["train.epochs=1", "train.batch_size=64", "model.dim=8", "graph.dim=8"]
    overrides = [argument for text in small for argument in ("--set", text)]
    arguments = ["--recipe", "taobao", "--set", f"data.events={tmp_path / 'mine.parquet'}", *overrides]
    arguments += ["--workdir", str(tmp_path / "run")]
    assert pipeline.main(arguments) == 0
    log_of_ids(tmp_path / "mine.parquet", num_users=50)
    assert pipeline.main(arguments) == 0
    assert metrics_of(tmp_path / "run")["num_queries"] == 50


NO_IDS = ["--set", "graph={kind: spectral, dim: 16}", "--set", "model.pin_start=graph"]
NO_IDS += ["--set", "features.pin=[{name: visual, kind: vector}]"]
NO_IDS += ["--set", "train.max_failures=0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.epochz=3"], "Did you mean epochs?"),
        (["--set", "train.num_workers=40"], "train.num_workers = 40"),
        (["--set", "data.events=/does/not/exist.parquet"], "/does/not/exist.parquet"),
        (["--set", "features.user=[{name: shoe_size, kind: number}]"], "shoe_size"),
        (["--set", "features.pin=[{name: visual, kind: number}]"], "'visual'"),
        (["--set", "split.test_days=4000"], "split.test_days"),
        (["--set", "train.learning_rate=1e30", "--set", "train.max_failures=0"], "Lower train.learning_rate"),
        (NO_IDS, "needs trained pin vectors"),
    ],
)
def test_broken_input_ends_in_one_message_and_publishes_nothing(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert pipeline.main(["--recipe", "smoke", "--workdir", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "channel").exists()


def test_two_workers_train_together(finished: Path, tmp_path: Path) -> None:
    arguments = ["--recipe", "smoke", "--workdir", str(tmp_path), "--set", "train.num_workers=2"]
    assert pipeline.main(arguments) == 0
    assert metrics_of(tmp_path)["num_queries"] == metrics_of(finished)["num_queries"]


def test_what_is_missing_is_refused_here_and_waited_for_on_a_cluster(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="needs .* 41 CPUs, it has 4; 40 GPUs, it has 0"):
        check_resources(TrainConfig(num_workers=40, use_gpu=True))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with caplog.at_level("WARNING"):
        check_resources(TrainConfig(num_workers=40, use_gpu=True))
    assert "Waiting for the cluster to grow" in caplog.text
