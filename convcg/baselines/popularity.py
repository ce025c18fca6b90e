"""The same pins for everybody: those bought most often in all the training time, or lately."""

import numpy as np

from convcg.baselines.interface import Histories, Scores, TrainingLog
from convcg.data.split import DAY
from convcg.types import ACTION_CODE, CONVERSIONS, Action

#: What counts as lately.
RECENT_DAYS = 7


class Popularity:
    """The pins most often checked out in the training time."""

    def __init__(self, log: TrainingLog) -> None:
        self._count = log.counts([ACTION_CODE[Action.CHECKOUT]])

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`."""
        return np.tile(self._count, (len(histories), 1))


class RecentPopularity(Popularity):
    """The pins most often put into a cart or checked out in the last `RECENT_DAYS` days of the training time."""

    def __init__(self, log: TrainingLog) -> None:
        codes = [ACTION_CODE[action] for action in CONVERSIONS]
        self._count = log.counts(codes, since=log.until - RECENT_DAYS * DAY)
