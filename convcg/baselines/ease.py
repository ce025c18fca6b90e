"""EASE: a linear model from the pins of the history to every other pin, in closed form."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from convcg.baselines.interface import Histories, Scores, TrainingLog
from convcg.errors import ConfigError

#: The weights are a dense matrix of pins x pins: 1.6 GB at this many, and the work grows with the cube.
MAX_PINS = 20_000
_PINS_AT_ONCE = 1024


class Ease:
    """Embarrassingly shallow autoencoder (Steck, 2019, arXiv:1905.03375).

    With X the person x pin matrix, 1 for any action, and P = (X'X + lambda I)^-1, the weights are B = -P / diag(P)
    (each column by its own diagonal element), with a zero diagonal.

    Raises:
        ConfigError: the catalogue has more than `MAX_PINS` pins.
    """

    def __init__(self, log: TrainingLog, *, regularisation: float = 200.0) -> None:
        if log.num_pins > MAX_PINS:
            raise ConfigError(
                f"evaluate.baselines names 'ease', which inverts a matrix of pins x pins; the catalogue has "
                f"{log.num_pins} pins, and {MAX_PINS} is the most for it. Take it out."
            )
        weights = _gram(_binary(log.matrix()))
        weights[np.diag_indices_from(weights)] += np.float32(regularisation)
        # In Fortran's order LAPACK works in place: there is one copy of the matrix, not three.
        weights, failed = lapack.spotrf(weights, lower=1, overwrite_a=1)
        assert failed == 0, "a Gram matrix with a positive diagonal added is positive definite"
        weights, failed = lapack.spotri(weights, lower=1, overwrite_c=1)
        assert failed == 0, "what has a Cholesky factor has an inverse"
        _mirror(weights)
        weights /= -weights.diagonal().copy()
        np.fill_diagonal(weights, 0)
        self._weights = weights

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`."""
        scores: Scores = _binary(histories.matrix(len(self._weights))) @ self._weights
        return scores


def _binary(matrix: sp.csr_matrix) -> sp.csr_matrix:
    matrix.data[:] = 1
    return matrix


def _gram(matrix: sp.csr_matrix) -> Scores:
    """[N, N] float32 X'X in Fortran's order, some columns at a time: as a sparse matrix it would take more memory."""
    columns, gram = matrix.tocsc(), np.empty((matrix.shape[1],) * 2, np.float32, order="F")
    for some in _blocks(len(gram)):
        gram[:, some] = (columns.T @ columns[:, some]).toarray()
    return gram


def _mirror(lower: NDArray[np.float32]) -> None:
    """Complete a symmetric matrix of which only the lower triangle is there, in place."""
    for some in _blocks(len(lower)):
        lower[some, some.stop :] = lower[some.stop :, some].T
        corner = np.tril(lower[some, some])
        lower[some, some] = corner + np.tril(corner, -1).T


def _blocks(length: int) -> list[slice]:
    return [slice(start, min(start + _PINS_AT_ONCE, length)) for start in range(0, length, _PINS_AT_ONCE)]
