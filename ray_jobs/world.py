"""`convcg world`: write the built-in world, its blocks of users in parallel with Ray Data.

python -m ray_jobs.world --recipe demo --workdir runs/demo
"""

import logging
import math
import sys

import pyarrow as pa
import ray

from convcg.data.world import WorldConfig, WorldSummary
from convcg.data.world.write import start_world, summarised, write_block
from ray_jobs.run import Run, stage_main, summary_of
from ray_jobs.units import each

_log = logging.getLogger(__name__)
#: A task writes several blocks where there are many, so that starting it costs little.
_MAX_TASKS = 2000


def generate(config: WorldConfig, directory: str) -> WorldSummary:
    """Write the same bytes as `convcg.data.world.write_world`, on all of the cluster's CPUs.

    `directory` must be one that every node sees. Each node keeps one copy of the catalogue.

    Raises:
        StorageError: the files cannot be written.
    """
    catalogue = ray.put(start_world(config, directory))

    # A function inside a function travels by value: the workers do not import this module, and so not torch.
    def write(blocks: range) -> pa.Table:
        return pa.Table.from_pylist([write_block(config, ray.get(catalogue), directory, block) for block in blocks])

    numbers = range(config.num_blocks)
    most = math.ceil(len(numbers) / _MAX_TASKS)
    written = each("world written", [numbers[first : first + most] for first in numbers[::most]], write)
    return summarised(config, directory, (counts for table in written for counts in table.to_pylist()))


def work(run: Run) -> None:
    """Write the run's world into `world` in its working directory."""
    summary = generate(run.config.world, (run.workdir / "world").uri)
    _log.info(
        "%d events of %d users on %d pins in %s",
        summary.num_events, summary.num_users, summary.num_pins, (run.workdir / "world").uri,
    )  # fmt: skip
    _log.info("%s", ", ".join(f"{count} {action}" for action, count in summary.actions.items()))


main = stage_main(work, name="world", summary=summary_of(__doc__))

if __name__ == "__main__":
    sys.exit(main())
