"""What a model says of a task's options: the items' results, as rows of items.parquet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cdgen.decode.models import max_positions_of
from cdgen.evaluation.items import Item
from cdgen.evaluation.scorer import Scorer
from cdgen.evaluation.table import items_table
from cdgen.evaluation.tasks import DERIVED
from cdgen.evaluation.tokens import TextEncoder
from cdgen.progress import Progress


def score_choices(
    task: str, items: Sequence[Item], scorer: Scorer, encoder: TextEncoder, progress: Progress
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """(the results of a task and of those that take some of its items, by name; what is said beside the score)."""
    options = [option for item in items for option in item.options]
    sequences = encoder.sequences(options)
    scored = [i for i, one in enumerate(sequences) if one.start < len(one.ids)]
    plan = scorer.plan([sequences[i] for i in scored])
    sums = np.zeros(len(options))
    with progress.stage(f"evaluate {task}", total=len(plan.rows), unit="row") as advance:
        sums[scored] = scorer.sums(plan, advance)
    per_item = np.split(sums, np.cumsum([len(item.options) for item in items])[:-1])
    found = {
        task: items_table(
            task, items, [_value(task, *one) for one in zip(items, per_item, strict=True)], per_item
        )
    }
    for name, (source, tag) in DERIVED.items():
        if source == task:
            found[name] = _with_tag(found[task], name, tag)
    limit = max_positions_of(scorer.model)
    beyond = 0 if limit is None else sum(len(one.ids) > limit for one in sequences)
    return found, ({"texts_beyond_context": beyond} if beyond else {})


def _value(task: str, item: Item, sums: np.ndarray) -> float:
    """1.0 or 0.0 for right or wrong (a tie goes to the first option); of wug_adj, the first option's probability."""
    if task == "wug_adj":
        # In float32 as the study has it: certainties are ties there, and the score is one of ranks.
        apart = np.exp((sums - sums.max()).astype(np.float32))
        return float(apart[0] / apart.sum())
    return float(int(np.argmax(sums)) == item.gold)


def _with_tag(table: pa.Table, name: str, tag: str) -> pa.Table:
    kept = table.filter(pa.array([tag in tags for tags in table["tags"].to_pylist()], pa.bool_()))
    return kept.set_column(0, "task", pa.array([name] * len(kept), pa.string()))
