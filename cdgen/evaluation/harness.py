"""Every other task, through lm-evaluation-harness (`pip install 'cdgen[eval]'`), on the model that is loaded."""

import hashlib
from typing import Any

import pyarrow as pa

from cdgen.errors import BuildError, UsageError
from cdgen.evaluation.results import TaskRecord
from cdgen.evaluation.table import SCHEMA
from cdgen.evaluation.tasks import HARNESS_PREFIX

_METRICS = ("acc_norm,none", "acc,none", "exact_match,none", "f1,none")
"""The one that is a task's `score` is the first of these that it has, else its first metric."""
_PER_ITEM = ("acc_norm", "acc", "exact_match", "f1")


def check_installed(tasks: list[str]) -> None:
    """Before any work: whether lm-eval is here and knows the tasks.

    Raises:
        UsageError: it is not, or it does not.
    """
    known = set(_manager().all_tasks)
    for task in tasks:
        name = task.removeprefix(HARNESS_PREFIX)
        if name not in known:
            raise UsageError(
                f"{task}: lm-eval {_version()} has no task {name!r}; `lm-eval ls tasks` lists them"
            )


def digest(task: str) -> str:
    """What says that a result is of the same task: its name and lm-eval's version; it has its own data."""
    return hashlib.sha256(f"{task} lm-eval {_version()}".encode()).hexdigest()


def run(task: str, model: Any, tokenizer: Any, *, limit: int | None) -> tuple[TaskRecord, pa.Table]:
    """The record and the items of one of lm-eval's tasks or groups.

    Raises:
        BuildError: lm-eval could not run it, such as for want of its data.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    name = task.removeprefix(HARNESS_PREFIX)
    try:
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=32),
            tasks=[name],
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
        )
    except Exception as error:  # lm-eval and the data sets behind it can raise anything
        first = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise BuildError(f"{task}: lm-eval could not run it: {first}") from error
    metrics = _numbers(found["results"][name])
    by_name = [metrics[one] for one in _METRICS if one in metrics] or list(metrics.values())
    if not by_name:
        raise BuildError(f"{task}: lm-eval gave no number for it")
    record = TaskRecord(
        data=digest(task), limit=limit, besides={"metrics": metrics}, score=by_name[0]
    )
    return record, _items(task, found.get("samples") or {})


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in found.items()
        if isinstance(value, int | float) and "stderr" not in key and "," in key
    }


def _items(task: str, samples: dict[str, list[dict[str, Any]]]) -> pa.Table:
    """A row per document; value: its accuracy or the like."""
    rows = []
    for part, documents in samples.items():
        for one in documents:
            value = next((float(one[key]) for key in _PER_ITEM if key in one), None)
            if value is not None:
                rows.append(
                    {"task": task, "part": part, "item": str(one["doc_id"]), "value": value}
                )
    blank = {"scores": [], "gold": 0, "tags": [], "inputs": []}
    return pa.Table.from_pylist([row | blank for row in rows], schema=SCHEMA)


def _manager() -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UsageError(
            "tasks of lm-eval need lm-eval: pip install 'cdgen[eval]'; the study's tasks need nothing more"
        ) from None
    return TaskManager()


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
