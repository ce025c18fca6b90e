"""Stages under `ray job submit` on a Ray that was started by hand, as the README shows."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import ENVIRONMENT, wait_for

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    arguments = ["--head", "--block", "--num-cpus=4", f"--port={free_port()}", f"--dashboard-port={port}"]
    # Another Ray on this machine may hold the default port, and then no job is taken.
    arguments += [f"--dashboard-agent-listen-port={free_port()}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments],
        env={**ENVIRONMENT, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{url}/api/version"), process, seconds=120)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def submit(dashboard: str, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", dashboard,
         "--working-dir", str(PROJECT), "--", *command],
        env={**ENVIRONMENT, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=400,
    )  # fmt: skip


def test_pipeline_and_train_finish_and_the_exit_code_follows_the_job(dashboard: str, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    arguments = ["--recipe", "smoke", "--workdir", str(workdir)]
    job = submit(dashboard, "python", "-m", "ray_jobs.pipeline", *arguments)
    assert job.returncode == 0, job.stdout + job.stderr
    version = json.loads((workdir / "metrics.json").read_text())["model_version"]

    job = submit(dashboard, "python", "-m", "ray_jobs.train", *arguments)  # finished before: nothing is trained again
    assert job.returncode == 0, job.stdout + job.stderr
    job = submit(dashboard, "python", "-m", "ray_jobs.index", *arguments)
    assert job.returncode == 0, job.stdout + job.stderr
    assert json.loads((workdir / "bundle" / "manifest.json").read_text())["model_version"] == version

    job = submit(dashboard, "python", "-m", "ray_jobs.train", *arguments, "--set", "train.epochz=1")
    assert job.returncode == 1
    assert "Did you mean epochs?" in job.stdout + job.stderr
