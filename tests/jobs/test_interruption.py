"""A run that is killed in the middle of training and started again ends with the same bits as one that is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from processes import kill, start, wait_for

pytestmark = pytest.mark.slow

ARGUMENTS = ["pipeline", "--recipe", "smoke", "--set", "train.epochs=40", "--set", "train.checkpoint_every_steps=5"]


def metrics_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "metrics.json").read_text())


def training_log(workdir: Path) -> list[dict[str, Any]]:
    (log,) = (workdir / "train").glob("run-*/metrics.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def committed(workdir: Path) -> bool:
    """Whether Ray Train knows of a checkpoint that a restart can go on from."""
    snapshots = list((workdir / "train").glob("run-*/checkpoint_manager_snapshot.json"))
    return any("checkpoint_" in snapshot.read_text() for snapshot in snapshots)


def test_killed_run_resumes_and_ends_with_the_same_model_version(tmp_path: Path) -> None:
    output, disturbed, undisturbed = tmp_path / "output.txt", tmp_path / "disturbed", tmp_path / "undisturbed"
    first = start(*ARGUMENTS, "--workdir", str(disturbed), output=output)
    wait_for(lambda: committed(disturbed), first, seconds=180)
    kill(first)
    assert not (disturbed / "metrics.json").exists()

    assert start(*ARGUMENTS, "--workdir", str(disturbed), output=output).wait(timeout=300) == 0, output.read_text()
    assert "prepare: skipped" in output.read_text()
    log = training_log(disturbed)
    resumed = [line["resumed_from_step"] for line in log if "resumed_from_step" in line]
    assert len(resumed) == 1
    assert resumed[0] > 0

    assert start(*ARGUMENTS, "--workdir", str(undisturbed), output=output).wait(timeout=300) == 0, output.read_text()
    assert metrics_of(disturbed)["model_version"] == metrics_of(undisturbed)["model_version"]
    assert metrics_of(disturbed)["recall"] == metrics_of(undisturbed)["recall"]
    losses = {line["step"]: line["loss"] for line in training_log(undisturbed) if "loss" in line}
    assert all(losses[line["step"]] == line["loss"] for line in log if "loss" in line)
