"""A worker process that dies in the middle of `prepare`: the run goes on, and writes the same."""

import os
import signal
from pathlib import Path

import pytest
from processes import start, wait_for

from convcg.data.prepared import CARD, CARD_PAGE

pytestmark = pytest.mark.slow

ARGUMENTS = ["prepare", "--recipe", "demo", "--set", "data.task_memory_mb=16"]


def workers_below(parent: int) -> list[int]:
    """The Ray worker processes among a process's descendants that are at work."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
    found, below = [], [parent]
    while below:
        above = below.pop()
        children = [pid for pid, of in parents.items() if of == above]
        below += children
        found += [pid for pid in children if b"of_units" in titles.get(pid, b"")]
    return found


def files_of(workdir: Path) -> dict[str, bytes]:
    prepared = workdir / "prepared"
    return {
        str(path.relative_to(prepared)): path.read_bytes()
        for path in prepared.rglob("*")
        if path.is_file() and path.name not in (CARD, CARD_PAGE)  # these hold the time of writing
    }


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    disturbed = start(*ARGUMENTS, "--workdir", str(tmp_path / "disturbed"), output=output)
    killed: list[int] = []

    def killed_some() -> bool:
        if not (tmp_path / "disturbed" / "prepared" / "unfinished" / "spilled").exists():
            return False
        for pid in workers_below(disturbed.pid):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return len(killed) >= 2

    wait_for(killed_some, disturbed, seconds=180)
    assert disturbed.wait(timeout=300) == 0, output.read_text()
    assert start(*ARGUMENTS, "--workdir", str(tmp_path / "calm"), output=output).wait(timeout=300) == 0
    assert files_of(tmp_path / "disturbed") == files_of(tmp_path / "calm")
