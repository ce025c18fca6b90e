"""Sets broken events aside: the sound rows go on, the broken ones are kept with the rule that each of them breaks.

What `validate_tables` counts as broken events and what is set aside here follow from the same masks.
"""

import numpy as np
import pyarrow as pa

from convcg import schema
from convcg.data.value_rules import as_mask, broken_rows, unknown_pins

#: The columns that a broken row gets: the first rule that it breaks, and the column that breaks it.
BROKEN_RULE = "broken_rule"
BROKEN_COLUMN = "broken_column"


def sound_rows(block: pa.Table, pin_ids: pa.Array | None, *, now: float) -> tuple[pa.Table, pa.Table]:
    """The sound rows of a block of events as they are, and the broken rows, in order, with `BROKEN_RULE` and
    `BROKEN_COLUMN` (strings) added.

    `block` is as read from Parquet, in types that the contract accepts. `pin_ids` are the ids (strings) of the pins
    table, None where there is none. `now` is `ValidationReport.checked_at`: a later moment would forgive rows that
    were counted as broken.
    """
    broken = [*broken_rows(block, schema.EVENTS, now=now)]
    if pin_ids is not None:
        broken += unknown_pins(block, pin_ids)
    first = np.full(block.num_rows, -1)
    for place, (_, _, bad) in enumerate(broken):
        first[(first < 0) & as_mask(bad)] = place
    set_aside = np.flatnonzero(first >= 0)
    place = pa.array(first[set_aside])
    named = {
        BROKEN_RULE: pa.array([rule.value for _, rule, _ in broken], pa.string()).take(place),
        BROKEN_COLUMN: pa.array([column for column, _, _ in broken], pa.string()).take(place),
    }
    # A table that was in quarantine before, and was mended in part, has these columns already.
    kept = block.drop_columns([name for name in named if name in block.column_names]).take(pa.array(set_aside))
    for name, values in named.items():
        kept = kept.append_column(name, values)
    return (block.filter(pa.array(first < 0)) if len(set_aside) else block), kept
