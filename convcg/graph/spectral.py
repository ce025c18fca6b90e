"""Spectral vectors: pins that the same people act on lie close together.

The leading right singular vectors V of the person x pin matrix, normalised on both sides by the root of its degrees,
each scaled by the root of its singular value: V s^.5 (measured in LOG.md). One is added to every degree (Chaudhuri,
Chung, Tsiatas 2012): without it a person who acted on a single pin that nobody else acted on makes a leading direction
of their own.

Shape suffixes: U people, N catalogue, d width.
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from convcg.graph.engagement import degrees


def spectral_vectors(acted_UN: sp.csr_matrix, *, dim: int, seed: int) -> NDArray[np.float32]:
    """[N, dim] float32; zeros for a pin that nobody acted on.

    `acted_UN` is that of `convcg.graph.engagement.person_by_pin`. Fewer people or pins than `dim` span fewer
    directions: the last columns are then zero.
    """
    num_directions = min(dim, min(acted_UN.shape) - 1)  # what the Lanczos iteration can find
    vector_Nd = np.zeros((acted_UN.shape[1], dim), np.float32)
    if num_directions < 1 or acted_UN.nnz == 0:
        return vector_Nd
    by_person, by_pin = (sp.diags_array(_root_inverse(acted_UN.getnnz(axis=axis))) for axis in (1, 0))
    normalised = (by_person @ acted_UN @ by_pin).astype(np.float64)
    start = np.random.default_rng(seed).standard_normal(min(acted_UN.shape))
    _, values, components = svds(normalised, k=num_directions, v0=start)
    vector_Nd[:, :num_directions] = components.T * np.sqrt(values)
    vector_Nd[degrees(acted_UN) == 0] = 0.0  # rounding errors
    return vector_Nd


def _root_inverse(degree: NDArray[np.integer]) -> NDArray[np.float64]:
    inverse: NDArray[np.float64] = 1.0 / np.sqrt(degree + 1.0)
    return inverse
