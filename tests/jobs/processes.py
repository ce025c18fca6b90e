"""Commands as processes of their own: what a user's shell, or a kill, would see."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def start(*arguments: str, output: Path) -> "subprocess.Popen[bytes]":
    """`convcg ARGUMENTS` in a session of its own; all that it prints goes to the end of `output`."""
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "convcg", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,
        )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL, as the kernel does when memory runs out."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", *, seconds: float) -> None:
    """Wait until `condition` holds while `process` runs.

    Raises:
        AssertionError: the process ended first, or the time is over.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended with {process.returncode} before the condition held"
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
        time.sleep(0.05)
