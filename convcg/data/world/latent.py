"""The latent space of the built-in world: unit vectors, its named directions, and where random numbers come from.

Nothing here may differ with the number of threads or processes, so vectors are multiplied by `numpy.einsum`, which
works on one thread, and not by BLAS, whose last bits depend on how many it uses.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcg.data.world.config import WorldConfig

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.floating[Any]]
Seconds = NDArray[np.float64]

CATEGORIES = ("lamps", "rugs", "sneakers", "dresses", "watches", "chairs", "tents", "mugs", "plants", "headphones")
STYLES = ("rustic", "minimal", "vintage", "bold", "pastel", "sporty", "luxury", "cozy")


class Stream(IntEnum):
    """The independent sources of randomness: a knob that changes one stage leaves the others' draws alone."""

    WORDS = 0
    CATALOGUE = 1
    VIEWS = 2
    FOREST = 3
    TASTES = 4
    PEOPLE = 5
    REQUESTS = 6
    POLICY = 7
    BROWSING = 8
    BUYING = 9
    REPORTS = 10
    ORACLE = 11


def stream(config: WorldConfig, kind: Stream, number: int = 0) -> np.random.Generator:
    """The random numbers of one stage, in one block of users where it works by blocks."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(int(kind), number)))


def unit(vectors: Floats) -> Floats:
    """Vectors scaled to length 1 along the last axis."""
    length = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))
    scaled: Floats = vectors / np.maximum(length, np.float32(1e-12))[..., None]
    return scaled


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    """Standard normal draws, float32."""
    return rng.standard_normal(shape, dtype=np.float32)


def astray(vectors: Floats, noise: float, rng: np.random.Generator) -> Floats:
    """Unit vectors that differ from the given ones, [row, ..., dim], by a step of length `noise` in any direction."""
    return unit(vectors + np.float32(noise) * unit(normal(rng, *vectors.shape)))


def gumbel(rng: np.random.Generator, *shape: int) -> Floats:
    """Gumbel draws, float32: the largest of score + draw falls on each row with probability ~ exp(score)."""
    waits = rng.standard_exponential(shape, dtype=np.float32)
    # float32 draws can be 0, whose logarithm is not finite.
    draws: Floats = -np.log(np.maximum(waits, np.float32(1e-30)))
    return draws


def dots(a: Floats, b: Floats) -> Floats:
    """The products of two lists of vectors, row by row: [row, dim] and [row, dim] to [row]."""
    products: Floats = np.einsum("nd,nd->n", a, b)
    return products


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The directions of the latent space that have names."""

    category: Floats  # [category, dim], unit length
    style: Floats  # [style, dim], unit length

    def category_of(self, latent: Floats) -> Ints:
        """The category nearest to each latent, [row, dim] to [row]."""
        nearest: Ints = np.argmax(np.einsum("nd,cd->nc", latent, self.category), axis=1)
        return nearest

    def style_of(self, latent: Floats) -> Ints:
        """The style nearest to each latent, [row, dim] to [row]."""
        nearest: Ints = np.argmax(np.einsum("nd,cd->nc", latent, self.style), axis=1)
        return nearest


def draw_words(config: WorldConfig) -> Words:
    """The named directions of this world."""
    rng = stream(config, Stream.WORDS)
    return Words(
        category=unit(normal(rng, len(CATEGORIES), config.vector_dim)),
        style=unit(normal(rng, len(STYLES), config.vector_dim)),
    )
