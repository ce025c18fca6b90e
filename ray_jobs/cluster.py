"""Ray, started or joined, with its own noise out of the way."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data

from convcg.errors import ConfigError

#: Reaches every Ray process, which reads it where it is used.
ENVIRONMENT = {
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2",  # 32 by default: seconds of start-up for every pass over the data
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # convcg shows its own progress
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # prints would appear twice
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a checkpoint counts only once it is polled; 2 s by default
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; silences the warning about it
}
#: A laptop's two cores must hold a training worker and the tasks that feed it: CPUs are only Ray's bookkeeping.
_MIN_LOGICAL_CPUS = 4


@contextmanager
def connected(*, verbose: bool = False) -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names (as inside `ray job submit`), else start one here and stop it after.

    A Ray that is already connected in this process is used as it is, and left running.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    if ray.is_initialized():
        _configure_data(verbose=verbose)
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1),
            include_dashboard=None if address else False,
            runtime_env={"env_vars": {name: os.environ[name] for name in ENVIRONMENT}},
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"cannot join the Ray that RAY_ADDRESS = {address!r} names: {error}. "
            "Start it, or unset RAY_ADDRESS to start one here."
        ) from error
    _configure_data(verbose=verbose)
    try:
        yield
    finally:
        ray.shutdown()


def cpus_per_task() -> float:
    """What a task that computes should reserve, so that no more of them run than the machine has cores.

    One CPU; more where the Ray that was started here claims more CPUs than there are.
    """
    if os.environ.get("RAY_ADDRESS"):
        return 1.0
    return max(1.0, float(ray.cluster_resources().get("CPU", 1.0)) / (os.cpu_count() or 1))


def _configure_data(*, verbose: bool) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Training replays batches after an interruption, which needs the same order every time.
    context.execution_options.preserve_order = True
    if not verbose:
        for name in ("ray.data", "ray.train", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
