"""Pins similar to those in the history, by who acted on both."""

import numpy as np
import scipy.sparse as sp

from convcg.baselines.interface import Histories, Scores, TrainingLog
from convcg.graph.engagement import cosines


class ItemItem:
    """The cosine between the columns of the person x pin matrix of all actions, summed over the history.

    Each pin keeps its `num_neighbours` most similar ones (None: all).
    """

    def __init__(self, log: TrainingLog, *, num_neighbours: int | None) -> None:
        weights = log.matrix().tocsc()
        norm = np.sqrt(np.asarray(weights.multiply(weights).sum(0)).ravel())
        self._similarity = cosines(weights @ sp.diags(1 / np.maximum(norm, 1e-12)), num_neighbours)

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`."""
        weight_BN = histories.matrix(self._similarity.shape[0])
        scores: Scores = (weight_BN @ self._similarity).toarray()
        return scores
