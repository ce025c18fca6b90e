"""`convcg ladder` on a real local Ray: one run a setting and seed, what can be shared shared, what failed said."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import ladder as without_ray
from convcg.bundle import Bundle
from convcg.config import load_config
from convcg.data.prepared import Prepared
from convcg.evaluate.queries import Eligible, as_served
from convcg.evaluate.ranking import rank_scores
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


def test_a_run_without_ray_trains_the_same_weights_and_asks_the_same_queries(finished: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(finished / "runs" / "smoke" / "seed-0", tmp_path / "run"))
    commanded = pq.read_table(workdir / "ranks.parquet")
    run = Run(config=load_config(str(workdir / "config.yaml")), workdir=locate(workdir))
    without_ray.measure(run)
    found = pq.read_table(workdir / "ranks.parquet")
    assert found.column_names == commanded.column_names
    assert all(found[name].equals(commanded[name]) for name in ("user_id", "time", "target", "slice:conversions"))
    towers, catalogue = without_ray.trained(run)
    weights = load_file(workdir / "model" / "model.safetensors")
    assert all(torch.equal(weight, weights[name]) for name, weight in towers.state_dict().items())
    # What is left out differs, and nothing else: the command leaves out what is not eligible.
    data, bundle = Prepared.open(run.prepared), Bundle.open(run.bundle.uri)
    ranked = rank_scores(
        "the towers",
        without_ray.scores_of(towers, catalogue, data),
        as_served(data.queries("test").combine_chunks(), run.config.retrieval),
        num_pins=len(bundle.pins),
        ks=(100,),
        served_N=None,
        eligible=Eligible(bundle.pins, bundle.users),
    )
    commanded_B = commanded["rank:model"].to_numpy()
    assert 0.1 < (commanded_B <= 100).mean() < 0.9
    assert (np.minimum(ranked.rank, 101) == np.minimum(commanded_B, 101)).mean() > 0.98  # float32 here, float64 there
    assert ((found["rank:model"].to_numpy() <= 100) != (commanded_B <= 100)).any()


def test_an_unknown_direction_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert ladder.main(["--directions", "add,sideways"]) == 1
    assert "--directions sideways is not known. Directions: cumulative, add, out." in capsys.readouterr().err
