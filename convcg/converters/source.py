"""Where a log lies: the files of a format, found below what the user named, or an error that says what was found."""

from convcg.errors import DataError, StorageError
from convcg.storage import Location, exists, list_files

_COMPRESSED = ".gz"
_NAMES_SHOWN = 8


def files_ending(source: Location, suffix: str) -> list[Location]:
    """The file itself, or every file below a directory whose name ends in `suffix` or `suffix`.gz, sorted by path.

    Raises:
        DataError: there is none.
        StorageError: nothing is there.
    """
    found = list_files(source)
    wanted = [file for file in found if file.name.endswith((suffix, suffix + _COMPRESSED))]
    if not wanted:
        raise DataError(
            f"{source.uri}: expected a file that ends in {suffix} or {suffix}{_COMPRESSED}; {_shown(found)}."
        )
    return wanted


def optional_file(source: Location, name: str) -> Location | None:
    """The file `name`, or `name`.gz, right below a directory; None where neither is there."""
    return next((each for each in (source / name, source / f"{name}{_COMPRESSED}") if exists(each)), None)


def required_file(source: Location, *names: str) -> Location:
    """The first of `names` (or it with .gz) that lies right below a directory.

    Raises:
        DataError: none of them does; the message says what does.
        StorageError: nothing is there at all.
    """
    for name in names:
        if found := optional_file(source, name):
            return found
    raise DataError(f"{source.uri}: expected a directory with {' or '.join(names)}; {_shown(list_files(source))}.")


def unreadable(file: Location, error: Exception) -> StorageError:
    """The error for a file that the filesystem, or its decompression, cannot read."""
    return StorageError(f"cannot read {file.uri}: {error}. Check that the file is whole.")


def _shown(files: list[Location]) -> str:
    if not files:
        return "found no file"
    names = [file.name for file in files[:_NAMES_SHOWN]]
    return "found " + ", ".join(names) + (", ..." if len(files) > _NAMES_SHOWN else "")
