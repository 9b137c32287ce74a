"""`cdgen sweep`: the jobs of a study, one after the other, each skipped where its result is there.

    corpora/<name>/      what `cdgen build` makes
    runs/<name>/         what `cdgen train` makes; eval/ in it is what `cdgen eval` makes
    comparison/          the page that `cdgen compare` makes; its table is in the log
    logs/<job>.log       what each job said
    work/                the lock, and what happened when: events.jsonl

A job is a command of cdgen that one could type. The files are the truth: the same sweep again goes on where it was
stopped, however it was stopped.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdgen.builders.events import Recorded
from cdgen.builders.study import RECEIPT, State, Step, Study
from cdgen.builders.sweep_plan import Job, selected
from cdgen.errors import BuildError
from cdgen.progress import Progress, Quiet
from cdgen.storage import atomic_write, hold

Execute = Callable[[str, list[str], Path], str | None]
"""(job, arguments of cdgen, log file) → None when it was done, or what went wrong."""

KEPT = (
    "runs/*/run.json", "runs/*/losses.csv", f"runs/*/work/{RECEIPT}", f"runs/*/eval/{RECEIPT}",
    "runs/*/eval/*/results.json", "runs/*/eval/*/items.parquet", "comparison/**/*.*",
)  # fmt: skip
"""What is small, in the sweep's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """A sweep after a call, or before one."""

    name: str
    out: Path
    steps: tuple[Step, ...]

    def count(self, state: State) -> int:
        """How many jobs are in a state."""
        return sum(step.state == state for step in self.steps)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return all(step.state in ("done", "spared") for step in self.steps)


def sweep(
    study: Study,
    execute: Execute,
    *,
    only: Sequence[str] = (),
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Swept:
    """Do what is not done yet, in order. A job that fails is named; those that do not need it go on.

    Args:
        study: the opened sweep.
        execute: does one job's command.
        only: names of runs, conditions or corpora; these and what they need. All, and the comparison, by default.
        progress: told of every job.
        clock: seconds.

    Returns:
        All jobs with their last state; `failed` ones have an error.

    Raises:
        UsageError: `only` names what there is not.
        BuildError: another process holds the folder.
    """
    tell = progress or Quiet()
    plan = selected(study.jobs(), tuple(only))
    with hold(study.out, f"sweep {study.sweep.name}"):
        errors: dict[str, str] = {}
        for number, name in enumerate([job.name for job in plan], 1):
            now = selected(study.jobs(), tuple(only))
            job = next(job for job in now if job.name == name)
            if study.state(job, now) in ("done", "spared"):
                continue
            tell.say(f"[{number}/{len(plan)}] {name}")
            error = _blocked(job, errors) or _do(study, job, execute, clock)
            if error:
                errors[name] = error
                tell.say(f"[{number}/{len(plan)}] {name}: {error}")
    steps = [
        replace(step, state="failed", error=errors[step.job.name])
        if step.job.name in errors
        else step
        for step in study.steps(only)
    ]
    return Swept(name=study.sweep.name, out=study.out, steps=tuple(steps))


def _blocked(job: Job, errors: Mapping[str, str]) -> str:
    failed = [name for name in job.needs if name in errors]
    return f"not begun: it needs {', '.join(failed)}" if failed else ""


def _do(study: Study, job: Job, execute: Execute, clock: Callable[[], float]) -> str:
    """What went wrong with a job; nothing when it is done."""
    said = study.out / "logs" / f"{job.name.replace(' ', '-')}.log"
    said.parent.mkdir(parents=True, exist_ok=True)
    log = Recorded(Quiet(), study.out)
    log.event("begun", job=job.name, digest=job.digest)
    started = clock()
    try:
        study.prepare(job)
    except BuildError as error:
        failed: str | None = str(error)
    else:
        failed = execute(job.name, study.command(job), said)
    if failed is None:
        study.note(job)
    seconds = round(clock() - started, 1)
    if failed:
        log.event("failed", job=job.name, error=failed, seconds=seconds)
        return f"{failed} (log: {said})"
    log.event("done", job=job.name, seconds=seconds)
    return ""


def bring_results(study: Study, target: Path) -> list[Path]:
    """Copy what is small of every finished run: run.json, losses, results and items, and the comparison.

    A sweep that is cut into pieces needs no more of them to be compared. Receipts come along, so that a folder to which
    the results of all pieces were copied counts as done.
    """
    copied = []
    for pattern in KEPT:
        for source in sorted(study.out.glob(pattern)):
            goal = target / source.relative_to(study.out)
            atomic_write(goal, source.read_bytes())
            copied.append(goal)
    return copied
