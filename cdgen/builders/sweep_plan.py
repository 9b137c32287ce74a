"""A sweep as a list of jobs: what is made, of what, under which digest. Pure: nothing is read, nothing is run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cdgen.errors import UsageError
from cdgen.recipes.digests import digest
from cdgen.recipes.runs import Run
from cdgen.recipes.sweeps import CorpusCell, Sweep

Kind = Literal["build", "train", "eval", "compare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One step of a sweep.

    Attributes:
        kind: the verb of cdgen that does it.
        cell: the corpus (build), the run (train, eval) or the sweep (compare).
        needs: the jobs that come before it.
        digest: of everything that can change the result; empty while it reads what is not made yet.
    """

    kind: Kind
    cell: str
    needs: tuple[str, ...]
    digest: str

    @property
    def name(self) -> str:
        """How people and `--only` name it: `train baseline-1`."""
        return f"{self.kind} {self.cell}"


def jobs(sweep: Sweep, corpora: Mapping[str, str], runs: Mapping[str, Run]) -> tuple[Job, ...]:
    """All jobs of a sweep, each after those it needs; a corpus is built when the first run needs it.

    Args:
        sweep: the checked sweep.
        corpora: by name: the mix digest of each corpus whose inputs are there.
        runs: by name: what each run's file says, with what the sweep sets in it.
    """
    return tuple(_Planner(sweep, corpora, runs).all())


class _Planner:
    def __init__(self, sweep: Sweep, corpora: Mapping[str, str], runs: Mapping[str, Run]) -> None:
        self._sweep, self._corpora, self._runs = sweep, corpora, runs
        self._cells = {corpus.name: corpus for corpus in sweep.corpora}
        self._of_run = {name: condition for condition, _, name in sweep.runs()}
        self._made: dict[str, Job] = {}

    def all(self) -> Iterator[Job]:
        for _, _, name in self._sweep.runs():
            yield from self._run(name)
        for corpus in self._sweep.corpora:  # those that no condition trains on
            yield from self._corpus(corpus)
        if self._sweep.compare is None:
            return
        last = "eval" if self._sweep.evaluate else "train"
        needed = [self._made[f"{last} {name}"] for name in self._of_run]
        yield Job(
            kind="compare",
            cell=self._sweep.name,
            needs=tuple(job.name for job in needed),
            digest=_chained("comparison", needed, baseline=self._sweep.baseline),
        )

    def _new(self, job: Job) -> Iterator[Job]:
        self._made[job.name] = job
        yield job

    def _corpus(self, cell: CorpusCell) -> Iterator[Job]:
        if f"build {cell.name}" in self._made:
            return
        needed = []
        for also in cell.also:
            yield from self._corpus(self._cells[also.corpus])
            needed.append(f"build {also.corpus}")
        for model in cell.models.values():
            yield from self._run(model.run, evaluated=False)
            needed.append(f"train {model.run}")
        yield from self._new(
            Job(
                kind="build",
                cell=cell.name,
                needs=tuple(dict.fromkeys(needed)),
                digest=self._corpora.get(cell.name, ""),
            )
        )

    def _run(self, name: str, *, evaluated: bool = True) -> Iterator[Job]:
        condition = self._of_run[name]
        if f"train {name}" not in self._made:
            yield from self._corpus(self._cells[condition.corpus])
            built = self._made[f"build {condition.corpus}"]
            said = self._runs[name].model_dump(
                mode="json", include={"mix", "start", "train", "held_out"}
            )
            trained = _chained("run", [built], run=said)
            yield from self._new(Job(kind="train", cell=name, needs=(built.name,), digest=trained))
        if evaluated and self._sweep.evaluate is not None and f"eval {name}" not in self._made:
            run = self._made[f"train {name}"]
            asked = self._sweep.evaluate.model_dump(mode="json", exclude={"data"})
            judged = _chained("evaluation", [run], evaluate=asked)
            yield from self._new(Job(kind="eval", cell=name, needs=(run.name,), digest=judged))


def _chained(what: str, needed: list[Job], **content: object) -> str:
    """The digest of a job that reads what others made; empty while one of theirs is not known."""
    if not all(job.digest for job in needed):
        return ""
    return digest(f"sweep-{what}", reads=[job.digest for job in needed], **content)


def selected(every: tuple[Job, ...], only: tuple[str, ...]) -> tuple[Job, ...]:
    """The jobs of the named runs, conditions or corpora, and all that they need; in order.

    Raises:
        UsageError: a name that the sweep does not have.
    """
    if not only:
        return every
    known = {job.name: job for job in every}
    wanted: list[str] = []
    for name in only:
        found = [
            job.name
            for job in every
            if job.kind != "compare" and (name in (job.cell, job.name) or _condition(job) == name)
        ]
        if not found:
            cells = sorted({job.cell for job in every if job.kind != "compare"})
            raise UsageError(
                f"--only {name}: the sweep has no such run, condition or corpus; it has: {', '.join(cells)}"
            )
        wanted += found
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted += known[name].needs
    return tuple(job for job in every if job.name in needed)


def _condition(job: Job) -> str:
    """The condition of a run's job."""
    return job.cell.rpartition("-")[0] if job.kind in ("train", "eval") else ""
