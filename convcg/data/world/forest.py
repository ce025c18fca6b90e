"""The pins near a point of the latent space, found in bounded time: a few trees, each split along random directions.

A tree halves the pins at every node, so that its leaves hold equally many and finding one costs a product a level. Near
pins may be on the other side of a split; several trees, of different splits, find most of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcg.data.world.latent import Floats, Ints, dots, normal, unit

NUM_TREES = 4
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """The trees. Node n of a tree has the children 2n + 1 and 2n + 2; the leaves follow the last level's nodes."""

    direction: Floats  # [tree, node, dim]
    threshold: Floats  # [tree, node]; at least this much along the direction goes to the second child
    leaf: NDArray[np.int32]  # [tree, leaf, pin]

    def near(self, points: Floats) -> Ints:
        """Pins near each point, [row, dim] to [row, found]; a pin that several trees find is there repeatedly."""
        found = []
        for direction, threshold, leaf in zip(self.direction, self.threshold, self.leaf, strict=True):
            node = np.zeros(len(points), np.int64)
            while len(threshold) and node.max(initial=0) < len(threshold):
                node = 2 * node + 1 + (dots(points, direction[node]) >= threshold[node])
            found.append(leaf[node - len(threshold)])
        return np.concatenate(found, axis=1).astype(np.int64)


def grow_forest(latent: Floats, *, max_found: int, rng: np.random.Generator) -> Forest:
    """Trees over the pins' latents, [pin, dim], as deep as it takes to find at most `max_found` pins."""
    num_pins, _ = latent.shape
    largest_leaf = max(1, max_found // NUM_TREES)
    depth = max(0, int(np.ceil(np.log2(num_pins / largest_leaf))))
    trees = [_grow(latent, depth, rng) for _ in range(NUM_TREES)]
    return Forest(
        direction=np.stack([tree.direction for tree in trees]),
        threshold=np.stack([tree.threshold for tree in trees]),
        leaf=np.stack([tree.leaf for tree in trees]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    direction: Floats
    threshold: Floats
    leaf: NDArray[np.int32]


def _grow(latent: Floats, depth: int, rng: np.random.Generator) -> _Tree:
    num_pins, dim = latent.shape
    # Some pins are there twice where their number cannot be halved so often.
    size = -(-num_pins // 2**depth) * 2**depth
    members = np.concatenate([rng.permutation(num_pins), rng.permutation(num_pins)[: size - num_pins]])[None, :]
    directions, thresholds = [normal(rng, 0, dim)], [np.zeros(0, np.float32)]
    for _ in range(depth):
        num_nodes, half = members.shape[0], members.shape[1] // 2
        ends = np.take_along_axis(members, rng.integers(members.shape[1], size=(num_nodes, 2)), axis=1)
        # Along the line between two of its pins a node is wide. The rest is for nodes that drew one pin twice.
        direction = unit(latent[ends[:, 0]] - latent[ends[:, 1]] + 1e-3 * normal(rng, num_nodes, dim))
        along = _along(latent, members, direction)
        order = np.argpartition(along, half, axis=1)
        members = np.take_along_axis(members, order, axis=1).reshape(2 * num_nodes, half)
        directions.append(direction)
        thresholds.append(np.take_along_axis(along, order[:, half : half + 1], axis=1)[:, 0])
    return _Tree(
        direction=np.concatenate(directions), threshold=np.concatenate(thresholds), leaf=members.astype(np.int32)
    )


def _along(latent: Floats, members: Ints, direction: Floats) -> Floats:
    """How far each member of each node, [node, member], lies along the node's direction, [node, dim]."""
    flat, per_node = members.ravel(), members.shape[1]
    parts = []
    for start in range(0, len(flat), _ROWS_AT_ONCE):
        pins = flat[start : start + _ROWS_AT_ONCE]
        node = np.arange(start, start + len(pins)) // per_node
        parts.append(dots(latent[pins], direction[node]))
    return np.concatenate(parts).reshape(members.shape)
