"""Vectors of pins from who engaged with them: pins that the same people act on lie close together.

The spectral form: the leading right singular vectors of the person x pin matrix, normalised on both sides by the root
of its degrees, each scaled by the root of its singular value, and each pin's by the root of its degree: what everybody
acts on says little about a person, so its vector is short (measured in LOG.md). From the events of the training time
alone.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

#: Shorter vectors are rounding errors of zero.
_NO_LENGTH = 1e-9


def spectral_vectors(interactions: Iterable[pa.Table], *, num_pins: int, dim: int, seed: int) -> NDArray[np.float32]:
    """[num_pins, dim] float32 vectors of mean length 1; zeros for a pin that nobody acted on.

    `interactions` are tables with the columns user (int32, distinct people within a table, and other people in another)
    and pin (int32 rows). Every action counts once a person and pin. Fewer people or pins than `dim` span fewer
    directions: the last columns are then zero.
    """
    blocks = [_person_by_pin(table, num_pins) for table in interactions]
    acted = sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix((0, num_pins), dtype=np.float32)
    num_directions = min(dim, min(acted.shape) - 1)  # what the Lanczos iteration can find
    if num_directions < 1:
        return np.zeros((num_pins, dim), np.float32)
    normalised = sp.diags(_root_inverse(acted.sum(1))) @ acted @ sp.diags(_root_inverse(acted.sum(0)))
    start = np.random.default_rng(seed).standard_normal(min(acted.shape))
    _, values, components = svds(normalised.astype(np.float64), k=num_directions, v0=start)
    scaled = components.T * np.sqrt(values) * _root_inverse(acted.sum(0))[:, None]
    length = np.linalg.norm(scaled, axis=1)
    there = length > _NO_LENGTH
    vectors_Nd = np.zeros((num_pins, dim), np.float32)
    vectors_Nd[there, :num_directions] = scaled[there] / length[there].mean()
    return vectors_Nd


def _person_by_pin(table: pa.Table, num_pins: int) -> sp.csr_matrix:
    user, pin = table["user"].to_numpy(), table["pin"].to_numpy()
    shape = (int(user.max(initial=-1)) + 1, num_pins)
    there = sp.csr_matrix((np.ones(len(user), np.float32), (user, pin)), shape=shape)
    there.data[:] = 1.0  # building it has added up what a person did with a pin
    return there


def _root_inverse(degrees: NDArray[np.floating]) -> NDArray[np.float64]:
    flat = np.asarray(degrees, np.float64).ravel()
    return np.divide(1.0, np.sqrt(flat), out=np.zeros_like(flat), where=flat > 0)
