"""Implicit-feedback matrix factorisation, from the `implicit` library."""

import numpy as np

from convcg.baselines.interface import Histories, Scores, TrainingLog
from convcg.graph.als import fitted, one_blas_thread
from convcg.graph.config import AlsConfig

_CONFIG = AlsConfig(alpha=5.0, iterations=15, regularization=0.01)


class Als:
    """Weighted matrix factorisation by alternating least squares (Hu, Koren & Volinsky, 2008).

    A query's factors are folded in from its history: one least-squares solution against the factors of the pins.

    Raises:
        ConfigError: the library is not installed.
    """

    def __init__(self, log: TrainingLog, *, factors: int = 128, config: AlsConfig = _CONFIG, seed: int = 0) -> None:
        self._num_pins = log.num_pins
        self._model = fitted(log.matrix(), config, dim=factors, seed=seed, needed_by="'als' in evaluate.baselines")

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`."""
        with one_blas_thread():
            factors_Bf = self._model.recalculate_user(np.arange(len(histories)), histories.matrix(self._num_pins))
        scores: Scores = factors_Bf @ self._model.item_factors.T
        return scores
