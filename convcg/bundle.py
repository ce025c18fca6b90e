"""The bundle: the one artefact that training writes and serving reads.

    <bundle>/
      model.safetensors     weights of both towers, under query. and pin.
      encoders.json         how feature columns become codes and numbers
      pins.arrow            the pin table
      users.arrow           the user table: history, purchases and features as of the end of the training time
      pin_inputs.npy        [N, D] float32: what the query tower reads of the pins in a history
      shards/00000.npy      [n, d] float32 embeddings of a contiguous range of pins; 00001.npy, ...
      manifest.json         format and model version, resolved config, and the hash of every file above

The manifest is written last, so that a half-written bundle is never visible. `model_version` is a hash of all content:
query tower, pin embeddings and index carry one version because they are one version. No pickle anywhere.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from convcg.data.feature_encoders import Encoders
from convcg.data.tables import RowTable
from convcg.errors import BundleError, StorageError
from convcg.storage import Location, copy_file, exists, list_files, locate, read_bytes, sha256_of, write_bytes

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
MODEL = "model.safetensors"
PINS = "pins.arrow"
USERS = "users.arrow"
ENCODERS = "encoders.json"
PIN_INPUTS = "pin_inputs.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself. `files` maps each file's relative path to its SHA-256."""

    model_version: str
    config: Mapping[str, Any]
    shards: tuple[str, ...]
    files: Mapping[str, str]

    def version_of_content(self) -> str:
        """What `model_version` must be for this config, these shards and these file hashes."""
        content = {"config": dict(self.config), "shards": list(self.shards), "files": dict(self.files)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def to_bytes(self) -> bytes:
        """Readable JSON."""
        plain = {
            "format_version": FORMAT_VERSION,
            "model_version": self.model_version,
            "config": dict(self.config),
            "shards": list(self.shards),
            "files": dict(self.files),
        }
        return json.dumps(plain, indent=1).encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, uri: str) -> "Manifest":
        """Parse a manifest.

        Raises:
            BundleError: it is no manifest, or of a format version that this program does not read.
        """
        try:
            plain = json.loads(content)
            version = plain["format_version"]
            if version != FORMAT_VERSION:
                raise BundleError(
                    f"{uri} has bundle format {version}; this program reads format {FORMAT_VERSION}. "
                    "Build the bundle again, or install the version of convcg that wrote it."
                )
            return cls(
                model_version=plain["model_version"],
                config=plain["config"],
                shards=tuple(plain["shards"]),
                files=plain["files"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{uri} is no bundle manifest ({error!r}). Build the bundle again.") from error


def read_manifest(bundle: Location) -> Manifest:
    """The manifest of a bundle anywhere.

    Raises:
        BundleError: there is no complete bundle.
    """
    if not exists(bundle / MANIFEST):
        raise BundleError(
            f"{bundle.uri} is no complete bundle: it has no {MANIFEST}. Check the path, or run the index stage again."
        )
    return Manifest.from_bytes(read_bytes(bundle / MANIFEST), uri=(bundle / MANIFEST).uri)


def seal(directory: Path, *, config: Mapping[str, Any], shards: tuple[str, ...]) -> Manifest:
    """Hash every file of a local directory and write the manifest that makes it a bundle.

    The version depends on the content alone: the same bytes have the same version wherever and whenever they were made.
    """
    location = locate(directory)
    names = [file.path[len(location.path) + 1 :] for file in list_files(location)]
    files = {name: sha256_of(location / name) for name in names if name != MANIFEST}
    unversioned = Manifest(model_version="", config=config, shards=shards, files=files)
    manifest = replace(unversioned, model_version=unversioned.version_of_content())
    write_bytes(location / MANIFEST, manifest.to_bytes())
    return manifest


def verify(bundle: Location, manifest: Manifest) -> None:
    """Read every file of a bundle and compare it with the manifest.

    Raises:
        BundleError: a file is missing or its content is not what was written.
    """
    if manifest.version_of_content() != manifest.model_version:
        raise BundleError(f"bundle {bundle.uri}: {MANIFEST} is corrupt (it does not match its version). Copy it again.")
    for name, expected in manifest.files.items():
        try:
            found = sha256_of(bundle / name)
        except StorageError as error:
            raise BundleError(f"bundle {bundle.uri} lacks {name}, which its manifest lists. Copy it again.") from error
        if found != expected:
            raise BundleError(
                f"bundle {bundle.uri}: {name} is corrupt (sha256 {found[:12]}..., the manifest says "
                f"{expected[:12]}...). Copy or build it again."
            )


def copy_bundle(source: Location, target: Location, manifest: Manifest) -> None:
    """Copy a bundle between any two filesystems, its manifest last."""
    for name in manifest.files:
        copy_file(source / name, target / name)
    write_bytes(target / MANIFEST, manifest.to_bytes())


def _cached(remote: Location, manifest: Manifest, cache: Path) -> Location:
    """A verified local copy of a remote bundle; one that an earlier process left incomplete or damaged is replaced."""
    local = locate(cache / manifest.model_version)
    if exists(local / MANIFEST):
        with suppress(BundleError):
            verify(local, manifest)
            return local
    copy_bundle(remote, local, manifest)
    verify(local, manifest)
    return local


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle on local disk, memory-mapped."""

    directory: Path
    manifest: Manifest
    pins: RowTable
    users: RowTable

    @classmethod
    def open(cls, uri: str, *, cache: Path | None = None) -> "Bundle":
        """Verify and map a bundle; one on remote storage is copied into `cache` first, once a version.

        Raises:
            BundleError: the bundle is missing, incomplete, corrupt or of another format.
        """
        location = locate(uri)
        manifest = read_manifest(location)
        if location.is_local:
            verify(location, manifest)
        else:
            location = _cached(location, manifest, cache or Path(tempfile.gettempdir()) / "convcg-bundles")
        directory = Path(location.path)
        return cls(
            directory=directory,
            manifest=manifest,
            pins=RowTable.open(location / PINS),
            users=RowTable.open(location / USERS),
        )

    @property
    def model_version(self) -> str:
        """The version that every answer from this bundle carries."""
        return self.manifest.model_version

    def encoders(self) -> Encoders:
        """How feature columns become codes and numbers."""
        return Encoders.from_bytes((self.directory / ENCODERS).read_bytes())

    def weights(self, tower: str) -> dict[str, torch.Tensor]:
        """The state of one tower, "query" or "pin".

        Raises:
            BundleError: the weights cannot be read.
        """
        try:
            with safe_open(self.directory / MODEL, framework="pt") as file:
                prefix = f"{tower}."
                return {key[len(prefix) :]: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BundleError(
                f"cannot read the weights in {self.directory}: {error}. Build the bundle again."
            ) from error

    def pin_inputs(self) -> NDArray[np.float32]:
        """[N, D] float32, memory-mapped: what the query tower reads of a pin."""
        inputs: NDArray[np.float32] = np.load(self.directory / PIN_INPUTS, mmap_mode="r", allow_pickle=False)
        return inputs

    def shard_vectors(self, shard: int) -> NDArray[np.float32]:
        """[n, d] float32 embeddings of one shard's pins, memory-mapped."""
        vectors: NDArray[np.float32] = np.load(
            self.directory / self.manifest.shards[shard], mmap_mode="r", allow_pickle=False
        )
        return vectors
