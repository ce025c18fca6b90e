"""`convcg import`: all or nothing, local and in a bucket, and errors that are one line."""

import os
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buckets import bucket
from converted import converted, write

from convcg.converters.command import Format, import_log, main
from convcg.converters.latest import Latest
from convcg.converters.output import written_whole
from convcg.data.validate import validate_tables
from convcg.errors import ConfigError, DataError, StorageError
from convcg.storage import list_files, locate

LINE = '{"session":%d,"events":[{"aid":5,"ts":1661724000378,"type":"clicks"}]}\n'


def otto(tmp_path: Path, *, lines: int = 2, last: str = "") -> Path:
    return write(tmp_path / "log.jsonl", "".join(LINE % number for number in range(lines)) + last)


def test_the_command_says_what_it_wrote_and_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["otto", str(otto(tmp_path)), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "events: 2 rows" in printed
    assert "pins: 1 rows" in printed
    assert "click 2" in printed
    assert f"--set data.events={out}/events --set data.pins={out}/pins.parquet" in printed
    assert "data.users" not in printed


def test_a_users_error_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = otto(tmp_path, last="{nonsense\n")
    assert main(["otto", str(log), "--out", str(tmp_path / "out")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {log}, line 3: expected a JSON object")
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


def test_an_unknown_format_ends_with_2_and_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["amazon", "log", "--out", "out"]) == 2
    printed = capsys.readouterr().err
    assert all(name in printed for name in ("'amazon'", "rees46", "retailrocket", "otto", "dunnhumby"))


@pytest.mark.parametrize("name", [each.value for each in Format])
def test_a_path_that_is_not_there_or_holds_nothing_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere does not exist"):
        import_log(Format(name), str(tmp_path / "nowhere"), str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected a .*; found no file"):
        import_log(Format(name), str(tmp_path / "empty"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("present", ["a file", "a directory with a file", "a directory with a hidden file"])
def test_what_is_at_out_already_is_left_alone(present: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = {"a file": out, "a directory with a file": out / "events" / "x"}.get(present, out / ".keep")
    write(kept, "mine")
    with pytest.raises(ConfigError, match=f"--out {out} is not empty"):
        import_log(Format.OTTO, str(otto(tmp_path)), str(out))
    assert kept.read_text() == "mine"


def test_an_empty_directory_may_be_there_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert converted("otto", otto(tmp_path), tmp_path / "link").events.num_rows == 2
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "pins.parquet").exists()


def test_a_log_without_events_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the log holds no event"):
        converted("otto", write(tmp_path / "log.jsonl", '{"session":1,"events":[]}\n'), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_where_nothing_can_be_written_is_a_storage_error(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot write"):
        import_log(Format.OTTO, str(otto(tmp_path)), str(closed / "out"))


def test_a_place_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    log = otto(tmp_path)
    with pytest.raises(StorageError, match="log.jsonl"):
        import_log(Format.OTTO, str(log), str(log / "out"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


def some_events(count: int) -> pa.Table:
    return pa.table(
        {
            "timestamp": pa.array(np.arange(count) + 1_600_000_000).cast(pa.timestamp("s", tz="UTC")),
            "user_id": pa.array(["u"] * count),
            "pin_id": pa.array(["p"] * count),
            "action": pa.array(["click"] * count),
        }
    )


def test_events_are_cut_into_parts_and_none_is_lost(tmp_path: Path) -> None:
    with written_whole(locate(tmp_path / "out"), title="test", rows_per_part=100) as output:
        for count in (30, 0, 80, 95, 3, 7):
            output.events(some_events(count))
        output.pins(pa.table({"pin_id": ["p"]}))
    parts = sorted((tmp_path / "out" / "events").iterdir())
    assert [part.name for part in parts] == ["part-00000.parquet", "part-00001.parquet"]
    assert [pq.read_metadata(part).num_rows for part in parts] == [110, 105]
    assert (output.rows["events"], output.actions["click"]) == (215, 215)


def written_until(error: BaseException, out: Path) -> None:
    with written_whole(locate(out), title="test", rows_per_part=10) as output:
        for _ in range(3):
            output.events(some_events(7))
        raise error


@pytest.mark.parametrize("error", [DataError("half way"), KeyboardInterrupt()])
def test_whatever_ends_an_import_half_way_leaves_nothing_behind(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        written_until(error, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_holds_the_tables_or_nothing(tmp_path: Path) -> None:
    with bucket() as uri:
        source, place = (uri.replace("KEY", uuid.uuid4().hex) for _ in range(2))
        log = locate(source) / "log.jsonl"
        with log.filesystem.open_output_stream(log.path) as stream:
            stream.write(otto(tmp_path).read_bytes())
        import_log(Format.OTTO, source, place)
        events, pins = (locate(place) / name for name in ("events", "pins.parquet"))
        assert [file.name for file in list_files(locate(place))] == ["part-00000.parquet", "pins.parquet"]
        assert validate_tables(events=events.uri, pins=pins.uri, users=None).violations == ()
        with pytest.raises(ConfigError, match="is not empty"):
            import_log(Format.OTTO, source, place)

        other = uri.replace("KEY", uuid.uuid4().hex)
        with pytest.raises(DataError, match="line 2"):
            import_log(Format.OTTO, str(otto(tmp_path, lines=1, last="{nonsense\n")), other)
        with pytest.raises(StorageError, match="does not exist"):
            list_files(locate(other))


def test_the_latest_known_value_of_each_column_stays() -> None:
    latest = Latest({"pin_id": pa.string(), "category": pa.string(), "price": pa.float64()})
    latest.add(
        {"pin_id": pa.array(["b", "a", "b"]), "category": pa.array(["x", None, "y"]), "price": pa.array([1, 2, 3])}
    )
    latest.add({"pin_id": pa.array(["a", "c"])})
    latest.add({"pin_id": pa.array(["b", "a"]), "price": pa.array([None, 5.0])})
    latest.add({"pin_id": pa.array(["b"]), "category": pa.array([None], pa.string())})
    assert latest.table().to_pylist() == [
        {"pin_id": "a", "category": None, "price": 5.0},
        {"pin_id": "b", "category": "y", "price": 3.0},
        {"pin_id": "c", "category": None, "price": None},
    ]
    assert Latest({"pin_id": pa.string()}).table().num_rows == 0


def test_the_latest_value_stays_among_many_rows() -> None:
    latest = Latest({"pin_id": pa.string(), "price": pa.float64()})
    for batch in range(10):  # more rows than are held before they are reduced
        pins = np.arange(batch * 10_000, batch * 10_000 + 100_000)
        latest.add({"pin_id": pa.array(pins).cast(pa.string()), "price": pa.array(pins + batch / 10)})
    table = latest.table()
    pin = table["pin_id"].cast(pa.int64()).to_numpy()
    assert sorted(pin) == list(range(190_000))
    assert np.allclose(table["price"].to_numpy(), pin + np.minimum(pin // 10_000, 9) / 10)
