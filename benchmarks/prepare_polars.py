"""The competitor of `benchmarks.prepare`: what `convcg prepare` makes of a log, anew, with Polars in one process.

    POLARS_MAX_THREADS=2 python -m benchmarks.prepare_polars --events DIR --pins FILE --out DIR

It follows the rules of the examples (duplicates, attribution, visits, dwell, served but not engaged, histories) and
shares no code with the package, so it is an independent oracle, too. It needs the whole log in memory.

Written are `examples.parquet`, `evaluation.parquet`, `users.parquet` and `served.parquet`. Pins are the ranks of their
ids, times int64 microseconds since the epoch; weights are float64, ages float32 seconds. With `--references` the
histories of examples and queries are not written out: they name stretches of `actions.parquet`, as the package does it.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.polars_examples import attributed, conversion_examples, engagement_examples, negatives, surviving
from benchmarks.polars_log import ACTIONS, CHECKOUT, CLICK, SECOND, Log, Settings, read_log, valid_dwell

BATCH = 100_000  # queries whose histories are in memory at once


class Histories:
    """What people did, in the order in which it became known; histories of many queries at once."""

    def __init__(self, the_log: Log, settings: Settings) -> None:
        ordered = the_log.events.filter(pl.col("action") >= CLICK).sort("user", "known", "pos").with_row_index("row")
        self.length, self.exclude = settings.length, settings.exclude_target
        self.events = ordered.select("row", "user", "known", "pin", "action", "surface", "time", dwell=valid_dwell())
        if self.exclude:
            self.events = self.events.with_columns(nth=pl.col("row").cum_count().over("user", "pin"))
        self.first = ordered.group_by("user").agg(first=pl.col("row").min())

    def references(self, queries: pl.DataFrame) -> Iterator[pa.Table]:
        """`queries` with `start` and `stop`, rows of `events` that hold the history, less the target's own."""
        yield self._ranges(queries).drop("first", "nth", strict=False).to_arrow()

    def batches(self, queries: pl.DataFrame) -> Iterator[pa.Table]:
        """`queries` (with user, cutoff, target) with five list columns, in batches."""
        found = self._ranges(queries)
        for start in range(0, max(len(found), 1), BATCH):
            yield self._filled(found[start : start + BATCH])

    def _ranges(self, queries: pl.DataFrame) -> pl.DataFrame:
        """Adds `start` and `stop`, rows of the events, wide enough for the target's own to be left out."""
        stops = _latest(
            queries.sort("user", "cutoff"), self.events.select("known", "user", stop=pl.col("row") + 1), ["user"]
        )
        stops = stops.join(self.first, on="user", how="left", maintain_order="left")
        own = pl.lit(0, pl.UInt32)
        if self.exclude:
            stops = _latest(stops, self.events.select("known", "user", "nth", target="pin"), ["user", "target"])
            own = pl.col("nth").fill_null(0)
        start = pl.max_horizontal("first", pl.col("stop").cast(pl.Int64) - own - self.length)
        return stops.with_columns(
            start=pl.when(pl.col("stop").is_null()).then(0).otherwise(start), stop=pl.col("stop").fill_null(0)
        )

    def _filled(self, ranges: pl.DataFrame) -> pa.Table:
        ranges = ranges.with_row_index("query_row")
        # One row an entry, then cut into lists at the offsets, which costs less than any grouping.
        flat = ranges.select(
            "query_row", "cutoff", "target", row=pl.int_ranges("start", "stop", dtype=pl.UInt32)
        ).explode("row", empty_as_null=False)
        rows = flat.drop_in_place("row")
        flat = flat.with_columns(self.events.select("pin", "action", "surface", "time", "dwell")[rows])
        if self.exclude:
            flat = flat.filter(pl.col("pin") != pl.col("target"))
            back = pl.len().over("query_row") - pl.col("query_row").cum_count().over("query_row")
            flat = flat.filter(back < self.length)
        age = pl.col("cutoff") - pl.col("time")
        values = flat.select(
            "pin",
            "action",
            "surface",
            age=(age / SECOND).cast(pl.Float32),
            dwell=pl.when(pl.col("dwell").cast(pl.Float64) * SECOND < age).then("dwell"),
        )
        if self.exclude:
            sizes = ranges.join(flat.group_by("query_row").len(), on="query_row", how="left", maintain_order="left")
        else:
            sizes = ranges.select(len=pl.col("stop") - pl.col("start"))
        ends = sizes["len"].fill_null(0).cast(pl.Int64).cum_sum()
        offsets = pl.concat([pl.Series([0]), ends]).cast(pl.Int32).to_arrow()
        table = ranges.drop("query_row", "start", "stop", "first", "nth", strict=False).to_arrow()
        for name in values.columns:
            table = table.append_column(f"history_{name}", pa.ListArray.from_arrays(offsets, values[name].to_arrow()))
        return table


def _latest(queries: pl.DataFrame, events: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """To each query the last event of the same group that was known before its cutoff; both sorted within groups."""
    return queries.join_asof(
        events,
        left_on="cutoff",
        right_on="known",
        by=by,
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,
    )


def evaluation_queries(the_log: Log, settings: Settings) -> pl.DataFrame:
    """Conversions of validation and test with their touch, cutoff, context and what was bought before."""
    asked = [ACTIONS.index(action) for action in settings.evaluation_actions]
    conversions = attributed(the_log.events.filter(pl.col("action").is_in(asked)), the_log.events)
    queries = with_context(conversions.select("touch", "user", "level", target="pin"), the_log)
    queries = queries.filter(pl.col("time") >= the_log.train, pl.col("time") < the_log.end)
    queries = queries.with_columns(cutoff="time", is_test=pl.col("time") >= the_log.test).with_row_index("query_row")
    queries = with_purchased(queries, the_log)
    if settings.exclude_target:
        queries = queries.filter(~pl.col("purchased").list.contains(pl.col("target")))
    return queries


def with_context(examples: pl.DataFrame, the_log: Log) -> pl.DataFrame:
    """Time, surface, subject, query and request of each row's query event, the event `touch` of the log."""
    events = the_log.events.select("time", pl.col("surface").clip(0), "subject", "query", "request")
    return examples.with_columns(events[examples["touch"]])


def with_purchased(queries: pl.DataFrame, the_log: Log) -> pl.DataFrame:
    """The distinct pins of each query's user that were checked out, and known, before the cutoff."""
    bought = the_log.events.filter(pl.col("action") == CHECKOUT).select("user", "known", "pin")
    pairs = queries.select("query_row", "user", "cutoff").join(bought, on="user")
    pairs = pairs.filter(pl.col("known") < pl.col("cutoff")).unique(["query_row", "pin"])
    lists = pairs.group_by("query_row").agg(purchased="pin")
    return (
        queries.join(lists, on="query_row", how="left")
        .with_columns(pl.col("purchased").fill_null([]))
        .drop("query_row")
    )


def main() -> None:
    """Do it, and print the seconds of each step as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("events", "pins", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--exclude-target", action="store_true")
    parser.add_argument("--references", action="store_true", help="histories as stretches of actions, not as lists")
    arguments = parser.parse_args()
    settings = Settings(exclude_target=arguments.exclude_target)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    steps: dict[str, float] = {"start": time.perf_counter()}

    the_log = read_log(_files(arguments.events), arguments.pins, settings)
    steps["log"] = time.perf_counter()
    conversions, engagements = conversion_examples(the_log, settings), engagement_examples(the_log, settings)
    examples = pl.concat([conversions, engagements], how="diagonal")
    examples = with_context(examples, the_log).with_columns(cutoff="time")
    steps["examples"] = time.perf_counter()
    survived = surviving(the_log)
    served = survived.group_by("pin").agg(served=pl.len())
    not_engaged = negatives(examples, survived, settings.negatives)
    examples = examples.join(not_engaged, on="touch", how="left").with_columns(pl.col("negatives").fill_null([]))
    steps["negatives"] = time.perf_counter()
    evaluation = evaluation_queries(the_log, settings)
    people = the_log.events.select(pl.col("user").unique()).with_columns(
        cutoff=pl.lit(the_log.train), target=pl.lit(-1, pl.Int32)
    )
    people = with_purchased(people.with_row_index("query_row"), the_log)
    steps["evaluation"] = time.perf_counter()
    histories = Histories(the_log, settings)
    written = {"examples": examples, "evaluation": evaluation, "users": people}
    for name, queries in written.items():
        referring = arguments.references and name != "users"
        batches = histories.references if referring else histories.batches
        _write(batches(_with_ids(queries, the_log)), out / f"{name}.parquet")
    if arguments.references:
        _write(iter([histories.events.to_arrow()]), out / "actions.parquet")
    served.write_parquet(out / "served.parquet")
    steps["histories and writing"] = time.perf_counter()

    names, times = list(steps), list(steps.values())
    seconds = {name: round(b - a, 3) for name, a, b in zip(names[1:], times, times[1:], strict=False)}
    rows = {name: len(queries) for name, queries in written.items()}
    print(json.dumps({"threads": pl.thread_pool_size(), "seconds": seconds, "rows": rows}))


def _files(path: str) -> list[str]:
    return [str(file) for file in sorted(Path(path).rglob("*.parquet"))] if os.path.isdir(path) else [path]


def _with_ids(queries: pl.DataFrame, the_log: Log) -> pl.DataFrame:
    texts = [pl.col("query").cast(pl.String)] if "query" in queries.columns else []
    return queries.drop("touch", "request", strict=False).with_columns(texts).join(the_log.users, on="user")


def _write(batches: Iterator[pa.Table], path: Path) -> None:
    writer: pq.ParquetWriter | None = None
    for batch in batches:
        writer = writer or pq.ParquetWriter(path, batch.schema, compression="lz4", use_dictionary=False)
        writer.write_table(batch)
    if writer is not None:
        writer.close()


if __name__ == "__main__":
    main()
