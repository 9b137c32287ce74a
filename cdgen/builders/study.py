"""A sweep that was opened: which jobs it has, how far each is, and the command that does it. It writes receipts only.

The files are the truth: a job is done where its result is there, of the very digest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cdgen.builders.borrow import borrow
from cdgen.builders.events import read_events
from cdgen.builders.run import open_build
from cdgen.builders.sweep_plan import Job, jobs, selected
from cdgen.errors import UsageError
from cdgen.recipes.digests import Digests
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.recipes.runs import RunFile, load_run
from cdgen.recipes.schema import ModelTraining
from cdgen.recipes.sweeps import Condition, CorpusCell, SweepFile, options
from cdgen.shards.layout import MANIFEST
from cdgen.shards.manifest import read_manifest
from cdgen.storage import atomic_write, canonical_json, parse_json
from cdgen.training.record import RunRecord, read_record, step_name

State = Literal["done", "todo", "waiting", "failed", "spared"]
RECEIPT = "sweep.json"


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
