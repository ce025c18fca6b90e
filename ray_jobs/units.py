"""The same work on many units, such as stretches of a log, in Ray's processes; a user's error there stays one here.

Imports neither torch nor the command line, so that those processes do not either.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from convcg import errors
from convcg.log import progress
from ray_jobs.cluster import cpus_per_task

_ERROR = "error"


def each(
    title: str, units: Sequence[Any], work: Callable[..., pa.Table], *, memory: int | None = None, **arguments: Any
) -> Iterator[pa.Table]:
    """What `work(unit, **arguments)` returns for each unit, in order, while progress shows under the title.

    `memory`: the bytes that Ray sets aside for each unit under way; None for none.

    Raises:
        ConvcgError: the first that `work` raised, of the same type and with the same message.
    """
    done = ray.data.range(len(units), override_num_blocks=len(units)).map_batches(
        _of_units,
        fn_kwargs={"units": list(units), "work": work, "arguments": arguments},
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=cpus_per_task(),
        memory=memory,
    )
    with progress(title, total=len(units)) as meter:
        for table in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            if _ERROR in table.column_names:
                raise getattr(errors, table[_ERROR][0].as_py())(table["message"][0].as_py())
            meter.advance()
            yield table


def _of_units(
    block: pa.Table, *, units: Sequence[Any], work: Callable[..., pa.Table], arguments: dict[str, Any]
) -> pa.Table:
    """What `work` returns for each of the units whose numbers the block holds (column `id`).

    A user's error comes back as a row: Ray Data would lose its type amid messages of its own.
    """
    try:
        return pa.concat_tables([work(units[number], **arguments) for number in block["id"].to_pylist()])
    except errors.ConvcgError as error:
        return pa.table({_ERROR: [type(error).__name__], "message": [str(error)]})
