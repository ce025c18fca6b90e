"""A channel: a directory or bucket prefix that holds published bundles and says which one is current.

    <channel>/current.json            the current version, and those before it, newest first
    <channel>/bundles/<version>/...   the bundles

`current.json` is replaced as a whole after a bundle is complete, so that a reader finds the old bundle or the new one.
"""

import json
from dataclasses import dataclass

from convcg.bundle import MANIFEST, Manifest, copy_bundle, read_manifest, verify
from convcg.errors import BundleError
from convcg.storage import Location, delete_directory, exists, is_directory, list_directories, read_bytes, write_bytes

_CURRENT = "current.json"
_BUNDLES = "bundles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a channel holds: versions, newest first; the first one is current."""

    versions: tuple[str, ...]


def is_channel(location: Location) -> bool:
    """Whether something was published there."""
    return exists(location / _CURRENT)


def published(channel: Location) -> Published:
    """The versions of a channel; none where nothing was published yet.

    Raises:
        BundleError: `current.json` cannot be read.
    """
    if not is_channel(channel):
        return Published(versions=())
    try:
        return Published(versions=tuple(json.loads(read_bytes(channel / _CURRENT))["versions"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{(channel / _CURRENT).uri} is no channel state ({error!r}). Publish again into an empty channel."
        ) from error


def current_bundle(channel: Location) -> Location:
    """Where the current bundle of a channel lies.

    Raises:
        BundleError: nothing is published there.
    """
    versions = published(channel).versions
    if not versions:
        raise BundleError(f"nothing is published in {channel.uri}. Run the publish stage first.")
    return channel / _BUNDLES / versions[0]


def publish(bundle: Location, channel: Location, *, keep: int) -> str:
    """Copy a bundle into a channel, verify the copy, make it current, and keep the last `keep` versions.

    Returns the version. Publishing the current version again changes nothing.

    Raises:
        BundleError: the bundle is incomplete or corrupt; the channel is then as it was.
    """
    manifest = read_manifest(bundle)
    verify(bundle, manifest)
    version = manifest.model_version
    earlier = [other for other in published(channel).versions if other != version]
    target = channel / _BUNDLES / version
    if not _is_intact(target, manifest):  # nothing there yet, or what an interrupted or damaged copy left
        copy_bundle(bundle, target, manifest)
        verify(target, manifest)
    kept = [version, *earlier][:keep]
    _write(channel, kept)
    _prune(channel, kept)
    return version


def _is_intact(bundle: Location, manifest: Manifest) -> bool:
    try:
        verify(bundle, manifest)
    except BundleError:
        return False
    return exists(bundle / MANIFEST)


def rollback(channel: Location) -> str:
    """Make the version before the current one current; returns it.

    Raises:
        BundleError: there is no earlier version.
    """
    versions = published(channel).versions
    if len(versions) < 2:
        raise BundleError(f"{channel.uri} holds {len(versions)} version(s); there is none to go back to.")
    previous = channel / _BUNDLES / versions[1]
    verify(previous, read_manifest(previous))
    _write(channel, list(versions[1:]))
    return versions[1]


def _write(channel: Location, versions: list[str]) -> None:
    write_bytes(channel / _CURRENT, json.dumps({"versions": versions}, indent=1).encode())


def _prune(channel: Location, kept: list[str]) -> None:
    if not is_directory(channel / _BUNDLES):
        return
    for directory in list_directories(channel / _BUNDLES):
        if directory.name not in kept:
            delete_directory(directory)
