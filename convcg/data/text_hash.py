"""A 63-bit hash of strings, for a whole column at once, the same in every process and version.

Ids that only group rows (requests, events, the partition of a user) are carried as hashes: they take eight bytes, and
two ids of one person are confused about once in 10^18 pairs.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

#: Stands for null.
NO_HASH = -1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def text_hash(strings: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """[rows] int64, 0 or more; `NO_HASH` for null.

    Over the UTF-8 bytes b: h = 1, then h = h M + b mod 2^64 for each, M = 0x9E3779B97F4A7C15; then mixed as in `mixed`
    and halved.
    """
    array = strings.combine_chunks() if isinstance(strings, pa.ChunkedArray) else strings
    array = array.cast(pa.large_binary())
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    start, length = offsets[:-1], np.diff(offsets)
    content = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    hashed = np.ones(len(array), np.uint64)
    for place in range(int(length.max(initial=0))):
        # Ids are mostly of one length: then nothing has to be picked.
        more = slice(None) if (length > place).all() else np.flatnonzero(length > place)
        hashed[more] = hashed[more] * _MULTIPLIER + content[start[more] + place]
    result = (mixed(hashed) >> np.uint64(1)).astype(np.int64)
    result[np.asarray(pc.is_null(array))] = NO_HASH
    return result


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every input bit reaches every output bit: x ^= x >> 32; x *= 0xD6E8FEB86659FD93; x ^= x >> 32, mod 2^64."""
    values = values ^ (values >> _HALF)
    values = values * _MIX
    return values ^ (values >> _HALF)
