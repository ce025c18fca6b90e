"""`convcg ladder` on a real local Ray: one run a setting and seed, what can be shared shared, what failed said."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import ladder as without_ray
from convcg.config import load_config
from convcg.storage import locate
from ray_jobs import ladder
from ray_jobs.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

LADDER = """
start: smoke
variants:
  two words: {model.num_query_words: 2}
  broken: {train.num_workers: 40}
"""


def arguments_of(directory: Path) -> list[str]:
    (directory / "mine.yaml").write_text(LADDER)
    arguments = ["--recipe", str(directory / "mine.yaml"), "--workdir", str(directory / "runs"), "--seeds", "1"]
    settings = ["world.num_users=150", "train.threads_per_worker=1"]
    return [*arguments, *(part for text in settings for part in ("--set", text)), "--ks", "20,100"]


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a ladder one of whose runs fails."""
    directory = tmp_path_factory.mktemp("ladder")
    assert ladder.main(arguments_of(directory)) == 1
    return directory


def stored(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "runs" / "ladder.json").read_text())


def test_a_failed_run_is_said_and_costs_no_other(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = stored(finished)
    assert [(each["setting"], each["seed"]) for each in found["failures"]] == [("broken", 0)]
    assert "train.num_workers = 40" in found["failures"][0]["error"]
    (table,) = found["tables"]
    assert [(row["name"], row["against"]) for row in table["rows"]] == [("smoke", None), ("two words", "smoke")]
    assert set(table["rows"][1]["difference"]) == {"recall@20", "recall@100"}


def test_prepared_data_are_made_once_and_baselines_asked_once(finished: Path) -> None:
    first, other = (finished / "runs" / name / "seed-0" for name in ("smoke", "two-words"))
    summaries = [path / "prepared" / "prepared.json" for path in (first, other)]
    assert summaries[0].samefile(summaries[1])
    assert not (other / "world").exists()
    recalls = [json.loads((path / "metrics.json").read_text())["recall"] for path in (first, other)]
    assert [set(recall) for recall in recalls] == [{"model", "popularity", "item_item"}, {"model"}]
    assert not (first / "channel").exists()


def test_the_second_time_only_what_failed_is_done(finished: Path) -> None:
    def stamps() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for name in ("smoke", "two-words")
            for path in (finished / "runs" / name).rglob("*")
        }

    before, result = stamps(), stored(finished)
    assert ladder.main(arguments_of(finished)) == 1
    assert stamps() == before
    assert stored(finished) == result


def test_a_run_without_ray_finds_what_the_command_finds(finished: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(finished / "runs" / "smoke" / "seed-0", tmp_path / "run"))
    commanded = pq.read_table(workdir / "ranks.parquet")
    threads = torch.get_num_threads()
    without_ray.measure(Run(config=load_config(str(workdir / "config.yaml")), workdir=locate(workdir)))
    torch.set_num_threads(threads)
    found = pq.read_table(workdir / "ranks.parquet")
    assert found.column_names == commanded.column_names
    for name in ("user_id", "time", "target", "slice:conversions", "rank:popularity"):
        assert found[name].equals(commanded[name])
    hits = [table["rank:model"].to_numpy() <= 20 for table in (found, commanded)]
    assert 0.1 < hits[0].mean() < 0.9
    assert (hits[0] == hits[1]).mean() > 0.98  # sums in another order move a rank now and then


def test_an_unknown_direction_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert ladder.main(["--directions", "add,sideways"]) == 1
    assert "--directions sideways is not known. Directions: cumulative, add, out." in capsys.readouterr().err
