"""`convcg world`: write the built-in world, its blocks of users in parallel with Ray Data.

python -m ray_jobs.world --recipe demo --workdir runs/demo
"""

import logging
import sys

import ray
import ray.data

from convcg.data.world import WorldConfig, WorldSummary
from convcg.data.world.write import start_world, summarised, write_block
from convcg.log import progress
from ray_jobs.run import Run, stage_main, summary_of

_log = logging.getLogger(__name__)
#: A task works on several blocks where there are many, so that starting it costs little.
_MAX_TASKS = 2000


def generate(config: WorldConfig, directory: str) -> WorldSummary:
    """Write the same bytes as `convcg.data.world.write_world`, on all of the cluster's CPUs.

    `directory` must be one that every node sees. Each node keeps one copy of the catalogue.

    Raises:
        StorageError: the files cannot be written; as Ray's error with that cause where a worker meets it.
    """
    catalogue = ray.put(start_world(config, directory))

    # A function inside a function travels by value: the workers do not import this module, and so not torch.
    def write(row: dict[str, int]) -> dict[str, int]:
        return write_block(config, ray.get(catalogue), directory, row["id"])

    num_blocks = config.num_blocks
    written = ray.data.range(num_blocks, override_num_blocks=min(num_blocks, _MAX_TASKS)).map(write)
    counts = []
    with progress("blocks of users", total=num_blocks) as meter:
        for row in written.iter_rows():
            counts.append(row)
            meter.advance()
    return summarised(config, directory, counts)


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
