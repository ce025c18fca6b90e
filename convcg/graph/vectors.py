"""What the graph stage leaves, and what a model must know of it.

Shape suffixes: N catalogue, d width of a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from convcg.data.tables import single_chunk, write_table
from convcg.errors import ConfigError, DataError, StorageError
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.storage import Location, exists, read_bytes, write_bytes

_AGAIN = "Run the graph stage again."
#: Shorter vectors are rounding errors of zero.
_NO_LENGTH = 1e-6
#: What errors call the setting that makes vectors the start of pins.
START = "model.pin_start = graph"


@dataclass(frozen=True, slots=True)
class GraphVectors:
    """A vector for each pin, in row order.

    vector_Nd: [N, d] float32, of mean length 1 over the pins that have one; zeros for a pin of which nothing is known.
    degree_N: [N] int64, how many people acted on the pin in the training time.
    """

    vector_Nd: NDArray[np.float32]
    degree_N: NDArray[np.int64]

    @property
    def dim(self) -> int:
        """d."""
        return int(self.vector_Nd.shape[1])

    def write(self, location: Location) -> None:
        """One Arrow file, a row a pin: vector (fixed_size_list<float32>), degree (int64)."""
        vector = pa.FixedSizeListArray.from_arrays(pa.array(self.vector_Nd.ravel()), self.dim)
        write_table(pa.table({"vector": vector, "degree": self.degree_N}), location)

    @classmethod
    def read(cls, location: Location, *, num_pins: int | None = None) -> "GraphVectors | None":
        """What `write` or `write_none` left; None for the latter.

        Raises:
            StorageError: the stage has not run.
            DataError: the file is damaged, or of another number of pins than `num_pins`.
        """
        if not exists(location):
            raise StorageError(f"{location.uri} does not exist. Run the graph stage first.")
        if location.filesystem.get_file_info(location.path).size == 0:
            return None
        try:
            source = pa.memory_map(location.path) if location.is_local else pa.py_buffer(read_bytes(location))
            table = pa.ipc.open_file(source).read_all()
            vector = single_chunk(table["vector"])
            # Copies: tensors must be writable.
            vector_Nd = np.array(vector.flatten()).reshape(len(vector), vector.type.list_size)
            degree_N = table["degree"].to_numpy().copy()
        except (OSError, KeyError, AttributeError, pa.ArrowException) as error:
            raise DataError(f"cannot read {location.uri}: {error}. {_AGAIN}") from error
        if num_pins is not None and len(degree_N) != num_pins:
            raise DataError(f"{location.uri} holds the vectors of {len(degree_N)} pins, there are {num_pins}. {_AGAIN}")
        return cls(vector_Nd, degree_N)


def write_none(location: Location) -> None:
    """Leave an empty file: the stage has run, and there are no vectors."""
    write_bytes(location, b"")


def are_there(vector_Nd: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[N] bool: which vectors are not zero, rounding errors aside."""
    length_N = np.linalg.norm(vector_Nd, axis=1)
    there_N: NDArray[np.bool_] = length_N > _NO_LENGTH * length_N.max(initial=0.0)
    return there_N


def unit_mean_length(vector_Nd: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, d] float32: all vectors divided by the mean length of those that are not zero."""
    there_N = are_there(vector_Nd)
    if not there_N.any():
        return vector_Nd
    scaled_Nd = vector_Nd / np.linalg.norm(vector_Nd[there_N], axis=1).mean()
    return np.where(there_N[:, None], scaled_Nd, np.float32(0))


def completed(shapes: FeatureShapes, graph: GraphVectors | None) -> FeatureShapes:
    """The shapes with the length of the graph's vectors, which `prepare` cannot know.

    Raises:
        ConfigError: a feature is of kind graph, and there are no such vectors.
    """
    return replace(shapes, pin=tuple(_completed(shapes.pin, graph)))


def _completed(shapes: Sequence[FeatureShape], graph: GraphVectors | None) -> list[FeatureShape]:
    done = []
    for shape in shapes:
        if shape.kind is Kind.GRAPH:
            wanted = required(graph, by=f"The feature {shape.name!r} of kind graph")
            shape = replace(shape, size=wanted.dim)
        done.append(shape)
    return done


def required(graph: GraphVectors | None, *, by: str) -> GraphVectors:
    """The vectors, where there are some; `by` says in the error what needs them.

    Raises:
        ConfigError: `graph.kind` is none.
    """
    if graph is None:
        raise without_vectors(by=by)
    return graph


def without_vectors(*, by: str) -> ConfigError:
    """The error that `by` needs vectors, and there are none."""
    return ConfigError(f"{by} needs vectors of pins, but graph.kind is none. Set graph.kind to spectral, or drop it.")


def start_of_pins(graph: GraphVectors | None, *, dim: int) -> GraphVectors:
    """The vectors that pins of width `dim` start from.

    Raises:
        ConfigError: there are none, or they have another length.
    """
    start = required(graph, by=START)
    check_start(start.dim, pin_dim=dim)
    return start


def check_start(dim: int, *, pin_dim: int) -> None:
    """Pins can start from vectors of their own width alone.

    Raises:
        ConfigError: the vectors have another.
    """
    if dim != pin_dim:
        raise ConfigError(
            f"{START} needs vectors as long as the pins' own: graph.dim is {dim}, the pins' is {pin_dim}. Set "
            f"graph.dim to {pin_dim}."
        )
