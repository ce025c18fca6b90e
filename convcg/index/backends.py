"""The index backends behind one protocol: NumPy, the oracle that is always there, and FAISS, the default.

Shape suffixes: B queries, N pins of the shard, k results, d width.
"""

from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convcg.errors import ConfigError

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Distributions that install the same `faiss` package and overwrite each other.
_FAISS_DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12")


class BackendKind(StrEnum):
    """The supported backends."""

    NUMPY = "numpy"
    FAISS = "faiss"


class Backend(Protocol):
    """Finds the rows with the largest dot products."""

    def search(self, query_Bd: Float32, k: int, allowed_N: Mask | None) -> Int64:
        """[B, k] int64 rows, in no promised order, -1 where fewer than k are allowed.

        With `allowed_N` only rows marked True are returned. k = 0 is safe, k > N is cut to N.
        """
        ...


class NumpyBackend:
    """Brute force; what every other backend must agree with."""

    def __init__(self, vectors_Nd: Float32) -> None:
        self._vectors = vectors_Nd

    def search(self, query_Bd: Float32, k: int, allowed_N: Mask | None) -> Int64:
        """See `Backend`."""
        rows_M = np.arange(len(self._vectors)) if allowed_N is None else np.flatnonzero(allowed_N)
        score_BM = query_Bd @ self._vectors[rows_M].T
        width = min(k, len(rows_M))
        found = np.full((len(query_Bd), min(k, len(self._vectors))), -1, np.int64)
        if width:
            best = np.argpartition(-score_BM, width - 1, axis=1)[:, :width]
            found[:, :width] = rows_M[best]
        return found


class FaissBackend:
    """FAISS's exact inner-product index on the CPU; filters are bitmaps."""

    def __init__(self, vectors_Nd: Float32) -> None:
        self._faiss = _import_faiss()
        self._index = self._faiss.IndexFlatIP(vectors_Nd.shape[1])
        self._index.add(np.ascontiguousarray(vectors_Nd))

    def search(self, query_Bd: Float32, k: int, allowed_N: Mask | None) -> Int64:
        """See `Backend`."""
        k = min(k, self._index.ntotal)
        if k == 0:
            return np.full((len(query_Bd), 0), -1, np.int64)
        parameters = None
        if allowed_N is not None:
            bitmap = np.packbits(allowed_N, bitorder="little")
            selector = self._faiss.IDSelectorBitmap(bitmap)
            parameters = self._faiss.SearchParameters(sel=selector)
        _, found = self._index.search(query_Bd, k, params=parameters)
        rows: Int64 = found
        return rows


def create_backend(kind: BackendKind, vectors_Nd: Float32) -> Backend:
    """Build the backend of this kind over [N, d] float32 vectors.

    Raises:
        ConfigError: FAISS is asked for and not installed, or installed twice.
    """
    match kind:
        case BackendKind.NUMPY:
            return NumpyBackend(vectors_Nd)
        case BackendKind.FAISS:
            return FaissBackend(vectors_Nd)


def _import_faiss() -> Any:
    installed = [name for name in _FAISS_DISTRIBUTIONS if _is_installed(name)]
    if not installed:
        raise ConfigError("index.backend is 'faiss', but FAISS is not installed. Install 'convcg[cpu]', or set numpy.")
    if len(installed) > 1:
        raise ConfigError(
            f"{' and '.join(installed)} are both installed and overwrite each other. "
            "Uninstall all of them, then install one."
        )
    import faiss

    return faiss


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
