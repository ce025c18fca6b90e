"""`convcg compare`: planted differences are found, chance is not, and runs that were asked other things are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convcg import compare
from convcg.differences import Row, System, compared, pairs_of
from convcg.errors import ConfigError, DataError
from convcg.ranks import read_aligned, read_measured
from tests.measured import leave, ranks, seeds


def row_of(directory: Path, *others: Path, ks: tuple[int, ...] = (100,), **changed: Any) -> dict[str, Row]:
    runs = read_aligned([str(directory), *map(str, others)])
    return {row.name: row for row in compared(pairs_of(runs, "model"), ks=ks, **changed)}


def test_a_planted_difference_is_found_with_its_size_and_sign(tmp_path: Path) -> None:
    first = seeds(tmp_path / "first", [0.3, 0.3, 0.3])
    rows = row_of(first, seeds(tmp_path / "good", [0.4, 0.4, 0.4]), seeds(tmp_path / "bad", [0.2, 0.2, 0.2]))
    good, bad = rows["good"].difference["recall@100"], rows["bad"].difference["recall@100"]
    assert (good.verdict, bad.verdict) == ("better", "worse")
    assert good.mean == pytest.approx(0.1, abs=0.02)
    assert good.low < good.mean < good.high
    assert (good.agree, bad.agree) == ("3/3", "3/3")
    assert rows["good"].recall["recall@100"].mean == pytest.approx(0.4, abs=0.02)
    assert rows["first"].difference == {}


def test_no_difference_is_not_shown(tmp_path: Path) -> None:
    first = leave(tmp_path / "first", ranks({"model": 0.3}, seed=1))
    shown = row_of(first, leave(tmp_path / "same", ranks({"model": 0.3}, seed=2)))["same"].difference["recall@100"]
    assert shown.verdict == "not shown"
    assert shown.low < 0 < shown.high


def test_the_very_same_ranks_differ_by_nothing(tmp_path: Path) -> None:
    first = leave(tmp_path / "first", ranks({"model": 0.3}))
    shown = row_of(first, leave(tmp_path / "same", ranks({"model": 0.3})))["same"].difference["recall@100"]
    assert (shown.mean, shown.p_holm, shown.verdict) == (0.0, 1.0, "not shown")


def test_seeds_that_disagree_show_nothing_however_small_the_p_value(tmp_path: Path) -> None:
    first = seeds(tmp_path / "first", [0.3, 0.3, 0.3])
    shown = row_of(first, seeds(tmp_path / "other", [0.5, 0.5, 0.28]))["other"].difference["recall@100"]
    assert shown.low > 0
    assert shown.p_holm < 0.05
    assert (shown.agree, shown.verdict) == ("2/3", "not shown")


def test_a_table_of_chance_claims_nothing_that_one_test_would(tmp_path: Path) -> None:
    first = leave(tmp_path / "first", ranks({"model": 0.3}, seed=100))
    others = [leave(tmp_path / f"other-{seed}", ranks({"model": 0.3}, seed=seed)) for seed in range(40)]
    shown = [row.difference["recall@100"] for row in row_of(first, *others).values() if row.difference]
    assert min(each.p for each in shown) < 0.05
    assert {each.verdict for each in shown} == {"not shown"}


def test_many_differences_do_not_hide_a_clear_one(tmp_path: Path) -> None:
    first = leave(tmp_path / "first", ranks({"model": 0.3}))
    others = [leave(tmp_path / f"other-{number}", ranks({"model": 0.3}, seed=number)) for number in range(39)]
    rows = row_of(first, *others, leave(tmp_path / "good", ranks({"model": 0.5})), ks=(20, 100, 1000))
    assert rows["good"].difference["recall@100"].verdict == "better"


def test_baselines_of_the_first_run_are_rows_beside_the_runs(tmp_path: Path) -> None:
    first = seeds(tmp_path / "first", [0.3, 0.31])
    rows = row_of(first, leave(tmp_path / "popularity", ranks({"model": 0.2})))
    assert set(rows) == {"first", "popularity", "popularity (baseline)"}
    baseline = rows["popularity (baseline)"]
    assert baseline.recall["recall@100"].mean == pytest.approx(0.1, abs=0.03)
    assert baseline.difference["recall@100"].verdict == "worse"


def test_a_system_of_one_seed_is_held_against_every_seed_of_the_other(tmp_path: Path) -> None:
    first = read_measured(str(seeds(tmp_path / "first", [0.3, 0.31, 0.1])))
    other = read_measured(str(leave(tmp_path / "other", ranks({"model": 0.2}))))
    (_, row) = compared(
        [(System(name="first", run=first), None), (System(name="o", run=other), System(name="first", run=first))],
        ks=[100],
    )
    assert row.difference["recall@100"].agree == "2/3"


def test_a_slice_is_compared_within_each_of_its_values(tmp_path: Path) -> None:
    table = ranks({"model": 0.3})
    better = np.where(table["slice:surface"].to_numpy() == "search", 1, table["rank:model"].to_numpy())
    other = table.set_column(table.column_names.index("rank:model"), "rank:model", pa.array(better))
    runs = read_aligned([str(leave(tmp_path / "first", table)), str(leave(tmp_path / "other", other))])
    rows = [row for row in compared(pairs_of(runs, "model"), ks=[100], slice_name="surface") if row.name == "other"]
    assert {row.value: row.difference["recall@100"].verdict for row in rows} == {
        "home_feed": "not shown", "related_pins": "not shown", "search": "better",
    }  # fmt: skip
    assert sum(row.num_queries for row in rows) == table.num_rows


def test_the_order_of_queries_in_a_file_does_not_matter(tmp_path: Path) -> None:
    table = ranks({"model": 0.3})
    first = leave(tmp_path / "first", table)
    (tmp_path / "other").mkdir()
    pq.write_table(table, tmp_path / "other" / "ranks.parquet")
    assert row_of(first, tmp_path / "other")["other"].difference["recall@100"].mean == 0


def test_runs_that_were_asked_other_queries_are_named(tmp_path: Path) -> None:
    first = leave(tmp_path / "first", ranks({"model": 0.3}))
    good = leave(tmp_path / "good", ranks({"model": 0.3}))
    later = leave(tmp_path / "later", ranks({"model": 0.3}, first_time=1))
    fewer = leave(tmp_path / "fewer", ranks({"model": 0.3}, num_users=300))
    with pytest.raises(DataError, match=r"later \(1,200 queries, 0 of them.*fewer \(900 queries, 900 of them") as error:
        read_aligned([str(first), str(good), str(later), str(fewer)])
    assert "good" not in str(error.value)


def test_seeds_that_were_asked_other_queries_are_named(tmp_path: Path) -> None:
    leave(tmp_path / "run" / "seed-0", ranks({"model": 0.3}))
    leave(tmp_path / "run" / "seed-1", ranks({"model": 0.3}, first_time=5))
    with pytest.raises(DataError, match="seed-1 was asked other queries than .*seed-0"):
        read_measured(str(tmp_path / "run"))


def test_seeds_come_in_the_order_of_their_numbers_and_unfinished_ones_are_left_out(tmp_path: Path) -> None:
    for seed in (0, 2, 10, 9):
        leave(tmp_path / "run" / f"seed-{seed}", ranks({"model": 0.3}, num_users=5))
    (tmp_path / "run" / "seed-3").mkdir()
    run = read_measured(str(tmp_path / "run"))
    assert [place.name for place in run.places] == ["seed-0", "seed-2", "seed-9", "seed-10"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["{tmp}/none"], ConfigError, "neither ranks.parquet nor a seed-"),
        (["{tmp}/a", "{tmp}/deep/a"], ConfigError, "more than one run is named a. Give them names"),
        (["{tmp}/old"], DataError, "has no column rank:model"),
        (["{tmp}/empty"], DataError, "has no queries"),
    ],
)
def test_what_is_no_run_is_said(tmp_path: Path, arguments: list[str], error: type, message: str) -> None:
    table = ranks({"model": 0.3}, num_users=5)
    leave(tmp_path / "a", table)
    leave(tmp_path / "deep" / "a", table)
    leave(tmp_path / "old", table.drop(["rank:model"]))
    leave(tmp_path / "empty", table.slice(0, 0))
    with pytest.raises(error, match=message):
        read_aligned([argument.format(tmp=tmp_path) for argument in arguments])


def test_the_command_prints_and_stores_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = seeds(tmp_path / "a", [0.3, 0.3]), seeds(tmp_path / "b", [0.4, 0.4])
    out = tmp_path / "compare.json"
    arguments = [f"old={first}", f"new={second}", "--ks", "20,100", "--slice", "surface", "--out", str(out)]
    assert compare.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "recall@20" in printed
    assert "search (400)" in printed
    stored = json.loads(out.read_text())
    assert [table["slice"] for table in stored["tables"]] == [None, "surface"]
    found = {row["name"]: row for row in stored["tables"][0]["rows"]}
    assert found["new"]["difference"]["recall@100"]["verdict"] == "better"
    assert found["new"]["difference"]["recall@100"]["agree"] == "2/2"
    assert len(stored["tables"][1]["rows"]) == 3 * len(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ks", "20,x"], "--ks '20,x' must be positive integers"),
        (["--ks", "0"], "--ks '0' must be positive integers"),
        (["--system", "ease"], "has not measured 'ease'. It has: model, popularity"),
        (["--slice", "moon"], "has no slice 'moon'. Slices: surface"),
    ],
)
def test_a_wrong_option_ends_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert compare.main([str(seeds(tmp_path / "a", [0.3], num_users=9)), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_damaged_file_ends_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ranks.parquet").write_bytes(b"no parquet")
    assert compare.main([str(tmp_path)]) == 1
    assert "Run `convcg evaluate` again" in " ".join(capsys.readouterr().err.split())
