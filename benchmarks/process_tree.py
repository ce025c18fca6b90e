"""Run a command and measure all of its processes: wall time, CPU time, memory. Linux only, from `/proc`.

Ray's workers are children of its raylet, which does not wait for them, and a raylet outlives its driver for a moment:
`getrusage` of the command misses most of what it cost. So this process becomes the one that orphans fall to
(`PR_SET_CHILD_SUBREAPER`), every process that descends from it is the command's, and each one's own user and system
time is read every tenth of a second until all are gone. What a process used after its last reading is lost: less than
`INTERVAL` for each process. The kernel's own sum for what was waited for is a second lower bound; the larger counts.

Memory is the sum of the proportional set sizes (a page shared by n processes counts 1/n in each), which counts Ray's
shared object store once; sums between two readings are missed. Resident sets are read, too, as each process's own
high-water mark, kept by the kernel; the largest one is the least that the sum can have been.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL = 0.1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE = 10.0
_TICK = os.sysconf("SC_CLK_TCK")
#: The proportional set sizes are dear to read: at most this share of the time goes into them.
_MEMORY_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a command cost. Bytes and seconds; `resident` has the largest resident set of each kind of process."""

    returncode: int
    output: str
    wall: float
    cpu: float
    memory: int
    resident: dict[str, int]


@dataclass(slots=True)
class _Seen:
    """The last readings of every process, by (process id, start time), which together never return."""

    cpu: dict[tuple[int, int], float] = field(default_factory=dict)
    memory: int = 0
    resident: dict[str, int] = field(default_factory=dict)
    memory_due: float = 0.0


class _End:
    """The moment at which a process ended."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.time = 0.0

    def await_(self, pid: int) -> None:
        """Wait for a child without reaping it."""
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.time = time.monotonic()
        self.event.set()


def measure(command: Sequence[str], *, cores: int, log: Path, environment: dict[str, str] | None = None) -> Measured:
    """Run a command on the first `cores` cores with its output in the file `log`; returns when its last process ended.

    Processes that the command leaves behind are given `_GRACE` seconds and then killed. The caller must have no other
    children.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    own_cores = os.sched_getaffinity(0)
    waited = _waited_for()
    started = time.monotonic()
    os.sched_setaffinity(0, sorted(own_cores)[:cores])  # children inherit it
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
            )
    finally:
        os.sched_setaffinity(0, own_cores)
    seen, ended = _Seen(), _End()
    watch = threading.Thread(target=ended.await_, args=(process.pid,))
    watch.start()
    while True:
        over = ended.event.wait(INTERVAL)  # before the reading: a process that ended is read in full, being unreaped
        _read(seen)
        if over:
            process.wait()
        _reap_orphans(process.pid)
        left = list(_descendants())
        if over and not left:
            break
        if over and time.monotonic() > ended.time + _GRACE:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if over:
            time.sleep(INTERVAL)
    watch.join()
    return Measured(
        returncode=process.returncode,
        output=log.read_text(errors="replace"),
        wall=ended.time - started,
        cpu=max(sum(seen.cpu.values()), _waited_for() - waited),
        memory=max(seen.memory, max(seen.resident.values(), default=0)),
        resident=seen.resident,
    )


def _waited_for() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _read(seen: _Seen) -> None:
    """One reading of all processes. A process may end while it is read: then its last reading stays."""
    now = time.monotonic()
    memory, total = now >= seen.memory_due, 0
    for pid, stat in _descendants().items():
        seen.cpu[pid, int(stat[19])] = (int(stat[11]) + int(stat[12])) / _TICK
        try:
            kind = _kind(pid)
            seen.resident[kind] = max(seen.resident.get(kind, 0), _kilobytes(pid, "status", "VmHWM"))
            total += _kilobytes(pid, "smaps_rollup", "Pss") if memory else 0
        except (OSError, LookupError):
            continue
    if memory:
        seen.memory = max(seen.memory, total)
        seen.memory_due = now + max(INTERVAL, (time.monotonic() - now) / _MEMORY_SHARE)


def _descendants() -> dict[int, list[str]]:
    """All living processes that descend from this one, with the fields of `/proc/PID/stat` after the name."""
    found = dict(_all_processes())
    children: dict[int, list[int]] = {}
    for pid, stat in found.items():
        children.setdefault(int(stat[1]), []).append(pid)
    descendants, waiting = [], children.get(os.getpid(), [])
    while waiting:
        pid = waiting.pop()
        descendants.append(pid)
        waiting.extend(children.get(pid, []))
    return {pid: found[pid] for pid in descendants}


def _all_processes() -> Iterator[tuple[int, list[str]]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except OSError:
                continue
            yield int(name), text.rpartition(")")[2].split()


def _reap_orphans(command: int) -> None:
    """Wait for the dead that fell to this process, after they were read; the command itself is its Popen's."""
    for pid, stat in _descendants().items():
        if stat[0] == "Z" and int(stat[1]) == os.getpid() and pid != command:
            os.waitpid(pid, 0)


def _kind(pid: int) -> str:
    """What a process is: Ray's workers and actors name themselves `ray::...`."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    if words[0].startswith(b"ray::"):
        return "ray worker"
    return os.path.basename(words[0].decode(errors="replace")) or "ended"


def _kilobytes(pid: int, file: str, name: str) -> int:
    """A field of a file below `/proc/PID` that is given in kB, in bytes."""
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(name)
