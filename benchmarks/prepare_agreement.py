"""Whether `convcg prepare` and the Polars competitor of `benchmarks.prepare` made the same examples of a log.

Both are brought into one form, a row an example or evaluation query: `part` (train, validation, test), `task`
(conversion, engagement; null for queries), `user_id`, `time`, `target`, `level` (null for engagements), `action` and
`weight` (null for queries), `surface`, `subject`, `query`, `negatives`, `purchased` (sorted; null for examples) and
`history_pin`, `_action`, `_surface`, `_age`, `_dwell`. Pins are ranks of their ids, surfaces and actions are codes.
"""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from convcg.data.prepared import TEST, VALIDATION, Prepared, attached, read_part
from convcg.storage import locate
from convcg.types import Task

KEYS = ("part", "task", "user_id", "time", "target", "level")
CONTEXT = ("surface", "subject", "query", "action", "weight", "negatives", "purchased")
HISTORY = ("history_pin", "history_action", "history_surface", "history_age", "history_dwell")
_PRECISION = 1e-5  # of weights and ages, relative: float32 on either side


def our_rows(prepared: Path) -> pl.DataFrame:
    """ADAPTER of the package's own layout: what `convcg prepare` wrote, in the form above."""
    opened = Prepared.open(locate(str(prepared)))
    history = opened.summary().history
    frames = []
    for task in Task:
        examples = pa.concat_tables([read_part(file) for file in opened.files(task.value)])
        table = attached(examples, opened.location.uri, history)
        frames.append(_frame(table).with_columns(part=pl.lit("train"), task=pl.lit(task.value)))
    frames[-1] = frames[-1].with_columns(level=pl.lit(None, pl.Int8))  # engagements have no touch
    for part in (VALIDATION, TEST):
        queries = _frame(opened.queries(part)).with_columns(
            part=pl.lit(part), purchased=pl.col("purchased").list.sort()
        )
        frames.append(queries.drop("action"))
    return pl.concat(frames, how="diagonal_relaxed").select(*KEYS, *CONTEXT, *HISTORY)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.rename({"subject_pin": "subject"}).with_columns(
        pl.col("history_dwell").list.eval(pl.element().fill_nan(None))
    )


def their_rows(directory: Path) -> pl.DataFrame:
    """What `benchmarks.prepare_polars` wrote, in the form above."""
    tasks = pl.when(pl.col("task") == 0).then(pl.lit("conversion")).otherwise(pl.lit("engagement"))
    examples = pl.read_parquet(directory / "examples.parquet").with_columns(part=pl.lit("train"), task=tasks)
    parts = pl.when("is_test").then(pl.lit("test")).otherwise(pl.lit("validation"))
    queries = pl.read_parquet(directory / "evaluation.parquet").with_columns(
        part=parts, purchased=pl.col("purchased").list.sort()
    )
    both = pl.concat([examples, queries], how="diagonal_relaxed")
    return both.select(*KEYS, *CONTEXT, *HISTORY)


def compare(ours: pl.DataFrame, theirs: pl.DataFrame, *, sample: int = 2000) -> list[str]:
    """What differs, in sentences; empty where nothing does. All else than `KEYS` is compared on `sample` rows."""
    found = []
    ours, theirs = _numbered(ours), _numbered(theirs)
    counts = [_counts(rows) for rows in (ours, theirs)]
    if counts[0] != counts[1]:
        found.append(f"examples by part and task: {counts[0]} of ours, {counts[1]} of theirs")
    identity = [*KEYS, "nth"]
    for name, rows, others in (("ours", ours, theirs), ("theirs", theirs, ours)):
        alone = rows.join(others, on=identity, how="anti", nulls_equal=True)
        if len(alone):
            found.append(f"{len(alone)} rows only in {name}, such as {alone.select(KEYS).row(0, named=True)}")
    single = theirs.filter(pl.len().over(KEYS) == 1)  # rows with one key may stand in any order
    drawn = single.sample(min(sample, len(single)), seed=0)
    pairs = drawn.join(ours, on=identity, how="inner", nulls_equal=True, suffix="_ours")
    for name in (*CONTEXT, *HISTORY):
        unlike = [
            (key, theirs_, ours_)
            for key, theirs_, ours_ in zip(
                pairs.select(KEYS).iter_rows(), pairs[name].to_list(), pairs[f"{name}_ours"].to_list(), strict=True
            )
            if not _same(theirs_, ours_)
        ]
        if unlike:
            key, theirs_, ours_ = unlike[0]
            found.append(
                f"{name} of {len(unlike)} in {len(pairs)} rows, such as {ours_} of ours for {theirs_} at {key}"
            )
    return found


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with one key are told apart by a number, so that the keys are compared as a multiset."""
    return rows.with_columns(nth=pl.col("time").cum_count().over(KEYS))


def _counts(rows: pl.DataFrame) -> dict[str, int]:
    return {
        f"{part} {task or 'queries'}": count
        for part, task, count in rows.group_by("part", "task").len().sort("part", "task").iter_rows()
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _PRECISION * max(1e-6, abs(one))
    return bool(one == other)
