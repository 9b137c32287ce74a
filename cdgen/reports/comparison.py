"""`cdgen compare`: what differs between conditions, and what is noise.

It reads run.json of every run, and results.json and items.parquet of its evaluated checkpoints.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdgen.errors import UsageError
from cdgen.evaluation.statistics import (
    DRAWS,
    FEWEST_SEEDS,
    Floats,
    Interval,
    generator,
    interval,
    over_items,
    over_seeds_and_items,
    relative_change,
    relative_over_seeds_and_items,
    seeds_needed,
)
from cdgen.reports.evaluated_runs import Drawn, Evaluated, read_evaluated

STUDY = (
    "blimp", "blimp_supplement", "ewok", "entity_tracking", "wug_adj", "reading", "eye_tracking",
)  # fmt: skip
"""The tasks of muDeltaREL."""
MEAN = "muDeltaREL"
SELECTIONS = ("held-out", "mean-max")
DIFFERS = "differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task of one condition, against the baseline.

    Attributes:
        selection: how checkpoints were chosen: held-out or mean-max.
        seeds: of the condition.
        score, baseline: means over seeds; of muDeltaREL the mean relative change, and 0.
        items: the difference when items are drawn anew, these models given; None where there are no items.
        retrained: the same when seeds are drawn too; None for too few of them.
        needed: seeds of each condition that a difference of this size would need.
        floor: scores without training, where they are known; else "".
    """

    selection: str
    condition: str
    task: str
    seeds: int
    score: float
    baseline: float
    items: Interval | None
    retrained: Interval | None
    needed: int | None
    floor: str

    @property
    def verdict(self) -> str:
        """Noise is called noise; a condition with few seeds is told by what is missing."""
        if not math.isfinite(self.score):
            return "unknown: relative to 0"
        if self.items is not None and self.items.is_noise:
            return "noise: other items"
        if self.retrained is None:
            return f"unknown: {self.seeds} seeds, at least {FEWEST_SEEDS} of each condition needed"
        return "noise: other seeds" if self.retrained.is_noise else DIFFERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every condition against the baseline."""

    baseline: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def compare(
    folders: Sequence[Path], *, baseline: str = "baseline", tasks: Sequence[str] = ()
) -> Comparison:
    """Compare the conditions of runs.

    Args:
        folders: finished runs with evaluations.
        baseline: the condition that the others are compared with.
        tasks: what is compared; by default every task of every run.

    Raises:
        UsageError: an unfinished or unevaluated run, a task that a run lacks, other items, no baseline.
    """
    runs = [read_evaluated(folder) for folder in sorted(set(folders))]
    groups: dict[str, list[Evaluated]] = {}
    for run in sorted(runs, key=lambda run: (run.record.condition, run.record.seed)):
        groups.setdefault(run.record.condition, []).append(run)
    if baseline not in groups:
        raise UsageError(
            f"no run of condition {baseline!r} to compare with: the conditions are {', '.join(groups)}; name one "
            "with --baseline"
        )
    if len(groups) < 2:
        raise UsageError(f"only {baseline} here: give runs of another condition too")
    _check_seeds(groups)
    wanted = tuple(tasks) or tuple(
        sorted({t for run in runs for one in run.scores.values() for t in one})
    )
    _check_tasks(runs, wanted)
    drawn = {task: Drawn(task, runs[0]) for task in wanted}
    # Of one evaluated checkpoint both ways of choosing are the same.
    selections = SELECTIONS if any(len(run.scores) > 1 for run in runs) else SELECTIONS[:1]
    rows = [row for selection in selections for row in _rows(groups, baseline, drawn, selection)]
    notes = [*_notes(groups, wanted), *_near_zero(groups[baseline], drawn)]
    return Comparison(baseline=baseline, tasks=wanted, rows=tuple(rows), notes=tuple(notes))


def _check_seeds(groups: Mapping[str, Sequence[Evaluated]]) -> None:
    for condition, runs in groups.items():
        seeds = [run.record.seed for run in runs]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise UsageError(f"condition {condition} has seed {twice[0]} twice: a run counts once")


def _check_tasks(runs: Sequence[Evaluated], tasks: Sequence[str]) -> None:
    for run in runs:
        for step, found in run.scores.items():
            missing = [task for task in tasks if task not in found]
            if missing:
                raise UsageError(
                    f"{run.folder}: step {step} was not evaluated on {', '.join(missing)}; evaluate it, or name the "
                    "tasks to compare with --tasks"
                )


def _rows(
    groups: Mapping[str, Sequence[Evaluated]],
    baseline: str,
    drawn: Mapping[str, Drawn],
    selection: str,
) -> Iterator[Row]:
    base = {task: _sampled(groups[baseline], one, selection) for task, one in drawn.items()}
    study = [task for task in STUDY if task in drawn]
    for condition, runs in groups.items():
        if condition == baseline:
            continue
        # The same seeds: what one does to both conditions is not a difference between them.
        paired = [r.record.seed for r in runs] == [r.record.seed for r in groups[baseline]]
        made = {task: _sampled(runs, one, selection) for task, one in drawn.items()}
        for task in drawn:
            (score_S, score_SB), (base_S, base_SB) = made[task], base[task]
            value = float(score_S.mean() - base_S.mean())
            seeds = over_seeds_and_items(score_SB, base_SB, generator("seeds", task), paired=paired)
            yield Row(
                selection=selection,
                condition=condition,
                task=task,
                seeds=len(runs),
                score=float(score_S.mean()),
                baseline=float(base_S.mean()),
                items=interval(value, over_items(score_SB, base_SB)),
                retrained=None if seeds is None else interval(value, seeds),
                needed=seeds_needed(value, score_S.tolist(), base_S.tolist(), paired=paired),
                floor=runs[0].floor(task),
            )
        if study:
            of_study = [[of[task] for task in study] for of in (made, base)]
            yield _mean_row(selection, condition, *of_study, paired=paired)


Sampled = tuple[Floats, Floats]
"""(scores `[S]`, their draws `[S, B]`)."""


def _sampled(runs: Sequence[Evaluated], drawn: Drawn, selection: str) -> Sampled:
    steps = [run.step(drawn.task, selection) for run in runs]
    scores = [run.score(step, drawn.task) for run, step in zip(runs, steps, strict=True)]
    draws = [drawn.draws(run, step) for run, step in zip(runs, steps, strict=True)]
    return np.array(scores), np.stack(draws)


def _mean_row(
    selection: str,
    condition: str,
    made: Sequence[Sampled],
    base: Sequence[Sampled],
    *,
    paired: bool,
) -> Row:
    """muDeltaREL, from what was sampled of every task: of the means over seeds, and under every draw."""
    (one_TS, one_TSB), (base_TS, base_TSB) = (
        tuple(np.stack(part) for part in zip(*of, strict=True)) for of in (made, base)
    )
    base_T = base_TS.mean(1)
    value = float(relative_change(one_TS.mean(1), base_T))
    seeds = relative_over_seeds_and_items(
        one_TSB, base_TSB, generator("seeds", MEAN), paired=paired
    )
    one_S, base_S = (relative_change(of, base_T[:, None]).tolist() for of in (one_TS, base_TS))
    return Row(
        selection=selection,
        condition=condition,
        task=MEAN,
        seeds=len(one_S),
        score=value,
        baseline=0.0,
        items=interval(value, relative_change(one_TSB.mean(1), base_TSB.mean(1))),
        retrained=None if seeds is None else interval(value, seeds),
        needed=seeds_needed(value, one_S, base_S, paired=paired),
        floor="",
    )


def _notes(groups: Mapping[str, Sequence[Evaluated]], tasks: Sequence[str]) -> Iterator[str]:
    for condition, runs in groups.items():
        seeds = ", ".join(str(run.record.seed) for run in runs)
        perplexity = np.mean([run.record.best.perplexity for run in runs])
        yield f"{condition}: seeds {seeds}; held-out perplexity {perplexity:.2f}"
        if len(runs) < FEWEST_SEEDS:
            yield (
                f"{condition}: {len(runs)} seeds say nothing about other seeds; intervals are over items alone, of "
                "these very models"
            )
    partly = [
        run
        for runs in groups.values()
        for run in runs
        if len(run.scores) < len(run.record.checkpoints)
    ]
    if all(len(run.scores) == 1 for runs in groups.values() for run in runs):
        yield "one checkpoint of each run is evaluated, so mean-max has nothing to choose from"
    elif partly:
        yield f"mean-max is over the evaluated checkpoints: {len(partly)} runs have others too"
    if len({run.record.held_out.text for runs in groups.values() for run in runs}) > 1:
        yield "perplexities are of several eval splits; compare them only where the text is the same"
    study = [task for task in STUDY if task in tasks]
    if study:
        yield f"{MEAN}: the mean relative change over {len(study)} of the study's {len(STUDY)} tasks"
    yield (
        "held-out: each run's checkpoint with the lowest held-out perplexity; mean-max: the best on the very task, "
        "chosen on the test items, and so too high"
    )
    yield f"intervals: 95 %, {DRAWS} draws; no correction for the number of comparisons"
    yield (
        "needed: seeds of each condition that would show a difference of this size, by the spread over seeds; against "
        "noise of items only more items help"
    )


def _near_zero(baseline: Sequence[Evaluated], drawn: Mapping[str, Drawn]) -> Iterator[str]:
    """A relative change is of no use where what it is relative to may be nothing."""
    near = []
    for task in (one for one in STUDY if one in drawn):
        scores_SB = np.stack([drawn[task].draws(run, run.record.best.step) for run in baseline])
        if interval(0.0, scores_SB.mean(0)).low <= 0:
            near.append(task)
    if near:
        yield (
            f"{MEAN} divides by the baseline's score, which is not clearly above 0 on {', '.join(near)}: it says "
            "little there, and its interval is as wide as that"
        )
