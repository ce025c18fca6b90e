"""Channels: what is current changes at once or not at all, the last versions stay, and a rollback finds them."""

from pathlib import Path

import pytest
from buckets import bucket
from bundles import make_bundle

from convcg.bundle import Bundle, read_manifest
from convcg.channel import current_bundle, publish, published, rollback
from convcg.errors import BundleError
from convcg.storage import Location, list_directories, locate


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Location]:
    root = tmp_path_factory.mktemp("bundles")
    return [
        locate(make_bundle(root / str(seed), num_pins=20, num_users=5, num_shards=2, seed=seed)) for seed in range(3)
    ]


@pytest.fixture
def channel(tmp_path: Path) -> Location:
    return locate(tmp_path / "channel")


def version_of(bundle: Location) -> str:
    return read_manifest(bundle).model_version


def test_the_last_published_bundle_is_current_and_complete(bundles: list[Location], channel: Location) -> None:
    for bundle in bundles[:2]:
        assert publish(bundle, channel, keep=3) == version_of(bundle)
        assert Bundle.open(current_bundle(channel).uri).model_version == version_of(bundle)


def test_only_the_last_versions_are_kept(bundles: list[Location], channel: Location) -> None:
    for bundle in bundles:
        publish(bundle, channel, keep=2)
    kept = [version_of(bundle) for bundle in (bundles[2], bundles[1])]
    assert list(published(channel).versions) == kept
    assert {directory.name for directory in list_directories(channel / "bundles")} == set(kept)


def test_publishing_the_current_version_again_changes_nothing(bundles: list[Location], channel: Location) -> None:
    publish(bundles[0], channel, keep=3)
    publish(bundles[1], channel, keep=3)
    before = published(channel)
    publish(bundles[1], channel, keep=3)
    assert published(channel) == before


def test_rollback_returns_to_the_version_before(bundles: list[Location], channel: Location) -> None:
    for bundle in bundles[:2]:
        publish(bundle, channel, keep=3)
    assert rollback(channel) == version_of(bundles[0])
    assert Bundle.open(current_bundle(channel).uri).model_version == version_of(bundles[0])
    with pytest.raises(BundleError, match="none to go back to"):
        rollback(channel)


def test_a_corrupt_bundle_leaves_the_channel_as_it_was(
    bundles: list[Location], channel: Location, tmp_path: Path
) -> None:
    publish(bundles[0], channel, keep=3)
    broken = make_bundle(tmp_path / "broken", num_pins=20, num_users=5, num_shards=2, seed=9)
    weights = broken / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match="model.safetensors is corrupt"):
        publish(locate(broken), channel, keep=3)
    assert published(channel).versions == (version_of(bundles[0]),)
    assert len(list_directories(channel / "bundles")) == 1


def test_publishing_again_mends_a_damaged_copy(bundles: list[Location], channel: Location) -> None:
    version = publish(bundles[0], channel, keep=3)
    Path((channel / "bundles" / version / "model.safetensors").path).write_bytes(b"damaged")
    publish(bundles[0], channel, keep=3)
    assert Bundle.open(current_bundle(channel).uri).model_version == version


def test_an_empty_channel_says_what_to_do(channel: Location) -> None:
    with pytest.raises(BundleError, match="Run the publish stage first"):
        current_bundle(channel)


def test_a_channel_in_a_bucket(bundles: list[Location], tmp_path: Path) -> None:
    with bucket() as key:
        channel = locate(key.replace("KEY", "channel"))
        for bundle in bundles:
            publish(bundle, channel, keep=2)
        assert rollback(channel) == version_of(bundles[1])
        opened = Bundle.open(current_bundle(channel).uri, cache=tmp_path)
        assert opened.model_version == version_of(bundles[1])
        assert len(list_directories(channel / "bundles")) == 2
