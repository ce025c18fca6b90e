"""Files on any pyarrow filesystem: a local path, `s3://bucket/key`, `gs://bucket/key`.

Everything that convcg publishes goes through here, so that a bundle behaves the same on a laptop and in a bucket.
A file appears whole or not at all: local files are renamed into place, object stores publish on close.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from convcg.errors import StorageError

_COPY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Location:
    """A path on a filesystem. `uri` is what the user wrote, and what messages show."""

    filesystem: pafs.FileSystem
    path: str
    uri: str

    def __truediv__(self, name: str) -> "Location":
        base, mark, query = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Location(self.filesystem, f"{self.path}/{name}", f"{base.rstrip('/')}/{name}{mark}{query}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        """Whether the path is on this machine's own filesystem, so that it can be memory-mapped."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)


def locate(uri: str | os.PathLike[str]) -> Location:
    """Resolve a local path or a `scheme://` URI.

    Raises:
        StorageError: the scheme is unknown or the URI cannot be parsed.
    """
    text = os.fspath(uri)
    if "://" not in text:
        path = str(Path(text).absolute())
        return Location(pafs.LocalFileSystem(), path, path)
    try:
        filesystem, path = pafs.FileSystem.from_uri(text)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StorageError(
            f"cannot use {text!r} as a location: {error}. Give a local path, s3://bucket/key or gs://bucket/key."
        ) from error
    return Location(filesystem, path.rstrip("/"), text)


def exists(location: Location) -> bool:
    """Whether a file or directory is there."""
    return bool(_info(location).type != pafs.FileType.NotFound)


def is_directory(location: Location) -> bool:
    """Whether a directory is there."""
    return bool(_info(location).type == pafs.FileType.Directory)


def _info(location: Location) -> pafs.FileInfo:
    try:
        return location.filesystem.get_file_info(location.path)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot look at {location.uri}: {error}") from error


def list_files(location: Location, *, suffix: str = "") -> list[Location]:
    """Every file under a directory, sorted by path; the file itself where `location` is one.

    Hidden files and files whose names start with `_` (other systems' markers) are left out.

    Raises:
        StorageError: nothing is there.
    """
    info = _info(location)
    if info.type == pafs.FileType.NotFound:
        raise StorageError(f"{location.uri} does not exist. Check the path.")
    if info.type == pafs.FileType.File:
        return [location]
    found = location.filesystem.get_file_info(pafs.FileSelector(location.path, recursive=True))
    names = sorted(
        entry.path[len(location.path) + 1 :]
        for entry in found
        if entry.type == pafs.FileType.File and entry.base_name.endswith(suffix)
    )
    return [location / name for name in names if not name.rsplit("/", 1)[-1].startswith((".", "_"))]


def list_directories(location: Location) -> list[Location]:
    """The directories right under a directory, sorted; none where nothing is there."""
    selector = pafs.FileSelector(location.path, allow_not_found=True)
    try:
        found = location.filesystem.get_file_info(selector)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot list {location.uri}: {error}") from error
    return [location / name for name in sorted(e.base_name for e in found if e.type == pafs.FileType.Directory)]


def read_bytes(location: Location) -> bytes:
    """The whole content of a file.

    Raises:
        StorageError: the file is missing or cannot be read.
    """
    try:
        with location.filesystem.open_input_stream(location.path) as stream:
            return bytes(stream.read())
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {location.uri}: {error}") from error


def write_bytes(location: Location, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Raises:
        StorageError: the file cannot be written (no space, no permission).
    """
    try:
        with _published(location) as path, location.filesystem.open_output_stream(path) as stream:
            stream.write(content)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot write {location.uri}: {error}") from error


@contextmanager
def _published(location: Location) -> Iterator[str]:
    """The path to write to so that `location` gets its new content whole, or keeps what it has."""
    if not location.is_local:
        yield location.path
        return
    part = Path(f"{location.path}.{uuid.uuid4().hex}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        yield str(part)
        part.replace(location.path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def copy_file(source: Location, target: Location) -> None:
    """Copy one file between any two filesystems, in bounded memory; a local target appears whole or not at all.

    Raises:
        StorageError: either side fails.
    """
    try:
        with _published(target) as path:
            pafs.copy_files(
                source.path,
                path,
                source_filesystem=source.filesystem,
                destination_filesystem=target.filesystem,
                chunk_size=_COPY_BYTES,
            )
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot copy {source.uri} to {target.uri}: {error}") from error


def delete_directory(location: Location) -> None:
    """Remove a directory and all that is in it; one that is not there is fine.

    Raises:
        StorageError: it cannot be removed.
    """
    if not exists(location):
        return
    try:
        location.filesystem.delete_dir(location.path)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot delete {location.uri}: {error}") from error


def sha256_of(location: Location) -> str:
    """The SHA-256 of a file's content, in hexadecimal, read in bounded memory.

    Raises:
        StorageError: the file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for block in _blocks(location):
        digest.update(block)
    return digest.hexdigest()


def _blocks(location: Location) -> Iterator[bytes]:
    try:
        with location.filesystem.open_input_stream(location.path) as stream:
            while block := stream.read(_COPY_BYTES):
                yield block
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {location.uri}: {error}") from error
