"""The pin tower inside Ray Data's processes."""

import json
from functools import lru_cache

import pyarrow as pa
import torch
from safetensors.torch import load

from convcg.data.encode import PinEncoder
from convcg.data.prepared import Prepared
from convcg.data.split import DAY
from convcg.model.two_tower import ModelConfig, PinTower
from convcg.storage import locate, read_bytes


def embed_pins(block: pa.Table, *, prepared: str, weights: str, digest: str, model: str) -> pa.Table:
    """Row numbers (column `id`) to row, input and embedding ([dim] float32 lists), as of the end of the training time.

    `prepared` and `weights` are URIs, `digest` the hash of the weights' content, `model` a `ModelConfig` as JSON.
    """
    pins, day, tower, device = _loaded(prepared, weights, digest, model)
    rows = torch.from_numpy(block["id"].to_numpy().copy())
    counts = pins.counts(rows, day)
    with torch.inference_mode():
        inputs = tower.inputs(pins.batch(rows).to(device))
        embedding = tower(inputs, None if counts is None else counts.to(device))
    return pa.table({"row": block["id"], "input": _lists(inputs), "embedding": _lists(embedding)})


@lru_cache(maxsize=1)
def _loaded(prepared: str, weights: str, digest: str, model: str) -> tuple[PinEncoder, int, PinTower, str]:
    """Once a process, which Ray uses for many blocks; `digest` tells new content at an old path."""
    data = Prepared.open(locate(prepared))
    shapes = data.encoders().shapes
    tower = PinTower(ModelConfig.model_validate(json.loads(model)), shapes.pin)
    state = load(read_bytes(locate(weights)))
    tower.load_state_dict({key.removeprefix("pin."): state[key] for key in state if key.startswith("pin.")})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = PinEncoder(data.pins(), shapes.pin, data.pin_days())
    return encoder, data.summary().times.train // DAY, tower.to(device).eval(), device


def _lists(matrix: torch.Tensor) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.cpu().numpy().ravel()), matrix.shape[1])
