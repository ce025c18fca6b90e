"""GraphSAGE over co-engagement: a pin's vector from its own content and spectral vector and those of its neighbours.

Every layer adds to a pin's state what SAGEConv makes of it and of its neighbours' mean (weighted by the cosine of who
acted on them): nothing at first, so that training starts from the spectral vectors. It learns to tell pins that the
same person acted on from others: a softmax over the batch's ends of two-step walks pin, person, pin, with the
correction for how often a pin is such an end (its degree). The mean of all pins is taken off: what they share would be
the largest part of every dot product, and says nothing (LOG.md). What a pin without edges gets follows from its content
by the same layers, which is taught on pins that have edges: each must find its ends from its content alone, too.

Shape suffixes: U people, N catalogue, B walks, D columns of content, d width.
"""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcg.errors import ConfigError
from convcg.graph.config import SageConfig
from convcg.graph.engagement import degrees

_SMALL = 1e-12


def graphsage_vectors(
    acted_UN: sp.csr_matrix,
    edges_NN: sp.csr_matrix,
    start_Nd: NDArray[np.float32],
    content_ND: sp.csr_matrix,
    config: SageConfig,
    *,
    seed: int,
) -> NDArray[np.float32]:
    """[N, d] float32 vectors of all pins; zeros for a pin without edges and content.

    `acted_UN` and `edges_NN` are those of `convcg.graph.engagement`, `start_Nd` the spectral vectors, `content_ND` that
    of `convcg.graph.content`. The same seed on the same number of threads gives the same bits.

    Raises:
        ConfigError: the package `torch_geometric` is not installed.
    """
    edged_N = edges_NN.getnnz(axis=1) > 0
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(start_Nd.shape[1], content_ND.shape[1], config.layers)
    part = np.flatnonzero(edged_N)
    if len(part) > config.max_training_pins:
        part = np.sort(rng.choice(part, config.max_training_pins, replace=False))
    if len(part):
        _fit(network, _Graph(edges_NN[part][:, part], start_Nd[part], content_ND[part]), acted_UN[:, part], config, rng)
    with torch.no_grad():
        vector_Nd: NDArray[np.float32] = network(_Graph(edges_NN, start_Nd, content_ND)).numpy()
    if edged_N.any():
        vector_Nd -= vector_Nd[edged_N].mean(0)
    vector_Nd[~edged_N & (content_ND.getnnz(axis=1) == 0)] = 0.0
    return vector_Nd


class _Graph:
    """Pins as tensors: start [N, d], content [N, D] and adjacency [N, N], whose rows add up to one."""

    def __init__(self, edges_NN: sp.csr_matrix, start_Nd: NDArray[np.float32], content_ND: sp.csr_matrix) -> None:
        total_N = np.asarray(edges_NN.sum(axis=1)).ravel()
        self.adjacency = _sparse(sp.diags_array(1 / np.maximum(total_N, _SMALL)) @ edges_NN)
        # A pin without edges is a community of its own: its spectral vector says nothing of others.
        self.start = torch.from_numpy(start_Nd * (edges_NN.getnnz(axis=1) > 0)[:, None].astype(np.float32))
        self.content = _sparse(content_ND)
        self.has_content = torch.from_numpy(content_ND.getnnz(axis=1) > 0)
        self._content_ND = content_ND

    def without_edges(self, rows: Tensor) -> "_Graph":
        """Some of the pins as if nobody had acted on them."""
        content = self._content_ND[rows.numpy()]
        nothing = sp.csr_matrix((len(rows), len(rows)), dtype=np.float32)
        return _Graph(nothing, np.zeros((len(rows), self.start.shape[1]), np.float32), content)


def _sparse(matrix: sp.csr_matrix) -> Tensor:
    rows = sp.csr_matrix(matrix, dtype=np.float32)
    rows.sum_duplicates()  # sorts them, too
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(rows.indptr.astype(np.int64)),
            torch.from_numpy(rows.indices.astype(np.int64)),
            torch.from_numpy(rows.data),
            size=rows.shape,
            check_invariants=True,
        )


class _Network(nn.Module):
    """A stack of SAGEConv, each with a skip connection. The one that follows it starts at zero."""

    def __init__(self, dim: int, content_width: int, num_layers: int) -> None:
        super().__init__()
        convolution = sage_convolution()
        self.content = nn.Parameter(torch.randn(content_width, dim) * (0.1 / dim**0.5))
        self.layers = nn.ModuleList(convolution(dim, dim, aggr="sum") for _ in range(num_layers))
        self.mix = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(num_layers))
        for layer in self.mix:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)

    def forward(self, graph: _Graph) -> Tensor:
        """[N, d]."""
        state_Nd = graph.start
        if len(self.content):
            state_Nd = state_Nd + graph.content @ self.content
        for layer, mix in zip(self.layers, self.mix, strict=True):
            state_Nd = state_Nd + mix(torch.tanh(layer(state_Nd, graph.adjacency)))
        return state_Nd


def sage_convolution() -> Any:
    """PyTorch Geometric's layer.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its own use of torch
            from torch_geometric.nn import SAGEConv
    except ImportError as error:
        raise ConfigError(
            f"graph.kind = graphsage needs the package torch_geometric ({error}). Install the extra: "
            "pip install 'convcg[graph]'."
        ) from error
    return SAGEConv


class _Walks:
    """Walks from a pin to a person who acted on it and on to a pin of theirs; a pin is an end by its degree."""

    def __init__(self, acted_UN: sp.csr_matrix) -> None:
        self._acted_UN = acted_UN
        self._person = np.repeat(np.arange(acted_UN.shape[0]), np.diff(acted_UN.indptr))

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Both ends ([B] int64 each) of `count` walks but for those that end where they began."""
        acted = self._acted_UN
        first = rng.integers(acted.nnz, size=count)
        person = self._person[first]
        second = acted.indptr[person] + (rng.random(count) * np.diff(acted.indptr)[person]).astype(np.int64)
        start, end = acted.indices[first].astype(np.int64), acted.indices[second].astype(np.int64)
        return torch.from_numpy(start[start != end]), torch.from_numpy(end[start != end])


def _fit(
    network: _Network, graph: _Graph, acted_UN: sp.csr_matrix, config: SageConfig, rng: np.random.Generator
) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=config.steps)
    walks = _Walks(acted_UN)
    degree_N = degrees(acted_UN)
    log_share_N = torch.from_numpy(np.log(np.maximum(degree_N, 1) / degree_N.sum()).astype(np.float32))
    for _ in range(config.steps):
        start, end = walks.draw(config.batch_size, rng)
        vector_Nd = network(graph)
        centre_d = vector_Nd.mean(0)
        vector_Nd = vector_Nd - centre_d
        loss = _loss(vector_Nd[start], vector_Nd[end], start, end, log_share_N, config.temperature)
        told = graph.has_content[start]
        if told.any():
            start, end = start[told], end[told]
            pins, place = torch.unique(start, return_inverse=True)
            alone_Pd = network(graph.without_edges(pins)) - centre_d.detach()
            to_Bd = vector_Nd.detach()[end]  # nothing is to be learned of the pins that have edges here
            loss = loss + _loss(alone_Pd[place], to_Bd, start, end, log_share_N, config.temperature)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _loss(
    start_Bd: Tensor, end_Bd: Tensor, start: Tensor, end: Tensor, log_share_N: Tensor, temperature: float
) -> Tensor:
    """Softmax cross-entropy of each start over the batch's ends. Other walks' ends that are its own end or itself do
    not count against it.
    """
    logits_BB = start_Bd @ end_Bd.T / temperature - log_share_N[end]
    masked = (end[None, :] == end[:, None]) | (end[None, :] == start[:, None])
    masked.fill_diagonal_(False)
    return nn.functional.cross_entropy(logits_BB.masked_fill(masked, float("-inf")), torch.arange(len(end)))
