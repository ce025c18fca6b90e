"""Files of lines, a block of whole lines at a time, with the number of the first one for error messages."""

from collections.abc import Iterator

import pyarrow as pa

from convcg.converters.source import unreadable
from convcg.storage import Location

_BLOCK_BYTES = 16 << 20


def line_blocks(file: Location, *, block_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Pairs of a line number, from 1, and the lines from there on as bytes; .gz is unpacked on the way.

    A block has about `block_bytes`, more where a single line is longer.

    Raises:
        StorageError: the file cannot be read.
    """
    number, rest = 1, b""
    try:
        with file.filesystem.open_input_stream(file.path) as stream:
            while read := stream.read(block_bytes):
                lines, mark, rest = (rest + read).rpartition(b"\n")
                if mark:
                    yield number, lines + mark
                    number += lines.count(b"\n") + 1
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from error
    if rest:
        yield number, rest
