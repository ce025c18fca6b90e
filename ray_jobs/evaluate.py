"""`convcg evaluate`: exact recall of the bundle beside the baselines, and the gate.

python -m ray_jobs.evaluate --recipe demo --workdir runs/demo
"""

import json
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from convcg.bundle import Bundle
from convcg.data.prepared import Prepared
from convcg.evaluate import check_gate, evaluate
from convcg.retriever.retriever import Retriever
from convcg.storage import write_bytes
from ray_jobs import index
from ray_jobs.run import Run, Stage, stage_main, summary_of

#: In the workdir: the rank of every query's target, for each system; see `convcg.evaluate.Evaluation`.
RANKS = "ranks.parquet"


def work(run: Run) -> None:
    """Write `run.metrics` and every query's ranks, print the recall, and fail where the gate is not passed."""
    bundle = Bundle.open(run.bundle.uri)
    config = run.config
    found = evaluate(
        Retriever.open(bundle), Prepared.open(run.prepared), bundle.pins, config.retrieval, config.evaluate
    )
    metrics = found.metrics
    sink = pa.BufferOutputStream()
    pq.write_table(found.ranks, sink, compression="zstd")
    write_bytes(run.workdir / RANKS, sink.getvalue())
    write_bytes(run.metrics, json.dumps(metrics, indent=1).encode())
    print_recall(metrics)
    check_gate(metrics, run.config.evaluate.gate)


def print_recall(metrics: dict[str, Any]) -> None:
    """The recall table, the model first."""
    names = list(metrics["recall"]["model"])
    of = f"{metrics['num_queries']} queries, {metrics['num_pins']} pins"
    table = Table(title=f"bundle {metrics['model_version']}: {of}")
    table.add_column("", justify="left")
    for name in names:
        table.add_column(name, justify="right")
    for name, recall in metrics["recall"].items():
        error = metrics["standard_error"][name]
        table.add_row(name, *(f"{recall[key]:.4f} ± {error[key]:.4f}" for key in names))
    Console().print(table)


STAGE = Stage(name="evaluate", parts=("evaluate",), after=(index.STAGE,), work=work, output=lambda run: run.metrics)
main = stage_main(STAGE.execute, name="evaluate", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
