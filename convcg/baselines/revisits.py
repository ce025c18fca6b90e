"""What one acted on before, the latest first: a purchase is often of a pin that was seen already."""

import numpy as np

from convcg.baselines.interface import Histories, Scores, TrainingLog
from convcg.types import ACTION_CODE, Action


class Revisits:
    """The pins of the history, the one acted on last first; after them the pins most often checked out."""

    def __init__(self, log: TrainingLog) -> None:
        count = log.counts([ACTION_CODE[Action.CHECKOUT]])
        self._below_one = (count / (count.max(initial=0) + 1)).astype(np.float32)

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`."""
        scores = np.tile(self._below_one, (len(histories), 1))
        query, pins, _, later = histories.flat()
        np.maximum.at(scores, (query, pins), 1 + (later.max(initial=0) - later).astype(np.float32))
        return scores
