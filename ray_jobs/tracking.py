"""Where training metrics go: a JSONL file in the run's directory, W&B (offline without a key), and the screen."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from convcg.log import progress

METRICS_FILE = "metrics.jsonl"
_SECONDS_BETWEEN_LOOKS = 1.0


class Tracker:
    """Writes each step's metrics once: after a resume, lines of steps that are done again are dropped first."""

    def __init__(self, directory: Path, *, run_id: str, config: Mapping[str, Any], from_step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / METRICS_FILE
        kept = [line for line in _lines(self._path) if line["step"] <= from_step]
        if from_step:
            kept.append({"step": from_step, "resumed_from_step": from_step})
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "convcg"),
            id=run_id,
            resume="allow",
            config=dict(config),
            dir=str(directory),
            mode=_mode(),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a step in both places."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flush everything."""
        self._run.finish()


def _mode() -> Any:
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


def _lines(path: Path) -> list[dict[str, Any]]:
    """The metrics of a file; the half line that a killed process leaves is dropped."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


@contextmanager
def followed(directory: Path, *, total_steps: int) -> Iterator[None]:
    """While the body runs, show how far the training that writes metrics to `directory` has come."""
    over = threading.Event()

    def follow() -> None:
        seen = 0
        with progress("training step", total=total_steps) as meter:
            while not over.wait(_SECONDS_BETWEEN_LOOKS):
                lines = [line for line in _lines(directory / METRICS_FILE) if "loss" in line]
                if lines and (step := int(lines[-1]["step"])) > seen:
                    speed = f"{lines[-1]['examples_per_second']:.0f} examples/s"
                    meter.advance(step - seen, note=f"loss {lines[-1]['loss']:.3f}, {speed}")
                    seen = step

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
