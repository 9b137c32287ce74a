"""What an evaluation leaves: items.parquet, which says everything, and results.json, which follows from it.

The parquet's metadata name the model and, task by task, the data, so that a later call knows what need not be done
again. Both files are written whole after every task.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.errors import BuildError
from cdgen.evaluation.floors import FLOORS
from cdgen.evaluation.scores import part_scores, task_score
from cdgen.evaluation.table import SCHEMA
from cdgen.storage import atomic_file, atomic_write, canonical_json, parse_json, reading
from cdgen.storage.jsons import check_format

FORMAT = 2
_REPLACED = {"wug_adj": 2}
"""Tasks that are scored in another way since a format: what was written before it is not there any more."""
ITEMS, RESULTS = "items.parquet", "results.json"
_KEY = b"cdgen_evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What was evaluated, and numbers beside the score.

    Attributes:
        data: digest of the data.
        limit: items of each part at most; None = all.
        besides: further numbers for results.json.
        score: where it does not follow from the items (lm-eval's own metrics).
    """

    data: str
    limit: int | None
    besides: Mapping[str, Any] = field(default_factory=dict)
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one checkpoint.

    Attributes:
        model: its name, hashes, and what it ran on.
        tasks: what was evaluated, by task.
        items: all items, in the columns of `table.SCHEMA`.
    """

    model: Mapping[str, Any]
    tasks: Mapping[str, TaskRecord]
    items: pa.Table

    @classmethod
    def empty(cls, model: Mapping[str, Any]) -> Self:
        """Nothing evaluated yet."""
        return cls(model, {}, SCHEMA.empty_table())

    def has(self, task: str, data: str, limit: int | None) -> bool:
        """Whether a task was evaluated on these data."""
        found = self.tasks.get(task)
        return found is not None and (found.data, found.limit) == (data, limit)

    def with_task(self, task: str, record: TaskRecord, items: pa.Table) -> Self:
        """The same, and one more task; an earlier result of it is replaced."""
        others = self.items.filter(pa.compute.not_equal(self.items["task"], task))
        return replace(
            self,
            tasks={**self.tasks, task: record},
            items=pa.concat_tables([others, items]).sort_by([("task", "ascending")]),
        )

    def scores(self, only: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """`tasks` of results.json: score, parts, floor and so on, by task; of all of them or of some."""
        return {
            task: self._scores(task, record)
            for task, record in sorted(self.tasks.items())
            if only is None or task in only
        }

    def _scores(self, task: str, record: TaskRecord) -> dict[str, Any]:
        items = self.items.filter(pa.compute.equal(self.items["task"], task))
        floor = FLOORS.get(task)
        score = task_score(task, items) if record.score is None else record.score
        return {
            "score": score,
            "parts": part_scores(task, items) if record.score is None else {},
            "floor": floor.as_json() if floor else None,
            "items": len(items),
            "data": record.data,
            "limit": record.limit,
            **dict(sorted(record.besides.items())),
        }

    def as_json(self) -> dict[str, Any]:
        """All of results.json."""
        return {"format": FORMAT, "model": dict(sorted(self.model.items())), "tasks": self.scores()}


def write_evaluation(folder: Path, found: Evaluation) -> None:
    """Write both files; results.json last."""
    about = {
        "format": FORMAT,
        "model": dict(found.model),
        "tasks": {
            task: {
                "data": one.data,
                "limit": one.limit,
                "besides": dict(one.besides),
                "score": one.score,
            }
            for task, one in found.tasks.items()
        },
    }
    table = found.items.replace_schema_metadata({_KEY: canonical_json(about)})
    with atomic_file(folder / ITEMS) as file:
        pq.write_table(table, file, compression="zstd")
    results = json.dumps(found.as_json(), indent=1, ensure_ascii=False)
    atomic_write(folder / RESULTS, results.encode() + b"\n")


def read_evaluation(folder: Path) -> Evaluation | None:
    """What an earlier call left in a folder; None where there is nothing.

    Raises:
        BuildError: it is damaged, or of a newer cdgen.
    """
    path = folder / ITEMS
    if not path.is_file():
        return None
    with reading(path):
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise BuildError(f"{path}: damaged: {str(error).splitlines()[0][:120]}") from None
    data = (table.schema.metadata or {}).get(_KEY)
    if data is None or not table.schema.equals(SCHEMA):
        raise BuildError(f"{path}: not written by cdgen eval; choose another --out")
    given: Any = parse_json(data, path)
    about = check_format(given, FORMAT, str(path))
    old = [task for task, since in _REPLACED.items() if given["format"] < since]
    try:
        tasks = {task: TaskRecord(**one) for task, one in about["tasks"].items() if task not in old}
        kept = pa.compute.invert(pa.compute.is_in(table["task"], pa.array(old, pa.string())))
        return Evaluation(dict(about["model"]), tasks, table.filter(kept))
    except (KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path}: damaged: its metadata lack {error}") from None
