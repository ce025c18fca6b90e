"""Logging and progress: bars on a terminal, plain lines elsewhere.

Libraries log through `logging.getLogger(__name__)`; only an entry point calls `set_up`.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_SECONDS_BETWEEN_LINES = 10.0


def set_up(*, verbose: bool = False) -> None:
    """Send convcg's log to stderr; with `verbose` also its debug lines and other libraries' noise."""
    root = logging.getLogger()
    root.handlers[:] = [_handler()]
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for name in ("convcg", "ray_jobs", "serve_app", "__main__"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


def _handler() -> logging.Handler:
    if sys.stderr.isatty():
        return RichHandler(console=Console(stderr=True), show_path=False, markup=False)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
    return handler


class Meter:
    """Counts work that is done and shows it: call `advance` as often as convenient."""

    def __init__(self, title: str, total: int | None, bar: Progress | None) -> None:
        self._title, self._total, self._bar = title, total, bar
        self._done = 0
        self._started = self._last_line = time.monotonic()
        self._task = bar.add_task(title, total=total) if bar else None

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Add `count` finished units; `note` (a loss, a file name) stands beside them."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=f"{self._title} {note}".strip())
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._line(note)

    def _line(self, note: str) -> None:
        of = f"/{self._total}" if self._total is not None else ""
        seconds = time.monotonic() - self._started
        logging.getLogger("convcg").info("%s %d%s (%.0f s) %s", self._title, self._done, of, seconds, note)


@contextmanager
def progress(title: str, *, total: int | None = None) -> Iterator[Meter]:
    """Show how far `title` has come: a bar on a terminal, a line every ten seconds elsewhere."""
    if not sys.stderr.isatty():
        yield Meter(title, total, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Meter(title, total, bar)
