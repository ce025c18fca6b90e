"""Implicit matrix factorisation by alternating least squares, from the library `implicit`.

Shape suffixes: U people, N catalogue, d width.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from convcg.errors import ConfigError
from convcg.graph.config import AlsConfig
from convcg.graph.engagement import degrees


def als_vectors(acted_UN: sp.csr_matrix, config: AlsConfig, *, dim: int, seed: int) -> NDArray[np.float32]:
    """[N, dim] float32, the factors of pins; zeros for a pin that nobody acted on.

    Raises:
        ConfigError: the package `implicit` is not installed.
    """
    vector_Nd = np.zeros((acted_UN.shape[1], dim), np.float32)
    if acted_UN.nnz == 0:
        return vector_Nd
    model = fitted(acted_UN, config, dim=dim, seed=seed, needed_by="graph.kind = als")
    there_N = degrees(acted_UN) > 0
    vector_Nd[there_N] = np.asarray(model.item_factors)[there_N]
    return vector_Nd


def fitted(acted_UN: sp.csr_matrix, config: AlsConfig, *, dim: int, seed: int, needed_by: str) -> Any:
    """`implicit`'s model. `needed_by` says in the error what needs it.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError as error:
        raise ConfigError(
            f"{needed_by} needs the package implicit ({error}). Install the extra: pip install 'convcg[eval]'."
        ) from error
    with one_blas_thread():
        model = AlternatingLeastSquares(
            factors=dim,
            alpha=config.alpha,
            iterations=config.iterations,
            regularization=config.regularization,
            random_state=seed,
        )
        model.fit(acted_UN, show_progress=False)
    return model


def one_blas_thread() -> Any:
    """`implicit` runs a thread a core itself; BLAS threads inside of those slow it down, and it warns of them."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")
