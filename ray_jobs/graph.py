"""`convcg graph`: vectors of pins from who acted on what in the training time.

python -m ray_jobs.graph --recipe demo --workdir runs/demo
"""

import logging
import sys

from convcg.data.prepared import Prepared
from convcg.graph.build import build
from convcg.graph.config import GraphKind
from convcg.graph.vectors import write_none
from ray_jobs import prepare
from ray_jobs.run import Run, Stage, stage_main, summary_of

_log = logging.getLogger(__name__)


def work(run: Run) -> None:
    """Write the vectors to `run.graph`; an empty file where `graph.kind` is none.

    Done in this process: one 0/1 matrix of people and pins is held in memory, 8 bytes an entry.
    """
    config = run.config.graph
    data = Prepared.open(run.prepared)
    if config.kind is GraphKind.NONE:
        write_none(run.graph)
        return
    built = build(config, data.interactions(), data.pins(), data.encoders().shapes.pin)
    built.vectors.write(run.graph)
    _log.info(
        "%s vectors of %d pins: %d from edges, %d from content alone, %d have none",
        config.kind.value, len(built.vectors.degree_N), built.num_from_edges, built.num_from_content, built.num_without,
    )  # fmt: skip


STAGE = Stage(name="graph", parts=("graph",), after=(prepare.STAGE,), work=work, output=lambda run: run.graph)
main = stage_main(STAGE.execute, name="graph", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
