"""Pins that people went on to, from the pins that they came from: co-visitation, with a direction."""

import numpy as np
import scipy.sparse as sp

from convcg.baselines.interface import WEIGHT_BY_CODE, Histories, Scores, TrainingLog

#: How many of a person's next actions count as following one.
_STEPS = 5
#: A history action counts half as much as one that comes so many actions later.
_HALF_LIFE = 10.0


class CoVisitation:
    """From each pin of the history, the share of what followed it that fell on each other pin.

    What follows is a person's next `_STEPS` actions on other pins; each counts with its action's weight over how many
    steps away it is. A history's pins count with their action's weight, recent ones more.
    """

    def __init__(self, log: TrainingLog) -> None:
        shape = (log.num_pins, log.num_pins)
        followed = sp.csr_matrix(shape, dtype=np.float32)
        for table in log.tables():
            user, pin = table["user"].to_numpy(), table["pin"].to_numpy()
            weight = WEIGHT_BY_CODE[table["action"].to_numpy()]
            for step in range(1, _STEPS + 1):
                counted = (user[:-step] == user[step:]) & (pin[:-step] != pin[step:])
                ends = pin[:-step][counted], pin[step:][counted]
                followed = followed + sp.csr_matrix((weight[step:][counted] / np.float32(step), ends), shape=shape)
        total = np.asarray(followed.sum(1)).ravel()
        inverse = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
        self._share = (sp.diags(inverse) @ followed).tocsr().astype(np.float32)

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`."""
        query, pins, actions, later = histories.flat()
        weight = (WEIGHT_BY_CODE[actions] * 0.5 ** (later / _HALF_LIFE)).astype(np.float32)
        shape = (len(histories), self._share.shape[0])
        weight_BN = sp.csr_matrix((weight, (query, pins)), shape=shape)
        scores: Scores = (weight_BN @ self._share).toarray()
        return scores
