"""Bundles: what is sealed opens; what is damaged, missing or edited afterwards is refused by name; remote ones too."""

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buckets import bucket
from bundles import make_bundle

from convcg.bundle import (
    ENCODERS,
    MANIFEST,
    MODEL,
    PIN_INPUTS,
    PINS,
    USERS,
    Bundle,
    copy_bundle,
    read_manifest,
    seal,
    verify,
)
from convcg.config import RunConfig, override
from convcg.errors import BundleError, StorageError
from convcg.storage import locate, read_bytes, write_bytes

FILES = (MODEL, PINS, USERS, ENCODERS, PIN_INPUTS, "shards/00000.npy", "shards/00001.npy")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test changes."""
    return make_bundle(tmp_path_factory.mktemp("sealed") / "bundle", num_pins=50, num_users=10, num_shards=2, seed=1)


@pytest.fixture
def directory(sealed: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return Path(shutil.copytree(sealed, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with bucket() as uri:
        yield uri


@pytest.fixture
def remote(sealed: Path, s3: str) -> str:
    """The URI of a copy in a bucket."""
    uri = s3.replace("KEY", uuid.uuid4().hex)
    copy_bundle(locate(sealed), locate(uri), read_manifest(locate(sealed)))
    return uri


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_sealed_bundle_opens_with_all_that_it_holds(sealed: Path) -> None:
    bundle = Bundle.open(str(sealed))
    assert set(bundle.manifest.files) == set(FILES)
    assert (len(bundle.pins), len(bundle.users)) == (50, 10)
    assert bundle.pin_inputs().shape == (50, 16)
    vectors = np.concatenate([bundle.shard_vectors(shard) for shard in range(2)])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.ones(50), atol=1e-6)
    assert bundle.encoders().shapes.pin[0].size == 50
    assert {key.split(".")[0] for key in bundle.weights("pin")} == {"features", "layers"}
    assert bundle.weights("query")["history.empty"].shape == (16,)
    assert bundle.model_version == bundle.manifest.version_of_content()


def test_the_config_of_a_bundle_is_the_config_it_was_built_with(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    config = override(
        {}, ["evaluate.gate={100: 0.2, 20: 0.1, 1000: 0.5}", "features.pin=[{name: a, kind: id}]"], source=""
    )
    manifest = seal(tmp_path, config=config.model_dump(mode="json"), shards=())
    found = read_manifest(locate(tmp_path))
    assert found == manifest
    verify(locate(tmp_path), found)
    assert RunConfig.model_validate(found.config) == config


def test_the_same_content_has_the_same_version_wherever_it_is_made(sealed: Path, tmp_path: Path) -> None:
    again = make_bundle(tmp_path / "again", num_pins=50, num_users=10, num_shards=2, seed=1)
    assert (again / MANIFEST).read_bytes() == (sealed / MANIFEST).read_bytes()


@pytest.mark.parametrize("change", [{"seed": 2}, {"num_shards": 3}, {"sets": ["serve.port=9000"]}], ids=str)
def test_other_content_has_another_version(sealed: Path, tmp_path: Path, change: dict) -> None:
    usual = {"num_pins": 50, "num_users": 10, "num_shards": 2, "seed": 1}
    other = make_bundle(tmp_path / "other", **usual | change)
    assert read_manifest(locate(other)).model_version != read_manifest(locate(sealed)).model_version


def test_sealing_again_changes_nothing(directory: Path) -> None:
    before = read_manifest(locate(directory))
    assert seal(directory, config=before.config, shards=before.shards) == before


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_and_its_file_named(directory: Path, name: str) -> None:
    flip_last_byte(directory / name)
    with pytest.raises(BundleError, match=f"{name} is corrupt"):
        Bundle.open(str(directory))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        Bundle.open(str(directory))


def test_a_bundle_without_its_manifest_is_not_complete(directory: Path) -> None:
    (directory / MANIFEST).unlink()
    for place in (directory, directory / "nowhere"):
        with pytest.raises(BundleError, match=f"{place} is no complete bundle"):
            Bundle.open(str(place))


@pytest.mark.parametrize("content", ["", "[]", "{}", "no JSON", '{"format_version": 2, "files": 3}', "\xff"])
def test_what_is_no_manifest_is_named(directory: Path, content: str) -> None:
    (directory / MANIFEST).write_text(content, "latin-1")
    with pytest.raises(BundleError, match=f"{MANIFEST} is no bundle manifest"):
        Bundle.open(str(directory))


def test_another_format_version_is_refused_with_both_named(directory: Path) -> None:
    plain = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(plain | {"format_version": 7}))
    with pytest.raises(BundleError, match=r"format 7; this program reads format 2.*Build the bundle again"):
        Bundle.open(str(directory))


@pytest.mark.parametrize(
    "edit",
    [
        lambda plain: plain["config"]["history"].update(length=7),
        lambda plain: plain["shards"].reverse(),
        lambda plain: plain["files"].pop(USERS),
        lambda plain: plain.update(model_version="0123456789ab"),
    ],
    ids=["config", "shards", "files", "version"],
)
def test_a_manifest_that_was_edited_is_refused(directory: Path, edit) -> None:
    plain = json.loads((directory / MANIFEST).read_text())
    edit(plain)
    (directory / MANIFEST).write_text(json.dumps(plain))
    with pytest.raises(BundleError, match=f"{MANIFEST} is corrupt"):
        Bundle.open(str(directory))


def test_weights_that_cannot_be_read_are_named(directory: Path) -> None:
    (directory / MODEL).write_bytes(b"no weights")
    manifest = read_manifest(locate(directory))
    seal(directory, config=manifest.config, shards=manifest.shards)
    with pytest.raises(BundleError, match="cannot read the weights"):
        Bundle.open(str(directory)).weights("pin")


def test_a_remote_bundle_is_the_local_one(sealed: Path, remote: str, tmp_path: Path) -> None:
    local, copied = Bundle.open(str(sealed)), Bundle.open(remote, cache=tmp_path)
    assert copied.manifest == local.manifest
    assert copied.directory == tmp_path / local.model_version
    assert copied.pins.table == local.pins.table
    assert np.array_equal(copied.shard_vectors(1), local.shard_vectors(1))


def test_a_remote_bundle_is_copied_once_a_version(remote: str, tmp_path: Path) -> None:
    first = Bundle.open(remote, cache=tmp_path)
    for name in FILES:
        locate(remote).filesystem.delete_file((locate(remote) / name).path)
    assert Bundle.open(remote, cache=tmp_path).directory == first.directory


@pytest.mark.parametrize("damage", ["no manifest", "no file", "flipped bit"])
def test_a_damaged_copy_is_made_again(remote: str, tmp_path: Path, damage: str) -> None:
    directory = Bundle.open(remote, cache=tmp_path).directory
    if damage == "flipped bit":
        flip_last_byte(directory / PINS)
    else:
        (directory / {"no manifest": MANIFEST, "no file": PINS}[damage]).unlink()
    assert len(Bundle.open(remote, cache=tmp_path).pins) == 50


def test_a_damaged_remote_bundle_is_refused_until_it_is_mended(remote: str, tmp_path: Path) -> None:
    pins = locate(remote) / PINS
    content = read_bytes(pins)
    write_bytes(pins, content[:-1])
    with pytest.raises(BundleError, match=f"{PINS} is corrupt"):
        Bundle.open(remote, cache=tmp_path)
    write_bytes(pins, content)
    assert len(Bundle.open(remote, cache=tmp_path).pins) == 50


def test_a_copy_that_fails_is_not_visible_as_a_bundle(sealed: Path, directory: Path, s3: str) -> None:
    (directory / USERS).unlink()
    target = locate(s3.replace("KEY", uuid.uuid4().hex))
    with pytest.raises(StorageError, match=USERS):
        copy_bundle(locate(directory), target, read_manifest(locate(sealed)))
    with pytest.raises(BundleError, match="no complete bundle"):
        read_manifest(target)
