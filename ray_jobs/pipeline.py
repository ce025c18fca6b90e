"""`convcg pipeline`: all stages in order, skipping what has not changed.

python -m ray_jobs.pipeline --recipe demo --workdir runs/demo
"""

import json
import logging
import sys

from convcg.storage import read_bytes, write_bytes
from ray_jobs import evaluate, graph, index, prepare, publish, train
from ray_jobs.evaluate import print_recall
from ray_jobs.run import Run, stage_main, summary_of

_log = logging.getLogger(__name__)
STAGES = (prepare.STAGE, graph.STAGE, train.STAGE, index.STAGE, evaluate.STAGE, publish.STAGE)


def work(run: Run) -> None:
    """Bring every stage up to date and write how long each took into `run.metrics`."""
    skipped = set()
    for stage in STAGES:
        if stage.is_done(run):
            _log.info("%s: skipped, nothing has changed", stage.name)
            skipped.add(stage)
        else:
            stage.execute(run)
    metrics = json.loads(read_bytes(run.metrics))
    metrics["seconds"] = {stage.name: stage.record(run)["seconds"] for stage in STAGES}
    write_bytes(run.metrics, json.dumps(metrics, indent=1).encode())
    if evaluate.STAGE in skipped:
        print_recall(metrics)


main = stage_main(work, name="pipeline", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
