"""Rules of a partition that the reference of test_examples does not know: duplicates by event id."""

import pyarrow as pa

from convcg.data.partition import distinct_events


def events(ids: list[str | None]) -> pa.Table:
    return pa.table({"event_id": pa.array(ids, pa.string()), "pin": list(range(len(ids)))})


def test_an_event_that_was_reported_twice_counts_once() -> None:
    assert distinct_events(events(["b", "a", "b", "c", "a"]))["pin"].to_pylist() == [0, 1, 3]


def test_events_without_an_id_are_all_kept() -> None:
    assert distinct_events(events([None, None]))["pin"].to_pylist() == [0, 1]
    assert distinct_events(events([None, "a", None, "a"]))["pin"].to_pylist() == [0, 1, 2]
