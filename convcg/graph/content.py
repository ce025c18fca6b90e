"""What pins are apart from who acted on them, and the vectors that follow from it alone.

Shape suffixes: N catalogue, D columns of content, d width.
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray
from torch import Tensor

from convcg.batch import PADDING
from convcg.data.encode import PinEncoder
from convcg.data.tables import RowTable
from convcg.features import UNKNOWN_CODE, FeatureShape, Kind

#: The kinds that say something of a pin which nobody has acted on.
KINDS = (Kind.CATEGORY, Kind.BAG, Kind.NUMBER, Kind.VECTOR)
#: Features with more values share columns: a value's code modulo this.
_MAX_COLUMNS = 1024
#: The penalties that are tried. A value that n pins share is believed to n / (n + penalty).
_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
#: Every so many pins are held out to choose the penalty.
_HELD_OUT = 10


def content_shapes(shapes: Sequence[FeatureShape]) -> tuple[FeatureShape, ...]:
    """Those of the features that are content."""
    return tuple(shape for shape in shapes if shape.kind in KINDS)


def content_matrix(pins: RowTable, shapes: Sequence[FeatureShape]) -> sp.csr_matrix:
    """[N, D] float32: one-hot values, means of bags, standardised numbers and vectors. A row of a pin with none of
    them (all unknown or missing) is empty.
    """
    content = content_shapes(shapes)
    features = PinEncoder(pins, content).all().features
    blocks = [_columns(features[shape.name], shape) for shape in content]
    empty = sp.csr_matrix((len(pins), 0), dtype=np.float32)
    matrix = sp.hstack([empty, *blocks], format="csr", dtype=np.float32)
    matrix.eliminate_zeros()
    return matrix


def has_content(content_ND: sp.csr_matrix) -> NDArray[np.bool_]:
    """[N] bool: whether anything is known of a pin."""
    return np.asarray(content_ND.getnnz(axis=1) > 0)


def _columns(feature: Tensor, shape: FeatureShape) -> sp.csr_matrix:
    values = feature.numpy()
    if shape.kind in (Kind.CATEGORY, Kind.BAG):
        return _one_hot(values.reshape(len(values), -1), shape.size)
    if shape.kind is Kind.NUMBER:
        return sp.csr_matrix(values[:, :1])  # 0, the mean, where it is missing
    return sp.csr_matrix(np.nan_to_num(values[:, : shape.size]))


def _one_hot(codes: NDArray[np.int64], size: int) -> sp.csr_matrix:
    """The mean of the indicator vectors of each row's known codes."""
    row, place = np.nonzero((codes != PADDING) & (codes != UNKNOWN_CODE))
    width = min(size, _MAX_COLUMNS)
    share = 1 / np.maximum(np.bincount(row, minlength=len(codes)), 1)
    return sp.csr_matrix((share[row], (row, codes[row, place] % width)), shape=(len(codes), width), dtype=np.float32)


def from_content(
    vector_Nd: NDArray[np.float32], content_ND: sp.csr_matrix, known_N: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """[N, d] float32: the vectors of the known pins (`known_N`, [N] bool) as they are; those of the others by ridge
    regression on content from the known ones; zeros where there is no content.

    The penalty is the one of `_PENALTIES` that predicts held-out pins best, by the mean cosine.
    """
    with_content_N = has_content(content_ND)
    teach, wanted = np.flatnonzero(known_N & with_content_N), np.flatnonzero(~known_N & with_content_N)
    filled_Nd = np.where(known_N[:, None], vector_Nd, np.float32(0))
    if len(teach) == 0 or len(wanted) == 0:
        return filled_Nd
    held_out = np.arange(len(teach)) % _HELD_OUT == _HELD_OUT - 1
    penalty = _PENALTIES[len(_PENALTIES) // 2]
    if held_out.any():
        fit, check = teach[~held_out], teach[held_out]
        weights = _ridge(content_ND[fit], vector_Nd[fit], _PENALTIES)
        fits = [_mean_cosine(_times(content_ND[check], each), vector_Nd[check]) for each in weights]
        penalty = _PENALTIES[int(np.argmax(fits))]
    (weight,) = _ridge(content_ND[teach], vector_Nd[teach], (penalty,))
    filled_Nd[wanted] = _times(content_ND[wanted], weight)
    return filled_Nd


def _with_constant(content: sp.csr_matrix) -> sp.csr_matrix:
    return sp.hstack([content, np.ones((content.shape[0], 1), np.float32)], format="csr")


def _times(content: sp.csr_matrix, weight: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(_with_constant(content) @ weight, np.float32)


def _ridge(
    content: sp.csr_matrix, vector: NDArray[np.float32], penalties: Sequence[float]
) -> list[NDArray[np.float64]]:
    """For each penalty [D + 1, d] float64 weights; the last row, the constant, is not penalised."""
    design = _with_constant(content).astype(np.float64)
    gram = (design.T @ design).toarray()
    right = design.T @ vector.astype(np.float64)
    found = []
    for penalty in penalties:
        # A little for the constant, too: without it values that add up to it on every pin leave no single answer.
        diagonal = np.r_[np.full(content.shape[1], penalty), 1e-6]
        found.append(scipy.linalg.solve(gram + np.diag(diagonal), right, assume_a="pos"))
    return found


def _mean_cosine(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    product = (found * wanted).sum(1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0).mean())
