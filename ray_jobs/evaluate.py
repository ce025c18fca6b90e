"""`convcg evaluate`: exact recall of the bundle beside the baselines, and the gate.

python -m ray_jobs.evaluate --recipe demo --workdir runs/demo
"""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from convcg.bundle import Bundle
from convcg.data.prepared import Prepared
from convcg.data.tables import write_parquet
from convcg.evaluate import check_gate, evaluate
from convcg.ranks import RANKS
from convcg.retriever.retriever import Retriever
from convcg.storage import write_bytes
from ray_jobs import index
from ray_jobs.run import Run, Stage, stage_main, summary_of

#: In the workdir: some test queries with the model's answers; see `convcg.evaluate.Evaluation`.
SAMPLES = "samples.json"


def work(run: Run) -> None:
    """Write `run.metrics`, every query's ranks and the samples, print the recall, and fail below the gate."""
    bundle = Bundle.open(run.bundle.uri)
    config = run.config
    found = evaluate(
        Retriever.open(bundle),
        Prepared.open(run.prepared),
        bundle.pins,
        bundle.users,
        config.retrieval,
        config.evaluate,
        world=config.world if config.data.events is None else None,
    )
    write_parquet(found.ranks, run.workdir / RANKS)
    write_bytes(run.workdir / SAMPLES, json.dumps(found.samples, indent=1).encode())
    write_bytes(run.metrics, json.dumps(found.metrics, indent=1).encode())
    print_recall(found.metrics)
    check_gate(found.metrics, run.config.evaluate.gate)


def print_recall(metrics: dict[str, Any]) -> None:
    """The recall table, the model first; with an oracle also what share of its recall the model reaches."""
    names = list(metrics["recall"]["model"])
    of = f"{metrics['num_queries']} queries, {metrics['num_pins']} pins"
    table = Table(title=f"bundle {metrics['model_version']}: {of}")
    table.add_column("", justify="left")
    for name in names:
        table.add_column(name, justify="right")
    for name, recall in metrics["recall"].items():
        error = metrics["standard_error"][name]
        table.add_row(name, *(f"{recall[key]:.4f} ± {error[key]:.4f}" for key in names))
    if share := metrics.get("oracle_share"):
        table.add_row("model / oracle", *(f"{share[key]:.1%}" if key in share else "-" for key in names))
    Console().print(table)


STAGE = Stage(name="evaluate", parts=("evaluate",), after=(index.STAGE,), work=work, output=lambda run: run.metrics)
main = stage_main(STAGE.execute, name="evaluate", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
