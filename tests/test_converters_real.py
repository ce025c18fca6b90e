"""The real logs, where they are: CONVCG_DATA names a directory with `dunnhumby` and `jd_dwell`."""

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from converted import converted

from convcg.schema import TIMESTAMP


def real(name: str) -> Path:
    place = os.environ.get("CONVCG_DATA")
    if not place or not (Path(place) / name).is_dir():
        pytest.skip(f"CONVCG_DATA names no directory with {name}")
    return Path(place) / name


def test_dunnhumbys_households_and_purchases_are_all_there(tmp_path: Path) -> None:
    result = converted("dunnhumby", real("dunnhumby"), tmp_path / "out")
    events = result.events
    bought = events.filter(pc.equal(events["action"], "checkout"))
    assert bought.num_rows == 75_000
    assert len(pc.unique(bought["user_id"])) == 2_377
    assert len(pc.unique(bought["pin_id"])) == 20_902
    # All pairs of household and product that campaigns of type B and C made; of type A it is not known which.
    assert events.num_rows - bought.num_rows == 2_004_227
    assert result.pins.num_rows == 92_331 + 10  # ten products that only the purchases and the coupons name

    test = pc.greater_equal(bought["timestamp"], pa.scalar(datetime(2017, 11, 1, tzinfo=UTC), TIMESTAMP))
    pairs = [bought.filter(mask).group_by(["user_id", "pin_id"]).aggregate([]) for mask in (test, pc.invert(test))]
    new = pairs[0].join(pairs[1], ["user_id", "pin_id"], join_type="left anti")
    assert (pairs[0].num_rows, len(pc.unique(pairs[0]["user_id"]))) == (12_686, 1_891)
    assert (new.num_rows, len(pc.unique(new["user_id"]))) == (11_435, 1_879)


def test_jds_sessions_are_counted_once_and_their_dwell_once_a_visit(tmp_path: Path) -> None:
    directory = real("jd_dwell")
    result = converted("jd_dwell", directory, tmp_path / "out")
    lines = {line.strip() for file in directory.glob("*.txt") for line in file.read_text().splitlines()}
    behaviour = Counter(int(event.split("+")[1]) for line in lines for event in line.split())
    actions = Counter(result.events["action"].to_pylist())
    assert len(lines) == len(pc.unique(result.events["user_id"])) == 3_805
    assert sum(behaviour.values()) == 146_543  # 156,584 with the 195 lines that stand in two files
    assert actions["click"] == sum(behaviour[way] for way in range(1, 6)) == 96_110
    assert actions["add_to_cart"] == behaviour[9] == 9_205
    assert actions["checkout"] == behaviour[10] == 441

    seconds, last = 0.0, None
    for line in lines:
        for event in line.split():
            sku, *_, dwell = event.split("+")
            seconds += float(dwell) if sku != last else 0.0
            last = sku
        last = None
    assert pc.sum(result.events["dwell_seconds"].cast(pa.float64())).as_py() == seconds
    days = pc.unique(result.events["timestamp"].cast(pa.date32())).sort().to_pylist()
    assert (str(days[0]), str(days[-1]), len(days)) == ("2020-02-03", "2020-03-01", 28)
