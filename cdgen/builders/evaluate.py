"""`cdgen eval`: every checkpoint on every task; what can be known to be wrong is said before any model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cdgen.builders.checkpoints import find_checkpoints
from cdgen.corpus import open_corpus
from cdgen.errors import UsageError
from cdgen.evaluation import harness
from cdgen.evaluation.places import EvalData
from cdgen.evaluation.reading import read_reading
from cdgen.evaluation.run import Sources, evaluate
from cdgen.evaluation.tasks import (
    CHOICE_TASKS,
    DERIVED,
    HARNESS_PREFIX,
    PERPLEXITY,
    READING_TASKS,
    STUDY,
    TASKS,
    read_task,
)
from cdgen.evaluation.tokens import TextEncoder
from cdgen.progress import Progress

GROUPS = {"study": STUDY}
"""Names for several tasks at once."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A checkpoint's name, where its results are, and those that were asked for: `tasks` of results.json."""

    name: str
    folder: Path
    tasks: dict[str, dict[str, Any]]


def evaluate_all(
    addresses: Sequence[str],
    tasks: Sequence[str],
    *,
    steps: Sequence[int] = (),
    data: Path | None = None,
    corpus: str | None = None,
    limit: int | None = None,
    out: Path | None = None,
    device: str | None = None,
    progress: Progress,
) -> list["Evaluated"]:
    """Evaluate checkpoints.

    Args:
        addresses: model folders, run folders, hf://OWNER/NAME[@REVISION].
        tasks: names, `study` for those of the reference study, `lm_eval:<task>` for others.
        steps: of run folders, only these.
        data: the folder of local copies.
        corpus: the corpus (folder or address) whose eval split perplexity is measured on.
        limit: items of each part at most.
        out: results go to a folder of the checkpoint's name in it; beside the checkpoint by default.
        device: where models run; a GPU where there is one by default.
        progress: told of every task.

    Raises:
        UsageError: anything that was asked for is not there.
        BuildError: results could not be written or are not cdgen's.
    """
    names = task_names(tasks)
    if PERPLEXITY in names and corpus is None:
        raise UsageError(
            "perplexity is measured on a corpus's eval split: name it with --corpus DIR"
        )
    checkpoints = find_checkpoints(addresses, steps)
    sources = Sources(
        data=EvalData(data),
        corpus=open_corpus(corpus) if corpus and PERPLEXITY in names else None,
        limit=limit,
    )
    _check_data(names, sources)
    for one in checkpoints:
        TextEncoder.load(one.folder)
    chosen = device or _best_device()
    done = []
    for one in checkpoints:
        if len(checkpoints) > 1:
            progress.say(one.name)
        place = one.results if out is None else out / one.name
        found = evaluate(
            one.folder,
            name=one.name,
            tasks=names,
            sources=sources,
            out=place,
            device=chosen,
            progress=progress,
        )
        done.append(Evaluated(one.name, place, found.scores(_with_derived(names))))
    return done


def _with_derived(names: Sequence[str]) -> list[str]:
    return [*names, *(name for name, (source, _) in DERIVED.items() if source in names)]


def task_names(given: Sequence[str]) -> list[str]:
    """The tasks by name, each once, in the order they were given.

    Raises:
        UsageError: none, or one that there is not; names the nearest.
    """
    found: list[str] = []
    for name in given:
        if name in GROUPS:
            found += GROUPS[name]
        elif name in DERIVED:
            found.append(DERIVED[name][0])
        elif name in TASKS or name.startswith(HARNESS_PREFIX):
            found.append(name)
        else:
            raise UsageError(_unknown(name))
    if not found:
        raise UsageError(
            f"no task is named; there are {', '.join((*GROUPS, *TASKS))}, {HARNESS_PREFIX}<task>"
        )
    return list(dict.fromkeys(found))


def _unknown(name: str) -> str:
    known = (*GROUPS, *TASKS, *DERIVED)
    near = get_close_matches(name, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"no task {name!r}{guess} there are {', '.join(known)}, and {HARNESS_PREFIX}<task> for any task of lm-eval"


def _check_data(names: Sequence[str], sources: Sources) -> None:
    """Read every task once: hours of scoring must not end at the last task's missing file."""
    theirs = [name for name in names if name.startswith(HARNESS_PREFIX)]
    if theirs:
        harness.check_installed(theirs)
    for name in names:
        if name in CHOICE_TASKS:
            read_task(name, sources.data, 1)
        elif name in READING_TASKS:
            read_reading(name, sources.data, 1)


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
