"""Implicit-feedback matrix factorisation, from the `implicit` library."""

from typing import Any

import numpy as np

from convcg.baselines.interface import Histories, Scores, TrainingLog
from convcg.errors import ConfigError


class Als:
    """Weighted matrix factorisation by alternating least squares (Hu, Koren & Volinsky, 2008).

    A query's factors are folded in from its history: one least-squares solution against the factors of the pins.

    Raises:
        ConfigError: the library is not installed.
    """

    def __init__(
        self, log: TrainingLog, *, factors: int = 128, alpha: float = 5.0, iterations: int = 15, seed: int = 0
    ) -> None:
        try:
            from implicit.cpu.als import AlternatingLeastSquares
            from threadpoolctl import threadpool_limits
        except ImportError as error:
            raise ConfigError(
                f"evaluate.baselines names 'als', which needs the library implicit ({error}). "
                "Install convcg[eval], or take it out."
            ) from error
        self._num_pins = log.num_pins
        # The library has threads of its own: those of BLAS beside them slow it down, and it warns of them.
        self._limits: Any = threadpool_limits
        with self._limits(1, "blas"):
            self._model: Any = AlternatingLeastSquares(
                factors=factors, alpha=alpha, iterations=iterations, random_state=seed
            )
            self._model.fit(log.matrix(), show_progress=False)

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`."""
        with self._limits(1, "blas"):
            factors_Bf = self._model.recalculate_user(np.arange(len(histories)), histories.matrix(self._num_pins))
        scores: Scores = factors_Bf @ self._model.item_factors.T
        return scores
