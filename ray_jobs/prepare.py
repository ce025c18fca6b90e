"""`convcg prepare`: events, pins and users to point-in-time examples and tables, with Ray Data.

python -m ray_jobs.prepare --recipe demo --workdir runs/demo
"""

import json
import logging
import math
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convcg.data import prepared
from convcg.data.caps import kept_shares
from convcg.data.card.facts import card_facts
from convcg.data.card.page import card_page
from convcg.data.day_counts import merged
from convcg.data.event_codes import advertiser_numbers
from convcg.data.feature_encoders import Encoders
from convcg.data.partition import PartitionConfig
from convcg.data.split import SplitTimes
from convcg.data.survey import Survey
from convcg.data.tables import RowTable, write_table
from convcg.data.violation import ValidationReport
from convcg.errors import DataError
from convcg.storage import delete_directory, exists, list_files, locate, write_bytes
from convcg.types import Action, Task
from ray_jobs import partitions
from ray_jobs.partitions import COUNTS, PIN_DAYS, UNFINISHED, Stretch, stretches
from ray_jobs.run import Run, Stage, stage_main, summary_of
from ray_jobs.sources import Sources, pins_of, read_pins, sources_of, validated, write_pins_and_people, write_users
from ray_jobs.units import each

_log = logging.getLogger(__name__)

#: What a task needs for each event at its peak, as measured (benchmarks/RESULTS.md): to read and encode a stretch of
#: the log, and to build a partition.
_BYTES_TO_SPILL = 700
_BYTES_TO_BUILD = 700


def work(run: Run) -> None:
    """Validate, then build everything of `convcg.data.prepared` in `run.prepared`."""
    sources = sources_of(run)
    report = validated(run.config, sources)
    delete_directory(run.prepared)
    preparation = _Preparation.of(run, sources, report)
    encoders = preparation.tables()
    survey, spilled = preparation.shuffle()
    times = SplitTimes.of(survey.last_event, run.config.split)
    tally = preparation.build(spilled, survey, times, encoders)
    num_train = preparation.finish(tally)
    summary = prepared.Summary(
        num_pins=len(RowTable.open(run.prepared / prepared.PINS)),
        num_users=write_users(run.prepared, times, has_users=sources.users is not None),
        num_events=survey.num_events,
        num_train=num_train,
        num_validation=int(tally["rows.validation"]),
        num_test=int(tally["rows.test"]),
        times=times,
        history=run.config.history,
        notes=report.notes,
    )
    if sum(num_train.values()) == 0 or summary.num_test == 0:
        raise DataError(
            f"the split leaves {sum(num_train.values())} training examples and {summary.num_test} test queries; both "
            "must be there. Check split.test_days, validation_days and gap_days, examples.weights, and the events' "
            "time range and actions."
        )
    _write_card(run, summary, survey, tally)
    delete_directory(run.prepared / UNFINISHED)
    write_bytes(run.prepared / prepared.SUMMARY, summary.to_bytes())
    _log.info(
        "prepared %s examples, %d test queries, %d pins, %d users; the data card is %s",
        " + ".join(f"{count} {task}" for task, count in num_train.items()),
        summary.num_test, summary.num_pins, summary.num_users, (run.prepared / prepared.CARD_PAGE).uri,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preparation:
    """One run's passes over the log. Every task is given `memory` bytes, and about `rows` events to read."""

    run: Run
    sources: Sources
    stretches: list[Stretch]
    rows: int
    num_partitions: int
    memory: int
    #: The moment of the validation, where broken events are set aside; None where there are none.
    quarantined_at: float | None

    @classmethod
    def of(cls, run: Run, sources: Sources, report: ValidationReport) -> "_Preparation":
        memory = run.config.data.task_memory_mb << 20
        rows = max(1, memory // _BYTES_TO_SPILL)
        return cls(
            run=run,
            sources=sources,
            stretches=stretches(list_files(locate(sources.events)), rows),
            rows=rows,
            num_partitions=max(1, math.ceil(report.rows["events"] * _BYTES_TO_BUILD / memory)),
            memory=memory,
            quarantined_at=report.checked_at if report.broken_rows else None,
        )

    def tables(self) -> Encoders:
        """Write the pin table, the encoders and the raw users."""
        pins = read_pins(self.sources)
        if pins is None:
            found = each(
                "stretches read for pins", self.stretches, partitions.distinct_pins,
                memory=self.memory,
                rows=self.rows,
                quarantined_at=self.quarantined_at,
            )  # fmt: skip
            pins = pins_of(pc.unique(pa.concat_tables(list(found))["pin_id"]))
        return write_pins_and_people(self.run, pins, self.sources)

    def shuffle(self) -> tuple[Survey, list[str]]:
        """Count all events, and shuffle them into partitions of users; returns the files that hold them, too."""
        found = each(
            "stretches shuffled", self.stretches, partitions.spill,
            memory=self.memory,
            rows=self.rows,
            directory=self.run.prepared,
            num_partitions=self.num_partitions,
            seen_until=self.run.config.split.seen_until,
            quarantined_at=self.quarantined_at,
            has_pins=self.sources.pins is not None,
        )  # fmt: skip
        facts = pa.concat_tables(list(found))
        files = facts.filter(pc.equal(facts["fact"], partitions.FILE))["text"].to_pylist()
        return Survey.of([facts.drop_columns(["text"])]), files

    def build(self, spilled: list[str], survey: Survey, times: SplitTimes, encoders: Encoders) -> Counter[str]:
        """Write what comes of each partition of users; returns the added-up tallies."""
        directory = self.run.prepared
        config = PartitionConfig(
            times=times,
            examples=self.run.config.examples,
            history=self.run.config.history,
            median_dwell=survey.median_dwell(times.train),
            pin_counts=tuple(encoder.feature.action for encoder in encoders.pin if encoder.feature.action is not None),
        )
        built = each(
            "partitions built", range(self.num_partitions), partitions.build,
            memory=self.memory,
            directory=directory,
            spilled=spilled,
            config=config,
            encoders=encoders.user,
            has_users=self.sources.users is not None,
        )  # fmt: skip
        tally: Counter[str] = Counter()
        for table in built:
            tally.update({name: sum(table[name].to_pylist()) for name in table.column_names})
        return tally

    def finish(self, tally: Counter[str]) -> dict[str, int]:
        """Thin the examples to the caps and give them their final weights; returns how many are left."""
        directory, examples = self.run.prepared, self.run.config.examples
        pins = RowTable.open(directory / prepared.PINS)
        count_N = {name: np.zeros(len(pins), np.int64) for name in (*Task, "served")}
        for file in list_files(directory / COUNTS, suffix=".parquet"):
            counts = prepared.read_part(file)
            for name, count in count_N.items():
                count[counts["pin"].to_numpy()] += counts[name].to_numpy()
        share_N = kept_shares(
            count_N[Task.CONVERSION] + count_N[Task.ENGAGEMENT],
            advertiser_numbers(pins),
            per_pin=examples.per_pin,
            per_advertiser=examples.per_advertiser,
        )
        finished = each(
            "partitions finished", range(self.num_partitions), partitions.finish,
            memory=self.memory,
            directory=directory,
            share_N=share_N,
            click_weight=examples.weights.get(Action.CLICK, 0.0),
            mean_dwell_weight=tally["dwell_weights"] / tally["clicks"] if tally["clicks"] else 1.0,
        )  # fmt: skip
        left_N = {task.value: np.zeros(len(pins), np.int64) for task in Task}
        for table in finished:
            for task, count in left_N.items():
                rows = table.filter(pc.equal(table["task"], task))
                count[rows["pin"].to_numpy()] += rows["count"].to_numpy()
        write_table(pa.table({**left_N, "served": count_N["served"]}), directory / prepared.FREQUENCIES)
        if exists(directory / PIN_DAYS):
            days = map(prepared.read_part, list_files(directory / PIN_DAYS, suffix=".parquet"))
            write_table(merged(days), directory / prepared.PIN_DAYS)
        return {task: int(count.sum()) for task, count in left_N.items()}


def _write_card(run: Run, summary: prepared.Summary, survey: Survey, tally: Counter[str]) -> None:
    card = card_facts(run.prepared, summary, survey, tally)
    write_bytes(run.prepared / prepared.CARD, json.dumps(card, indent=1).encode())
    write_bytes(run.prepared / prepared.CARD_PAGE, card_page(card).encode())


STAGE = Stage(
    name="prepare",
    parts=("data", "world", "split", "history", "examples", "features"),
    after=(),
    work=work,
    output=lambda run: run.prepared / prepared.SUMMARY,
    reads_tables=True,
)
main = stage_main(STAGE.execute, name="prepare", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
