"""OTTO and JD's micro-behaviours, whose lines are sessions: small files against tables worked out by hand."""

import gzip
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest
from converted import converted, write

from convcg.converters.line_blocks import line_blocks
from convcg.errors import DataError, StorageError
from convcg.storage import locate

OTTO = """{"session":11098528,"events":[{"aid":11830,"ts":1661724000378,"type":"clicks"},{"aid":1732105,"ts":1661724008000,"type":"carts"}]}
{"session": 7, "events": [{"aid": 11830, "ts": 1662327599999, "type": "orders"}]}
"""  # noqa: E501 (as the file has it)


def test_otto(tmp_path: Path) -> None:
    result = converted("otto", write(tmp_path / "train.jsonl", OTTO), tmp_path / "out")
    assert result.rows("events", "timestamp", "user_id", "pin_id", "action") == [
        ("08-28 22:00:00", "11098528", "11830", "click"),
        ("08-28 22:00:08", "11098528", "1732105", "add_to_cart"),
        ("09-04 21:39:59", "7", "11830", "checkout"),
    ]
    assert result.events["timestamp"][0].as_py().microsecond == 378_000
    assert result.rows("pins", "pin_id") == [("11830",), ("1732105",)]
    assert result.users is None


def test_blank_lines_further_fields_and_sessions_without_events_do_no_harm(tmp_path: Path) -> None:
    event = '{"aid":5,"ts":1661724000378,"type":"carts","x":"y"}'
    text = '\n{"session":1,"events":[],"more":[1]}\n\n{"session":2,"events":[' + event + "]}"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    result = converted("otto", tmp_path / "a.jsonl.gz", tmp_path / "out")
    assert result.rows("events", "user_id", "pin_id", "action") == [("2", "5", "add_to_cart")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"session":1,"events":[{"aid":5', "expected a JSON object"),
        ("session,aid,ts,type", "expected a JSON object"),
        ("[1, 2]", 'expected an object with an integer "session"'),
        ('{"session":"1","events":[]}', 'expected an object with an integer "session"'),
        ('{"id":1,"events":[]}', 'expected an object with an integer "session"'),
        ('{"session":1}', 'expected a list "events"'),
        ('{"session":1,"events":{"aid":[1]}}', 'expected a list "events"'),
        ('{"session":1,"events":[null]}', r'events\[0\]: expected an object with integers "aid" and "ts"'),
        ('{"session":1,"events":[{"aid":5,"type":"carts"}]}', r"events\[0\]: expected an object with integers"),
        ('{"session":1,"events":[{"aid":5,"ts":1661724000,"type":"carts"}]}', "expected ts in milliseconds"),
        (f'{{"session":1,"events":[{{"aid":5,"ts":{10**30},"type":"carts"}}]}}', "expected ts in milliseconds"),
        ('{"session":1,"events":[{"aid":5,"ts":1661724000000,"type":"views"}]}', "expected type clicks, carts, orders"),
    ],
)
def test_a_line_that_is_not_ottos_is_one_error_with_its_number(line: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", OTTO + "\n" + line + "\n" + OTTO)
    with pytest.raises(DataError, match=message) as caught:
        converted("otto", path, tmp_path / "out")
    assert f"{path}, line 4: " in str(caught.value)
    assert "found " in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


def test_lines_keep_their_numbers_however_small_the_blocks(tmp_path: Path) -> None:
    text = "one\ntwo\n\nfour is longer than a block\nfive"
    file = locate(write(tmp_path / "lines", text))
    for size in (1, 5, 1000):
        before = ""
        for number, lines in line_blocks(file, block_bytes=size):
            assert number == before.count("\n") + 1
            assert lines.endswith(b"\n") or lines.endswith(b"five")
            before += lines.decode()
        assert before == text
    assert len(list(line_blocks(file, block_bytes=5))) == 4
    assert list(line_blocks(locate(write(tmp_path / "empty", "")))) == []


def test_a_packed_file_that_was_cut_is_a_storage_error(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b"line %d\n" % number for number in range(10_000)))
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(StorageError, match=r"cut\.jsonl\.gz"):
        converted("otto", tmp_path / "cut.jsonl.gz", tmp_path / "out")


# Two visits of 100 (the first opened twice, read, and ended in the cart), one of 200 between them.
FIRST = "100+1+753+5+35 100+7+753+10+35 100+2+753+20+35 100+9+753+60+35 200+5+12397+7+7 100+4+753+3+8 100+10+753+0+8"
SECOND = "300+3+672+1.5+2 300+6+672+4+2"


def test_jds_micro_behaviours(tmp_path: Path) -> None:
    result = converted("jd_dwell", write(tmp_path / "log.txt", f"{FIRST}\n"), tmp_path / "out")
    start = result.events["timestamp"][0].as_py()
    assert (start.hour, start.minute, start.second) == (0, 0, 0)
    assert start.year == 2020
    seconds = [(time.as_py() - start).total_seconds() for time in result.events["timestamp"]]
    assert seconds == [0, 15, 35, 95, 102, 105]
    assert result.rows("events", "pin_id", "action", "surface", "dwell_seconds") == [
        ("100", "click", "home_feed", 35.0),
        ("100", "click", None, None),
        ("100", "add_to_cart", None, None),
        ("200", "click", "search", 7.0),
        ("100", "click", None, 8.0),
        ("100", "checkout", None, None),
    ]
    user = result.events["user_id"][0].as_py()
    assert set(result.events["user_id"].to_pylist()) == {user}
    assert result.events["request_id"].to_pylist() == [f"{user}-{visit}" for visit in (0, 0, 0, 1, 2, 2)]
    assert result.rows("pins", "pin_id", "category") == [("100", "753"), ("200", "12397")]
    assert result.users is None


def test_a_session_is_the_same_wherever_it_stands_and_counts_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log / "a.txt", f"{FIRST}\n{SECOND}\n")
    write(log / "b.txt", f"\n{SECOND}  \n{FIRST}")
    both = converted("jd_dwell", log, tmp_path / "both")
    alone = converted("jd_dwell", log / "b.txt", tmp_path / "alone")
    assert both.events.sort_by("timestamp") == alone.events.sort_by("timestamp")
    assert len(pc.unique(both.events["user_id"])) == 2
    assert both.events.num_rows == 7


def test_sessions_are_spread_over_28_days(tmp_path: Path) -> None:
    lines = "".join(f"{sku}+5+1+3+2\n" for sku in range(5600))
    days = Counter(str(day)[5:10] for day in converted_days(lines, tmp_path))
    assert len(days) == 28
    assert min(days) == "02-03"
    assert max(days) == "03-01"
    assert 140 < min(days.values()) <= max(days.values()) < 260


def converted_days(lines: str, tmp_path: Path) -> list[object]:
    return converted("jd_dwell", write(tmp_path / "log.txt", lines), tmp_path / "out").events["timestamp"].to_pylist()


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("100+5+753+5", r"expected sku\+behaviour\+leaf_category\+seconds_to_next\+dwell_seconds"),
        ("100+5+753+5+35+1", r"expected sku\+behaviour"),
        ("100+x+753+5+35", r"expected sku\+behaviour"),
        ("100+5+753+-5+35", r"expected sku\+behaviour"),
        ("100+5+753+5+nan", r"expected sku\+behaviour"),
        ("100,5,753,5,35", r"expected sku\+behaviour"),
        ("100+0+753+5+35", "expected a behaviour from 1 to 10"),
        ("100+11+753+5+35", "expected a behaviour from 1 to 10"),
    ],
)
def test_a_line_that_is_not_jds_is_one_error_with_its_number(event: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "log.txt", f"{FIRST}\n\n{FIRST}\n{SECOND} {event}\n")
    with pytest.raises(DataError, match=message) as caught:
        converted("jd_dwell", path, tmp_path / "out")
    assert f"{path}, line 4: " in str(caught.value)
    assert f"found {event!r}" in str(caught.value)


def test_a_line_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"100+5+753+5+35\n\xff\xfe\n")
    with pytest.raises(DataError, match="line 2: expected text"):
        converted("jd_dwell", tmp_path / "log.txt", tmp_path / "out")
