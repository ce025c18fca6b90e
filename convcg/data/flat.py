"""Rows that stand by themselves: requests, examples and queries with what they refer to in a partition's tables."""

import numpy as np
import pyarrow as pa

from convcg.data.history import Actions, HistoryConfig, Moments, histories


def queries_of(rows: pa.Table, actions: pa.Table, people: pa.Table, config: HistoryConfig) -> pa.Table:
    """Evaluation queries, or requests joined with their examples, with history and person in place of references.

    In place of user, history_first and history_end: user_id, the encoded user features, and the history as
    `convcg.data.history.histories` returns it.
    """
    acted = Actions.read(actions)
    columns = {name: rows[name] for name in rows.column_names if name not in ("user", "history_first", "history_end")}
    user = rows["user"].to_numpy().astype(np.int64)
    moments = Moments(user=user, time=rows["time"].to_numpy(), target=rows["target"].to_numpy())
    stretch = rows["history_first"].to_numpy().astype(np.int64), rows["history_end"].to_numpy().astype(np.int64)
    person = people.take(pa.array(user))
    of_person = {name: person[name] for name in person.column_names}
    return pa.table({**columns, **of_person, **histories(acted, moments, stretch, config)})


def examples_with_requests(examples: pa.Table, requests: pa.Table) -> pa.Table:
    """Training examples with the columns of their request."""
    asked = requests.take(examples["request"].combine_chunks())
    columns = {name: asked[name] for name in asked.column_names}
    return pa.table({**columns, **{name: examples[name] for name in examples.column_names if name != "request"}})
