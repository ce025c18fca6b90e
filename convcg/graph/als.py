"""Pin factors of implicit matrix factorisation by alternating least squares.

Shape suffixes: U people, N catalogue, d width.
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from convcg.errors import ConfigError
from convcg.graph.config import AlsConfig
from convcg.graph.engagement import degrees


def als_vectors(acted_UN: sp.csr_matrix, config: AlsConfig, *, dim: int, seed: int) -> NDArray[np.float32]:
    """[N, dim] float32; zeros for a pin that nobody acted on.

    Raises:
        ConfigError: the package `implicit` is not installed.
    """
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ConfigError(
            f"graph.kind = als needs the package implicit ({error}). Install the extra: pip install 'convcg[eval]'."
        ) from error
    vector_Nd = np.zeros((acted_UN.shape[1], dim), np.float32)
    if acted_UN.nnz == 0:
        return vector_Nd
    with threadpool_limits(1, "blas"):  # implicit runs a thread a core itself, and warns of threads inside of threads
        model = AlternatingLeastSquares(
            factors=dim,
            alpha=config.alpha,
            iterations=config.iterations,
            regularization=config.regularization,
            random_state=seed,
        )
        model.fit(acted_UN, show_progress=False)
    there_N = degrees(acted_UN) > 0
    vector_Nd[there_N] = np.asarray(model.item_factors)[there_N]
    return vector_Nd
