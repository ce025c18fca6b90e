"""What went wrong inside Ray, as the user's error that it was: one message, and no traceback of Ray's."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray.exceptions
from ray.train import TrainingFailedError

from convcg.errors import ConvcgError, TrainingError


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise a `ConvcgError` that a task or worker met as it was there, and lost workers as a `TrainingError`."""
    try:
        yield
    except (ray.exceptions.RayError, TrainingFailedError) as error:
        for cause in _causes(error):
            if isinstance(cause, ConvcgError) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from None
        if isinstance(error, TrainingFailedError):
            reason = str(error).strip().splitlines()[-1]
            raise TrainingError(
                f"training failed and was not to be restarted again (train.max_failures): {reason}. "
                "Run the same command with -v to see the workers' messages; it goes on from the last checkpoint."
            ) from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps, in Ray's various ways."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, getattr(current, "cause", None), getattr(current, "controller_failure", None)]
        waiting += list(getattr(current, "worker_failures", {}).values())
