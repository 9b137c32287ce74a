"""What a sweep may say: corpora, conditions and seeds. Strict YAML like a recipe, read by the same loader.

A sweep has the top-level key `matrix`, which no recipe and no run file has: that is how `cdgen check` tells them apart.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cdgen.recipes.load import CheckedFile, load_strict
from cdgen.recipes.overrides import flow
from cdgen.recipes.schema import Count, MixShare, Name, Seed, Spec

OF_THE_CELL = ("name", "condition", "corpus", "train.seed")
"""Fields of a run file that the sweep sets itself."""


class RunModel(Spec):
    """A checkpoint of a run of this sweep."""

    run: Name
    """The run: condition and seed, such as baseline-43."""
    step: Count
    """The checkpoint."""


class AlsoCell(Spec):
    """Another corpus of this sweep in the mix."""

    corpus: Name
    """Which."""
    share: MixShare
    """Its share of the whole, besides mix.synthetic."""


class CorpusCell(Spec):
    """One corpus."""

    name: Name
    """How conditions name it; it is built in corpora/<name> of the sweep's folder."""
    recipe: Path = Field(strict=False)
    """The recipe, relative to this file."""
    set: dict[str, Any] = Field(default={})
    """Fields of the recipe that are changed, such as {decode.top_k: 200}; as with `cdgen build --set`."""
    models: dict[str, RunModel] = Field(default={})
    """Models that runs of this sweep make, by the recipe's field, such as {expert.path: {run: cd-43, step: 2500}}."""
    also: Annotated[tuple[AlsoCell, ...], Field(strict=False)] = ()
    """Corpora of this sweep that are mixed in, as mix.also of the recipe."""


class Condition(Spec):
    """What is compared: runs that differ in their seed alone."""

    name: Name
    """A run's name is this, a hyphen and the seed."""
    corpus: Name
    """What is trained on: one of corpora."""
    run: Path | None = Field(default=None, strict=False)
    """The run file, relative to this file, if not that of the matrix."""
    set: dict[str, Any] = Field(default={})
    """Fields of the run file that are changed, such as {mix.synthetic: 0.4}."""


class Matrix(Spec):
    """Every condition with every seed."""

    run: Path = Field(strict=False)
    """The run file, relative to this file; corpus, name, condition and train.seed are set for each run."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)]
    """Of the training. All conditions of a seed come before the next seed: a sweep that is stopped has whole rows."""
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1, strict=False)]
    """In the order of the tables."""


class Evaluation(Spec):
    """What every run is judged by."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """As `cdgen eval --tasks`."""
    data: Path | None = Field(default=None, strict=False)
    """The folder of the evaluation sets, relative to this file."""
    limit: Count | None = None
    """Items of each part at most; absent: all."""
    checkpoints: Literal["last", "best", "all"] = "best"
    """Of each run: the last, the one with the lowest held-out perplexity, or all of them."""


class Comparison(Spec):
    """What is made of the results."""

    baseline: Name | None = None
    """The condition that changes are counted against; absent: the first one."""


class Sweep(Spec):
    """A study: corpora, runs, evaluations and one comparison."""

    version: Literal[1]
    """Of the format of sweep files."""
    name: Name
    """The default output folder is runs/<name>."""
    description: str = ""
    """For people."""
    corpora: Annotated[tuple[CorpusCell, ...], Field(min_length=1, strict=False)]
    """What is built."""
    matrix: Matrix
    evaluate: Evaluation | None = None
    """Absent: perplexity alone, which every run measures."""
    compare: Comparison | None = None
    """Absent: the runs are made, and not compared."""

    @property
    def baseline(self) -> str:
        """The condition that changes are counted against."""
        named = self.compare.baseline if self.compare else None
        return named or self.matrix.conditions[0].name

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        conditions = [condition.name for condition in self.matrix.conditions]
        corpora = [corpus.name for corpus in self.corpora]
        _distinct("corpora", corpora)
        _distinct("matrix.conditions", conditions)
        _distinct("matrix.seeds", list(map(str, self.matrix.seeds)))
        _distinct("the names of runs", [name for _, _, name in self.runs()])
        _one_of("compare.baseline", self.baseline, conditions)
        for n, condition in enumerate(self.matrix.conditions):
            at = f"matrix.conditions[{n}]"
            _one_of(f"{at}.corpus", condition.corpus, corpora)
            for field in OF_THE_CELL:
                if any(field == name or name.startswith(f"{field}.") for name in condition.set):
                    raise ValueError(
                        f"{at}.set: {field} is what the sweep sets for each run; leave it out"
                    )
        self._check_corpora(corpora)
        return self

    def _check_corpora(self, corpora: list[str]) -> None:
        """A corpus reads only what is made before it: its own runs would go round in a circle."""
        runs = {name: condition for condition, _, name in self.runs()}
        reads: dict[str, set[str]] = {}
        for n, corpus in enumerate(self.corpora):
            at = f"corpora[{n}]"
            for field, model in corpus.models.items():
                _one_of(f"{at}.models.{field}.run", model.run, list(runs))
            for also in corpus.also:
                _one_of(f"{at}.also", also.corpus, corpora)
            reads[corpus.name] = {also.corpus for also in corpus.also} | {
                runs[model.run].corpus for model in corpus.models.values()
            }
        while reads:
            ready = [name for name, needed in reads.items() if not needed & reads.keys()]
            if not ready:
                raise ValueError(
                    f"corpora: {', '.join(reads)} need each other; none could be built first"
                )
            for name in ready:
                del reads[name]

    def runs(self) -> list[tuple[Condition, int, str]]:
        """(condition, seed, name) of every run, in the order in which they are made."""
        return [
            (condition, seed, f"{condition.name}-{seed}")
            for seed in self.matrix.seeds
            for condition in self.matrix.conditions
        ]


def _distinct(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: {', '.join(twice)} is there more than once")


def _one_of(field: str, found: str, known: list[str]) -> None:
    if found not in known:
        raise ValueError(f"{field}: must be one of {', '.join(known)}, found {found}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFile(CheckedFile):
    """A checked sweep.

    Attributes:
        sweep: what it says, with what was set on the command line.
    """

    sweep: Sweep


def load_sweep(path: str | Path, set: Sequence[str] = ()) -> SweepFile:  # noqa: A002 - the option's name
    """Read and check a sweep; the recipes and run files it names are not opened.

    Args:
        path: the file.
        set: changes such as `evaluate.data=eval`; each value is YAML.

    Raises:
        UsageError: one line, `file:line:column: field: what was found; what is allowed`.
    """
    file = Path(path)
    sweep, _, positions = load_strict(file, Sweep, "sweep", set)
    return SweepFile(sweep=sweep, path=file.absolute(), positions=positions)


def options(changes: Iterable[tuple[str, Any]]) -> list[str]:
    """Changes as `--set` takes them: `field=value`, the value as YAML on one line."""
    return [f"{field}={flow(value)}" for field, value in changes]
