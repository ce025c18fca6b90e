"""A count-min sketch: how often each of very many keys was seen, in fixed memory, never too low.

Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch and its applications" (2005).
"""

import struct
import zlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcg.errors import DataError

_MAGIC = b"CMS1"
_HEADER = struct.Struct("<4sIIQI")  # magic, width, depth, seed, CRC-32 of the counts
_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)


class CountMin:
    """`depth` rows of `width` int64 counters; a key adds to one counter of each row, and its estimate is their minimum.

    estimate >= truth, always; estimate <= truth + (e / width) * total with a probability of at least 1 - e**-depth for
    each key, over the choice of the seed (Cormode and Muthukrishnan 2005, Theorem 1). Memory: 8 * width * depth bytes.
    Sketches of the same width, depth and seed hash alike in every process, and so can be merged.
    """

    def __init__(self, width: int, depth: int, seed: int) -> None:
        assert 0 < width < 1 << 32, f"width {width} must be at least 1 and below 2**32"
        assert 0 < depth < 1 << 32, f"depth {depth} must be at least 1 and below 2**32"
        assert 0 <= seed < 1 << 64, f"seed {seed} must be a 64-bit unsigned integer"
        self.width, self.depth, self.seed = width, depth, seed
        self._counts: NDArray[np.int64] = np.zeros((depth, width), np.int64)
        # Raw bits, because NumPy keeps their stream the same across versions, and stored sketches outlive a version.
        self._factors: NDArray[np.uint64] = np.random.PCG64(seed).random_raw(3 * depth).reshape(depth, 3)

    @property
    def total(self) -> int:
        """The sum of all that was added."""
        return int(self._counts[0].sum())

    def add(self, keys: NDArray[np.int64], counts: ArrayLike = 1) -> None:
        """Add `counts` (integers >= 0: one for all, or one for each key) to `keys` ([N] int64, repeats allowed)."""
        added = np.asarray(counts)
        assert np.issubdtype(added.dtype, np.integer), f"counts are {added.dtype}, must be integers"
        assert not (added < 0).any(), "counts must be 0 or more: an estimate is no upper bound otherwise"
        added = np.broadcast_to(added.astype(np.int64), keys.shape)
        for row, buckets in zip(self._counts, self._buckets(keys), strict=True):
            np.add.at(row, buckets, added)

    def estimate(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often each key was added, or more: [N] int64 for [N] int64."""
        lowest: NDArray[np.int64] = np.take_along_axis(self._counts, self._buckets(keys), axis=1).min(axis=0)
        return lowest

    def merge(self, other: "CountMin") -> None:
        """Add all that `other` has seen: the same as if it had been added here."""
        mine, theirs = (self.width, self.depth, self.seed), (other.width, other.depth, other.seed)
        assert mine == theirs, f"sketches of width, depth and seed {mine} and {theirs} cannot be merged"
        self._counts += other._counts

    def to_bytes(self) -> bytes:
        """The sketch as little-endian bytes, the same on every machine."""
        counts = self._counts.astype("<i8").tobytes()
        return _HEADER.pack(_MAGIC, self.width, self.depth, self.seed, zlib.crc32(counts)) + counts

    @classmethod
    def from_bytes(cls, content: bytes) -> "CountMin":
        """The sketch that `to_bytes` wrote.

        Raises:
            DataError: the bytes are no sketch, or were cut or changed.
        """
        header, counts = content[: _HEADER.size], content[_HEADER.size :]
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise DataError(f"{len(content)} bytes are no count-min sketch: they lack its header. Build it again.")
        _, width, depth, seed, checksum = _HEADER.unpack(header)
        if len(counts) != 8 * width * depth or not counts or zlib.crc32(counts) != checksum:
            raise DataError(
                f"a count-min sketch of {depth} x {width} counters is cut or changed: {len(counts)} bytes of counters, "
                f"must be {8 * width * depth} with the checksum {checksum:08x}. Build it again."
            )
        sketch = cls(width, depth, seed)
        sketch._counts = np.frombuffer(counts, "<i8").astype(np.int64).reshape(depth, width)
        return sketch

    def _buckets(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """[depth, N] counters of [N] keys.

        Pair-multiply-shift on the halves of a key is strongly universal onto 32 bits (Thorup, "High speed hashing for
        integers and strings", 2015, section 3.5); scaled to the width, two keys meet with a probability of at most
        1/width + 2**-32.
        """
        assert keys.dtype == np.int64, f"keys are {keys.dtype}, must be int64"
        bits = keys.view(np.uint64)
        by_high, by_low, shift = self._factors.T[:, :, None]
        hashed = (by_high * (bits >> _HALF) + by_low * (bits & _LOW) + shift) >> _HALF  # modulo 2**64, as it must be
        buckets: NDArray[np.int64] = ((hashed * np.uint64(self.width)) >> _HALF).astype(np.int64)
        return buckets
