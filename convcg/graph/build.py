"""The vectors of a config: from the edges where a pin has some, else from content.

Shape suffixes: U people, N catalogue, D columns of content, d width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from convcg.data.tables import RowTable
from convcg.errors import DataError
from convcg.features import FeatureShape
from convcg.graph.als import als_vectors
from convcg.graph.config import GraphConfig, GraphKind
from convcg.graph.content import content_matrix, from_content
from convcg.graph.engagement import degrees, neighbors, person_by_pin
from convcg.graph.graphsage import graphsage_vectors, sage_convolution
from convcg.graph.spectral import spectral_vectors
from convcg.graph.vectors import GraphVectors, are_there, unit_mean_length


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The vectors, and how many pins have theirs from the edges, from content alone, or none."""

    vectors: GraphVectors
    num_from_edges: int
    num_from_content: int
    num_without: int


def build(
    config: GraphConfig, interactions: Iterable[pa.Table], pins: RowTable, shapes: Sequence[FeatureShape]
) -> Built:
    """The vectors of all pins, from `convcg.data.prepared.Prepared.interactions` and the pins' own features.

    Raises:
        ConfigError: the kind needs a package that is not installed.
        DataError: nobody acted on anything.
    """
    acted_UN = person_by_pin(interactions, len(pins))
    if acted_UN.nnz == 0:
        raise DataError(
            "nobody acted on a pin in the training time, so that there is no graph. Set graph.kind to none, or check "
            "split and the events' actions."
        )
    vector_Nd, edged_N = _vectors(config, acted_UN, content_matrix(pins, shapes))
    vectors = GraphVectors(unit_mean_length(vector_Nd), degrees(acted_UN))
    there_N = are_there(vectors.vector_Nd)
    return Built(
        vectors=vectors,
        num_from_edges=int((there_N & edged_N).sum()),
        num_from_content=int((there_N & ~edged_N).sum()),
        num_without=int((~there_N).sum()),
    )


def _vectors(
    config: GraphConfig, acted_UN: sp.csr_matrix, content_ND: sp.csr_matrix
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The vectors of all pins, and [N] bool which of them have theirs from the edges."""
    if config.kind is GraphKind.GRAPHSAGE:
        sage_convolution()  # a missing package is said before minutes of work
    if config.kind is GraphKind.ALS:
        als_Nd = als_vectors(acted_UN, config.als, dim=config.dim, seed=config.seed)
        return from_content(als_Nd, content_ND, known_N=are_there(als_Nd)), are_there(als_Nd)
    spectral_Nd = spectral_vectors(acted_UN, dim=config.dim, seed=config.seed)
    if config.kind is GraphKind.SPECTRAL:
        return from_content(spectral_Nd, content_ND, known_N=are_there(spectral_Nd)), are_there(spectral_Nd)
    assert config.kind is GraphKind.GRAPHSAGE, "kind none has no vectors to build"
    edges_NN = neighbors(acted_UN, config.graphsage.num_neighbors)
    start_Nd = unit_mean_length(spectral_Nd)
    sage_Nd = graphsage_vectors(acted_UN, edges_NN, start_Nd, content_ND, config.graphsage, seed=config.seed)
    return sage_Nd, edges_NN.getnnz(axis=1) > 0
