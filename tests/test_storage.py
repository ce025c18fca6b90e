"""Files on a local disk and in a real S3 API: the same calls give the same results, and a file appears whole or not."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import bucket

from convcg.errors import StorageError
from convcg.storage import (
    Location,
    copy_file,
    delete_directory,
    exists,
    is_directory,
    list_files,
    locate,
    read_bytes,
    sha256_of,
    write_bytes,
)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with bucket() as uri:
        yield uri


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty directory, local and in a bucket."""
    if request.param == "local":
        return locate(tmp_path / "place")
    return locate(request.getfixturevalue("s3").replace("KEY", uuid.uuid4().hex))


def test_what_is_written_is_read(place: Location) -> None:
    file = place / "deep/down/file.bin"
    assert not exists(file)
    write_bytes(file, b"first")
    write_bytes(file, b"second")
    assert exists(file)
    assert read_bytes(file) == b"second"
    assert sha256_of(file) == hashlib.sha256(b"second").hexdigest()
    assert (file.name, is_directory(file), is_directory(place / "deep")) == ("file.bin", False, True)


def test_an_empty_file_is_a_file(place: Location) -> None:
    write_bytes(place / "empty", b"")
    assert read_bytes(place / "empty") == b""
    assert sha256_of(place / "empty") == hashlib.sha256().hexdigest()


def test_the_uri_of_a_part_leads_to_the_same_file(place: Location) -> None:
    write_bytes(place / "a" / "b.txt", b"here")
    assert read_bytes(locate((place / "a" / "b.txt").uri)) == b"here"
    assert read_bytes(locate((place / "a").uri) / "b.txt") == b"here"


def test_files_are_listed_by_path_without_hidden_ones(place: Location) -> None:
    for name in ("b/2.parquet", "b/1.parquet", "a.parquet", "_SUCCESS", ".crc", "b/_meta.parquet", "c.txt"):
        write_bytes(place / name, name.encode())
    listed = list_files(place, suffix=".parquet")
    assert [file.path.removeprefix(f"{place.path}/") for file in listed] == ["a.parquet", "b/1.parquet", "b/2.parquet"]
    assert [read_bytes(locate(file.uri)) for file in listed] == [b"a.parquet", b"b/1.parquet", b"b/2.parquet"]
    assert [file.name for file in list_files(place)] == ["a.parquet", "1.parquet", "2.parquet", "c.txt"]
    assert list_files(place / "c.txt") == [place / "c.txt"]


def test_a_directory_is_deleted_with_all_that_is_in_it_and_nothing_else(place: Location) -> None:
    for name in ("gone/1", "gone/deep/2", "gone2/3"):
        write_bytes(place / name, b"x")
    delete_directory(place / "gone")
    delete_directory(place / "gone")
    assert not exists(place / "gone/1")
    assert [file.name for file in list_files(place)] == ["3"]


def test_what_is_not_there_is_an_error_that_names_it(place: Location) -> None:
    for failing in (read_bytes, sha256_of, list_files):
        with pytest.raises(StorageError, match="missing"):
            failing(place / "missing")
    with pytest.raises(StorageError, match="missing"):
        copy_file(place / "missing", place / "copy")
    assert not exists(place / "copy")


@pytest.mark.parametrize("way", ["local to local", "local to s3", "s3 to local", "s3 to s3"])
def test_a_file_is_copied_between_any_two_places(way: str, tmp_path: Path, s3: str) -> None:
    places = {"local": locate(tmp_path), "s3": locate(s3.replace("KEY", uuid.uuid4().hex))}
    source, target = (
        places[kind] / name for kind, name in zip(way.split(" to "), ("source", "new/target"), strict=True)
    )
    content = os.urandom(10 << 20)
    write_bytes(source, content)
    copy_file(source, target)
    assert read_bytes(target) == content
    write_bytes(source, b"short")
    copy_file(source, target)
    assert read_bytes(target) == b"short"


def test_a_write_that_fails_leaves_the_old_content_and_no_scraps(tmp_path: Path) -> None:
    write_bytes(locate(tmp_path / "file"), b"old")
    (tmp_path / "file").rename(tmp_path / "kept")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").touch()
    with pytest.raises(StorageError, match="cannot write .*file"):
        write_bytes(locate(tmp_path / "file"), b"new")
    with pytest.raises(StorageError, match="cannot copy .*kept to .*file"):
        copy_file(locate(tmp_path / "kept"), locate(tmp_path / "file"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "inside", "kept"]


def test_a_copy_that_fails_half_way_leaves_the_old_content_and_no_scraps(tmp_path: Path) -> None:
    write_bytes(locate(tmp_path / "target"), b"old")
    with pytest.raises(StorageError, match="cannot copy"):
        copy_file(locate("/proc/self/mem"), locate(tmp_path / "target"))  # opens, and fails on the first byte
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert read_bytes(locate(tmp_path / "target")) == b"old"


@pytest.mark.parametrize("change", ["write", "copy"])
def test_who_has_a_file_open_keeps_its_content(change: str, tmp_path: Path) -> None:
    file, other = locate(tmp_path / "file"), locate(tmp_path / "other")
    write_bytes(file, b"old" * 1000)
    write_bytes(other, b"new")
    with Path(file.path).open("rb") as reader:
        if change == "write":
            write_bytes(file, b"new")
        else:
            copy_file(other, file)
        assert reader.read() == b"old" * 1000
    assert read_bytes(file) == b"new"


def test_a_bucket_that_is_not_there_is_an_error_that_names_it(s3: str) -> None:
    nowhere = locate(s3.replace("@bucket/KEY", "@nobucket/key"))
    with pytest.raises(StorageError, match="cannot write .*nobucket/key"):
        write_bytes(nowhere, b"x")
    with pytest.raises(StorageError, match="nobucket/key"):
        read_bytes(nowhere)


@pytest.mark.parametrize("uri", ["ftp://host/file", "nonsense://x"])
def test_a_scheme_that_is_not_known_is_an_error_that_names_the_known_ones(uri: str) -> None:
    with pytest.raises(StorageError, match=r"cannot use '.*s3://bucket/key or gs://bucket/key"):
        locate(uri)


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    location = locate("runs/demo/")
    assert location.path == location.uri == str(tmp_path / "runs/demo")
    assert location.is_local
    assert locate(Path("runs") / "demo") == location
    assert locate(f"file://{tmp_path}/runs/demo").path == location.path


def test_the_uri_of_a_part_keeps_what_the_user_wrote(s3: str) -> None:
    base = locate(s3.replace("KEY", "a/b"))
    assert (base / "c.txt").uri == s3.replace("KEY", "a/b/c.txt")
    assert (base / "c.txt").path == "bucket/a/b/c.txt"
    assert (base / "c.txt").name == "c.txt"
    assert not base.is_local
    assert (locate("/tmp/what?") / "x").uri == "/tmp/what?/x"
