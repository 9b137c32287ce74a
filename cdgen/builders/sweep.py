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
from typing import Any, Literal

from cdgen.builders.borrow import borrow
from cdgen.builders.events import Recorded, read_events
from cdgen.builders.run import open_build
from cdgen.builders.sweep_plan import Job, jobs, selected
from cdgen.errors import BuildError, UsageError
from cdgen.progress import Progress, Quiet
from cdgen.recipes.digests import Digests
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.recipes.runs import RunFile, load_run
from cdgen.recipes.schema import ModelTraining
from cdgen.recipes.sweeps import Condition, CorpusCell, SweepFile, options
from cdgen.shards.layout import MANIFEST
from cdgen.shards.manifest import read_manifest
from cdgen.storage import atomic_write, canonical_json, hold, parse_json
from cdgen.training.record import RunRecord, read_record, step_name

State = Literal["done", "todo", "waiting", "failed", "spared"]
Execute = Callable[[str, list[str], Path], str | None]
"""(job, arguments of cdgen, log file) → None when it was done, or what went wrong."""

RECEIPT = "sweep.json"
KEPT = (
    "runs/*/run.json", "runs/*/losses.csv", f"runs/*/work/{RECEIPT}", f"runs/*/eval/{RECEIPT}",
    "runs/*/eval/*/results.json", "runs/*/eval/*/items.parquet", "comparison/**/*.*",
)  # fmt: skip
"""What is small, in the sweep's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A job and how far it is.

    Attributes:
        job: the job.
        state: done; todo; waiting (it reads what is not made yet); failed (in this call); spared (a corpus that is not
            here, and that nothing here still has to read).
        command: the command of cdgen that does it.
        seconds: that it took, where it was done here.
        error: what went wrong.
    """

    job: Job
    state: State
    command: tuple[str, ...]
    seconds: float | None = None
    error: str = ""


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


class Study:
    """An opened sweep: its files read and checked, its digests known as far as they can be.

    Args:
        file: the checked sweep.
        out: its folder; runs/<name> by default.
        cache: where tokenizers and weights are kept; $CDGEN_CACHE by default.
        builder: a builder profile, passed on to `cdgen build`.

    Raises:
        UsageError: a recipe or a run file that is wrong or missing, or a folder that holds something else.
    """

    def __init__(
        self,
        file: SweepFile,
        out: Path | None = None,
        *,
        cache: Path | None = None,
        builder: str | None = None,
    ) -> None:
        self.file, self.sweep = file, file.sweep
        self.out = (out or Path("runs") / file.sweep.name).absolute()
        self._cache, self._builder = cache, builder
        _check_folder(self.out)
        self._recipes = {
            cell.name: self._recipe(n, cell) for n, cell in enumerate(self.sweep.corpora)
        }
        self._runs = {
            name: self._run(condition, seed) for condition, seed, name in self.sweep.runs()
        }
        self._digests: dict[str, Digests] = {}

    # ---- what it is made of ----

    def corpus(self, name: str) -> Path:
        """The folder of a corpus."""
        return self.out / "corpora" / name

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.out / "runs" / name

    def _recipe(self, number: int, cell: CorpusCell) -> RecipeFile:
        try:
            return load_recipe(self.file.resolve(cell.recipe), set=self._recipe_changes(cell))
        except UsageError as error:
            raise UsageError(f"{self.file.at(('corpora', number))}: {error}") from None

    def _recipe_changes(self, cell: CorpusCell) -> list[str]:
        made: dict[str, Any] = {
            field: str(self.run(model.run) / step_name(model.step))
            for field, model in cell.models.items()
        }
        if cell.also:
            made["mix.also"] = [
                {"corpus": str(self.corpus(also.corpus)), "share": also.share} for also in cell.also
            ]
        return options([*cell.set.items(), *made.items()])

    def _run(self, condition: Condition, seed: int) -> RunFile:
        path = self.file.resolve(condition.run or self.sweep.matrix.run)
        try:
            return load_run(path, set=self._run_changes(condition, seed))
        except UsageError as error:
            place = self.file.at(
                ("matrix", "conditions", self.sweep.matrix.conditions.index(condition))
            )
            raise UsageError(f"{place}: {error}") from None

    def _run_changes(self, condition: Condition, seed: int) -> list[str]:
        set_here: dict[str, Any] = {
            "name": f"{condition.name}-{seed}",
            "condition": condition.name,
            "corpus": str(self.corpus(condition.corpus)),
            "train.seed": seed,
        }
        return options([*condition.set.items(), *set_here.items()])

    # ---- the plan ----

    def jobs(self) -> tuple[Job, ...]:
        """All jobs; the digests of what reads a result of this sweep are known once it is there."""
        for cell in self.sweep.corpora:
            if cell.name not in self._digests and self._inputs_are_there(cell):
                build = open_build(self._recipes[cell.name], self.corpus(cell.name), self._cache)
                self._digests[cell.name] = build.digests
        mixes = {name: found.mix for name, found in self._digests.items()}
        return jobs(self.sweep, mixes, {name: file.run for name, file in self._runs.items()})

    def _inputs_are_there(self, cell: CorpusCell) -> bool:
        return all(
            (self.run(model.run) / step_name(model.step) / "config.json").is_file()
            for model in cell.models.values()
        ) and all((self.corpus(also.corpus) / MANIFEST).is_file() for also in cell.also)

    def steps(self, only: Sequence[str] = ()) -> tuple[Step, ...]:
        """The plan with what is done."""
        took, plan = _seconds(self.out), selected(self.jobs(), tuple(only))
        return tuple(
            Step(
                job=job,
                state=self.state(job, plan),
                command=tuple(self.command(job)),
                seconds=took.get(job.name),
            )
            for job in plan
        )

    def state(self, job: Job, plan: Sequence[Job]) -> State:
        """Whether a job's result is there, and is that of this very plan."""
        if not job.digest:
            return "waiting"
        readers = [other for other in plan if job.name in other.needs]
        unread = [other for other in readers if self.state(other, plan) not in ("done", "spared")]
        if self._is_done(job):
            lost = job.kind == "train" and unread and not self._has_weights(job.cell)
            return "todo" if lost else "done"
        return "spared" if job.kind == "build" and readers and not unread else "todo"

    def _has_weights(self, cell: str) -> bool:
        """Whether a run's checkpoints are here, and not only the small files of one that was made elsewhere."""
        steps = self._runs[cell].run.train.checkpoints()
        return all(
            (self.run(cell) / step_name(step) / "model.safetensors").is_file() for step in steps
        )

    def _is_done(self, job: Job) -> bool:
        match job.kind:
            case "build":
                folder = self.corpus(job.cell)
                return (folder / MANIFEST).is_file() and read_manifest(folder).digests.get(
                    "mix"
                ) == job.digest
            case "train":
                record = read_record(self.run(job.cell))
                return record is not None and self._receipt(job) == {
                    "digest": job.digest,
                    "run": record.digest,
                }
            case "eval":
                return self._receipt(job) == {"digest": job.digest} and all(
                    (self.run(job.cell) / "eval" / step_name(step) / "results.json").is_file()
                    for step in self._evaluated(job.cell)
                )
            case "compare":
                return self._receipt(job) == {"digest": job.digest}

    # ---- commands and receipts ----

    def command(self, job: Job) -> list[str]:
        """The arguments of cdgen that do a job."""
        match job.kind:
            case "build":
                cell = next(cell for cell in self.sweep.corpora if cell.name == job.cell)
                recipe = self._recipes[job.cell].path
                builder = ["--builder", self._builder] if self._builder else []
                changes = _set(self._recipe_changes(cell))
                return [
                    "build",
                    str(recipe),
                    "--out",
                    str(self.corpus(job.cell)),
                    *builder,
                    *changes,
                ]
            case "train":
                condition, seed = next(
                    (c, s) for c, s, name in self.sweep.runs() if name == job.cell
                )
                changes = _set(self._run_changes(condition, seed))
                return [
                    "train",
                    str(self._runs[job.cell].path),
                    "--out",
                    str(self.run(job.cell)),
                    *changes,
                ]
            case "eval":
                return self._eval_command(job.cell)
            case "compare":
                runs = [str(self.run(name)) for _, _, name in self.sweep.runs()]
                page = str(self.out / "comparison/comparison.html")
                where = ["--baseline", self.sweep.baseline, "--html", page]
                return ["compare", *runs, *where]

    def _eval_command(self, cell: str) -> list[str]:
        asked = self.sweep.evaluate
        assert asked is not None
        checkpoints = [str(self.run(cell) / step_name(step)) for step in self._evaluated(cell)]
        data = ["--data", str(self.file.resolve(asked.data))] if asked.data else []
        limit = ["--limit", str(asked.limit)] if asked.limit else []
        held_out = []
        if "perplexity" in asked.tasks:
            condition = next(found for found, _, name in self.sweep.runs() if name == cell)
            held_out = ["--corpus", str(self.corpus(condition.corpus))]
        return ["eval", *checkpoints, "--tasks", ",".join(asked.tasks), *data, *held_out, *limit]

    def _evaluated(self, cell: str) -> tuple[int, ...]:
        """The steps that are evaluated; of `best` the last one, for looking at, while the run is not there."""
        assert self.sweep.evaluate is not None
        train: ModelTraining = self._runs[cell].run.train
        record: RunRecord | None = read_record(self.run(cell))
        match self.sweep.evaluate.checkpoints:
            case "all":
                return train.checkpoints()
            case "best" if record is not None:
                return (record.best.step,)
            case _:
                return train.checkpoints()[-1:]

    def _receipt_path(self, job: Job) -> Path:
        if job.kind == "compare":
            return self.out / "comparison" / RECEIPT
        return self.run(job.cell) / ("eval" if job.kind == "eval" else "work") / RECEIPT

    def _receipt(self, job: Job) -> dict[str, str] | None:
        path = self._receipt_path(job)
        return parse_json(path.read_bytes(), path) if path.is_file() else None

    def note(self, job: Job) -> None:
        """Write that a job's result is there; a corpus says so by itself."""
        if job.kind == "build":
            return
        said = {"digest": job.digest}
        if job.kind == "train":
            record = read_record(self.run(job.cell))
            assert record is not None
            said["run"] = record.digest
        atomic_write(self._receipt_path(job), canonical_json(said) + b"\n")

    def prepare(self, job: Job) -> None:
        """Give a corpus what another one of the sweep has already."""
        if job.kind == "build":
            others = [
                self.corpus(cell.name) for cell in self.sweep.corpora if cell.name != job.cell
            ]
            borrow(self.corpus(job.cell), others, self._digests[job.cell])


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


def _set(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds something else."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; choose another folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "work").is_dir():
        raise UsageError(
            f"{out}: holds files that are not a sweep's; choose another folder with --out"
        )


def _seconds(out: Path) -> dict[str, float]:
    """By job: how long it took, where it was done here."""
    return {
        event["job"]: event["seconds"] for event in read_events(out) if event["event"] == "done"
    }


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
