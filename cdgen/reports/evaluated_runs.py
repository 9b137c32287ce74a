"""Runs with evaluated checkpoints, as a comparison reads them: scores, and the same draws of items for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.errors import BuildError, UsageError
from cdgen.evaluation.scores import task_score
from cdgen.evaluation.statistics import DRAWS, Floats, generator, item_weights
from cdgen.storage import parse_json, reading
from cdgen.training.record import RunRecord, read_record, step_name

_CHUNK = 200
"""Draws at a time: a row of weights is as long as its task."""
_COLUMNS = ["task", "part", "item", "value", "inputs"]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A run and its evaluated checkpoints, by step."""

    folder: Path
    record: RunRecord
    scores: Mapping[int, Mapping[str, Mapping[str, Any]]]

    def items(self, step: int, task: str) -> pa.Table:
        """The items of a task, in the order of part and item."""
        path = self.folder / "eval" / step_name(step) / "items.parquet"
        with reading(path):
            table = pq.read_table(path, columns=_COLUMNS, filters=[("task", "=", task)])
        return table.sort_by([("part", "ascending"), ("item", "ascending")])

    def score(self, step: int, task: str) -> float:
        """Of a checkpoint."""
        return float(self.scores[step][task]["score"])

    def step(self, task: str, selection: str) -> int:
        """The checkpoint by held-out perplexity; or the best one on the very task, as in the study."""
        if selection == "held-out":
            return self.record.best.step
        better = min if task == "perplexity" else max
        return better(sorted(self.scores), key=lambda step: self.score(step, task))

    def floor(self, task: str) -> str:
        """Scores of untrained models, else of chance; "" where neither is known."""
        floor = self.scores[self.record.best.step][task].get("floor") or {}
        if floor.get("untrained"):
            return " to ".join(f"{value:.3f}" for value in floor["untrained"])
        return "" if floor.get("chance") is None else f"{floor['chance']:.3f}"


def read_evaluated(folder: Path) -> Evaluated:
    """A run and its results.

    Raises:
        UsageError: it is not finished, or its best checkpoint is not evaluated.
        BuildError: a file is damaged.
    """
    record = read_record(folder)
    if record is None:
        raise UsageError(f"{folder}: no run.json, so no finished run; cdgen train makes one")
    scores = {}
    for kept in record.checkpoints:
        path = folder / "eval" / step_name(kept.step) / "results.json"
        if path.is_file():
            found = parse_json(path.read_bytes(), path)
            if not isinstance(found, dict) or not isinstance(found.get("tasks"), dict):
                raise BuildError(f"{path}: not written by cdgen eval; evaluate again")
            scores[kept.step] = found["tasks"]
    best = record.best.step
    if best not in scores:
        raise UsageError(
            f"{folder}: its best checkpoint by held-out perplexity, step {best}, is not evaluated; "
            f"run cdgen eval {folder / step_name(best)}"
        )
    return Evaluated(folder, record, scores)


class Drawn:
    """A task's scores under the same draws of items for every run and step, each made once."""

    def __init__(self, task: str, first: Evaluated) -> None:
        self.task, self._first = task, first
        self._items = first.items(first.record.best.step, task).select(["part", "item"])
        self._kept: dict[tuple[Path, int], Floats] = {}

    def draws(self, run: Evaluated, step: int) -> Floats:
        """`[B]`; UsageError: the checkpoint was evaluated on other items."""
        key = (run.folder, step)
        if key not in self._kept:
            items = run.items(step, self.task)
            if not items.select(["part", "item"]).equals(self._items):
                raise UsageError(
                    f"{run.folder}: step {step} has other items of {self.task} than {self._first.folder} "
                    f"({len(items):,} and {len(self._items):,}); evaluate both on the same data, without --limit"
                )
            columns = {name: items[name].to_pylist() for name in ("part", "value", "inputs")}
            self._kept[key] = np.concatenate([
                task_score(self.task, columns, self._weights[at : at + _CHUNK])
                for at in range(0, DRAWS, _CHUNK)
            ])  # fmt: skip
        return self._kept[key]

    @cached_property
    def _weights(self) -> np.ndarray:
        """`[B, N]`: to draw them takes longer than to use them. No item is drawn 65,536 times."""
        random = generator("items", self.task)
        return np.concatenate([
            item_weights(random, len(self._items), _CHUNK).astype(np.uint16)
            for _ in range(DRAWS // _CHUNK)
        ])  # fmt: skip
