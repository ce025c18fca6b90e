"""Validation during training: exact recall of the towers as they are, on held-out queries, without an index."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from convcg.data import prepared
from convcg.data.encode import PinEncoder, encode_queries
from convcg.data.prepared import Prepared
from convcg.data.split import DAY
from convcg.features import FeatureShape
from convcg.metrics import rank_among_all, recall_at
from convcg.model.two_tower import TwoTower

#: Queries scored against the whole catalogue at once.
_BATCH = 512
_K = 100


class Validation:
    """The first `limit` validation queries of a fixed random order, held in memory.

    Counts of pins are as of the end of the training time, as the index will have them.
    """

    def __init__(self, data: Prepared, pins: PinEncoder, *, limit: int) -> None:
        table = data.queries(prepared.VALIDATION)
        order = np.random.default_rng(0).permutation(table.num_rows)[:limit]
        self._queries = table.take(pa.array(order)).combine_chunks()
        self._features: Sequence[FeatureShape] = data.encoders().shapes.user
        self._pins = pins
        self._counts = pins.all_counts(data.summary().times.train // DAY)

    def __len__(self) -> int:
        return int(self._queries.num_rows)

    def recall(self, towers: TwoTower) -> float:
        """recall@100 over the whole catalogue, pins that were bought before left out; 0 without queries."""
        was_training = towers.training
        towers.eval()
        scores = scorer(towers, self._pins, self._counts, self._features)
        ranks = []
        for start in range(0, len(self), _BATCH):
            queries = self._queries.slice(start, _BATCH)
            ranks.append(rank_among_all(scores(queries), queries["target"].to_numpy(), lists(queries["purchased"])))
        towers.train(was_training)
        return recall_at(np.concatenate(ranks), _K) if ranks else 0.0


@torch.inference_mode()
def scorer(
    towers: TwoTower, pins: PinEncoder, counts_NC: Tensor | None, features: Sequence[FeatureShape]
) -> Callable[[pa.Table], NDArray[np.float32]]:
    """What gives every pin a score ([B, N] float32) for a table of queries. The catalogue is embedded here, once, with
    its counts of a day (`PinEncoder.all_counts`); the towers must be in eval mode.
    """
    device = towers.log_temperature.device
    catalogue = pins.all().to(device)
    inputs_ND = towers.pin.inputs(catalogue)
    seen_ND = towers.pin.seen(inputs_ND, catalogue.rows)
    pin_Nd = towers.pin(inputs_ND, None if counts_NC is None else counts_NC.to(device))

    @torch.inference_mode()
    def scores(queries: pa.Table) -> NDArray[np.float32]:
        query_Bd = towers.query(encode_queries(queries, features).to(device), seen_ND)
        score_BN: NDArray[np.float32] = (query_Bd @ pin_Nd.T).cpu().numpy()
        return score_BN

    return scores


def lists(column: pa.ChunkedArray) -> list[NDArray[Any]]:
    """An Arrow column of integer lists as one array a row."""
    flat = pc.list_flatten(column).to_numpy()
    ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
    return np.split(flat, ends[:-1]) if len(ends) else []
