"""The table of items: one row per item, the same columns for every task."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cdgen.evaluation.items import Item

SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "part": pa.string(),
        "item": pa.string(),
        "value": pa.float64(),
        "scores": pa.list_(pa.float64()),
        "gold": pa.int32(),
        "tags": pa.list_(pa.string()),
        "inputs": pa.list_(pa.float64()),
    }
)
"""`value` is 1.0 or 0.0 where an answer is right or wrong, else the item's own quantity; `scores` are the options'
log-probabilities in nats; `inputs` are numbers from the data that the task's score needs besides."""


def items_table(
    task: str, items: Sequence[Item], values: Sequence[float], scores: Sequence[np.ndarray]
) -> pa.Table:
    """The rows of a task."""
    columns = {
        "task": [task] * len(items),
        "part": [item.part for item in items],
        "item": [item.name for item in items],
        "value": list(values),
        "scores": [one.tolist() for one in scores],
        "gold": [item.gold for item in items],
        "tags": [list(item.tags) for item in items],
        "inputs": [list(item.inputs) for item in items],
    }
    return pa.table(columns, schema=SCHEMA)
