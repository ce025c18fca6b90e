"""The built-in world by Ray Data: the same bytes as from one process, and the verb."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from convcg.data.world import WorldConfig, write_world
from ray_jobs import world

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*.parquet")}


def test_many_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    config = WorldConfig(num_users=500, num_pins=2000, num_advertisers=60, num_days=7, users_per_block=64)
    serial = write_world(config, str(tmp_path / "serial"))
    parallel = world.generate(config, str(tmp_path / "parallel"))
    assert contents(tmp_path / "parallel") == contents(tmp_path / "serial")
    assert len(contents(tmp_path / "parallel")) == 1 + 2 * 8
    assert parallel.actions == serial.actions
    assert parallel.num_events == serial.num_events


def test_the_verb_writes_the_recipes_world_into_the_workdir(tmp_path: Path) -> None:
    size = ["--set", "world.num_users=120", "--set", "world.users_per_block=50"]
    assert world.main(["--recipe", "smoke", "--workdir", str(tmp_path), *size]) == 0
    assert pq.read_table(tmp_path / "world" / "users").num_rows == 120
    assert len(list((tmp_path / "world" / "events").glob("part-*.parquet"))) == 3


def test_a_disk_that_fills_while_blocks_are_written_is_one_message(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--set", "world.num_users=4000", "--set", "world.users_per_block=1000"]
    assert world.main(["--recipe", "smoke", "--workdir", str(small_disk), *size]) == 1
    error = capsys.readouterr().err
    assert (small_disk / "world" / "pins.parquet").exists()  # so that it was a worker that met the error
    assert "error: cannot write" in error
    assert "No space left on device" in error
    assert "Traceback" not in error


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "world").write_text("a file where the directory must go")
    assert world.main(["--recipe", "smoke", "--workdir", str(tmp_path)]) == 1
    assert "error: cannot" in capsys.readouterr().err
