"""What a checkpoint holds: weights of towers and loss, the optimizer's state, and the position in the data."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from convcg.errors import TrainingError
from convcg.model.objective import Objective

_CHECKPOINT_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands: what a checkpoint holds beside weights and optimizer. `batches` are those of this epoch."""

    epoch: int = 0
    batches: int = 0
    step: int = 0


def write_checkpoint(
    directory: Path, objective: Objective, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write weights (the towers' apart from the loss's own, which no bundle needs), optimizer and position."""
    _write(objective.towers.state_dict(), directory / "model.safetensors")
    _write(objective.own_state(), directory / "loss.safetensors")
    state = optimizer.state_dict()["state"]
    flat = {f"{index}.{name}": value for index, slots in state.items() for name, value in slots.items()}
    _write(flat, directory / "optimizer.safetensors")
    plain = {"checkpoint_version": _CHECKPOINT_VERSION, **asdict(progress)}
    (directory / "progress.json").write_text(json.dumps(plain))


def _write(tensors: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, file)


def read_progress(directory: Path) -> Progress:
    """Where a checkpoint stands.

    Raises:
        TrainingError: the checkpoint was written by another version of this program.
    """
    plain = json.loads((directory / "progress.json").read_text())
    if (version := plain.pop("checkpoint_version")) != _CHECKPOINT_VERSION:
        raise TrainingError(
            f"the checkpoint {directory} has version {version}; this program reads {_CHECKPOINT_VERSION}. "
            "Delete the run's directory to start again."
        )
    return Progress(**plain)


def read_checkpoint(directory: Path, objective: Objective, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's weights and optimizer in place.

    Raises:
        TrainingError: it is of another version, or of another model or loss.
    """
    progress = read_progress(directory)
    try:
        objective.towers.load_state_dict(load_file(directory / "model.safetensors"))
        objective.load_own_state(load_file(directory / "loss.safetensors"))
    except RuntimeError as error:
        raise TrainingError(f"the checkpoint {directory} does not fit this model: {error}") from error
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(directory / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return progress
