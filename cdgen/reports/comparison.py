"""`cdgen compare`: what differs between conditions, and what is noise.

It reads run.json of every run, and results.json and items.parquet of its evaluated checkpoints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.errors import BuildError, UsageError
from cdgen.evaluation.scores import task_score
from cdgen.evaluation.statistics import (
    DRAWS,
    FEWEST_SEEDS,
    Floats,
    Interval,
    generator,
    interval,
    item_weights,
    over_items,
    over_seeds_and_items,
    relative_change,
    seeds_needed,
)
from cdgen.storage import parse_json, reading
from cdgen.training.record import RunRecord, read_record, step_name

STUDY = (
    "blimp", "blimp_supplement", "ewok", "entity_tracking", "wug_adj", "reading", "eye_tracking",
)  # fmt: skip
"""The tasks of muDeltaREL."""
MEAN = "muDeltaREL"
_CHUNK = 50
"""Draws at a time: a row of weights is as long as its task."""
_COLUMNS = ["task", "part", "item", "value", "inputs"]


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
        if self.items is not None and self.items.is_noise:
            return "noise: other items"
        if self.retrained is None:
            return f"unknown: {self.seeds} seeds, at least {FEWEST_SEEDS} of each condition needed"
        return "noise: other seeds" if self.retrained.is_noise else "differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every condition against the baseline."""

    baseline: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


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
    runs = [_evaluated(folder) for folder in sorted(set(folders))]
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
    drawn = {task: _Drawn(task, runs) for task in wanted}
    rows = [
        row
        for selection in ("held-out", "mean-max")
        for row in _rows(groups, baseline, drawn, selection)
    ]
    return Comparison(
        baseline=baseline, tasks=wanted, rows=tuple(rows), notes=tuple(_notes(groups, wanted))
    )


def _evaluated(folder: Path) -> Evaluated:
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


class _Drawn:
    """A task's scores under the same draws of items for every run and step, each made once."""

    def __init__(self, task: str, runs: Sequence[Evaluated]) -> None:
        self.task, self._runs = task, runs
        first = runs[0]
        self._items = first.items(first.record.best.step, task).select(["part", "item"])
        self._kept: dict[tuple[Path, int], Floats] = {}

    def draws(self, run: Evaluated, step: int) -> Floats:
        """`[B]`."""
        key = (run.folder, step)
        if key not in self._kept:
            items = run.items(step, self.task)
            if not items.select(["part", "item"]).equals(self._items):
                raise UsageError(
                    f"{run.folder}: step {step} has other items of {self.task} than {self._runs[0].folder} "
                    f"({len(items):,} and {len(self._items):,}); evaluate both on the same data, without --limit"
                )
            columns = {name: items[name].to_pylist() for name in ("part", "value", "inputs")}
            random = generator("items", self.task)
            self._kept[key] = np.concatenate([
                task_score(self.task, columns, item_weights(random, len(items), _CHUNK))
                for _ in range(DRAWS // _CHUNK)
            ])  # fmt: skip
        return self._kept[key]


def _score(run: Evaluated, step: int, task: str) -> float:
    return float(run.scores[step][task]["score"])


def _step(run: Evaluated, task: str, selection: str) -> int:
    """The checkpoint by held-out perplexity; or the best one on the very task, as in the study."""
    if selection == "held-out":
        return run.record.best.step
    better = min if task == "perplexity" else max
    return better(sorted(run.scores), key=lambda step: _score(run, step, task))


def _rows(
    groups: Mapping[str, Sequence[Evaluated]],
    baseline: str,
    drawn: Mapping[str, _Drawn],
    selection: str,
) -> Iterator[Row]:
    base = {task: _sampled(groups[baseline], one, selection) for task, one in drawn.items()}
    study = [task for task in STUDY if task in drawn]
    for condition, runs in groups.items():
        if condition == baseline:
            continue
        paired = [r.record.seed for r in runs] == [r.record.seed for r in groups[baseline]]
        made = {task: _sampled(runs, one, selection) for task, one in drawn.items()}
        for task in drawn:
            (score_S, score_SB), (base_S, base_SB) = made[task], base[task]
            value = float(score_S.mean() - base_S.mean())
            random = generator("seeds", task)
            seeds = over_seeds_and_items(score_SB, base_SB, random, paired=paired)
            yield Row(
                selection=selection,
                condition=condition,
                task=task,
                seeds=len(runs),
                score=float(score_S.mean()),
                baseline=float(base_S.mean()),
                items=interval(value, over_items(score_SB, base_SB)),
                retrained=None if seeds is None else interval(value, seeds),
                needed=seeds_needed(value, score_S.tolist(), base_S.tolist()),
                floor=_floor(runs[0], task),
            )
        if study:
            yield _mean_row(selection, condition, study, made, base)


Sampled = tuple[Floats, Floats]
"""(scores `[S]`, their draws `[S, B]`)."""


def _sampled(runs: Sequence[Evaluated], drawn: _Drawn, selection: str) -> Sampled:
    steps = [_step(run, drawn.task, selection) for run in runs]
    scores = [_score(run, step, drawn.task) for run, step in zip(runs, steps, strict=True)]
    draws = [drawn.draws(run, step) for run, step in zip(runs, steps, strict=True)]
    return np.array(scores), np.stack(draws)


def _mean_row(
    selection: str,
    condition: str,
    study: Sequence[str],
    made: Mapping[str, Sampled],
    base: Mapping[str, Sampled],
) -> Row:
    """muDeltaREL: of the means over seeds, and under every draw. Seeds are drawn together for all tasks."""

    def means(of: Mapping[str, Sampled], chosen_B: np.ndarray | None) -> Floats:
        return np.stack([_drawn_mean(of[task][1], chosen_B) for task in study])

    one_T, base_T = ([of[task][0].mean() for task in study] for of in (made, base))
    value = float(relative_change(one_T, base_T))
    items = interval(value, relative_change(means(made, None), means(base, None)))
    counts = [len(of[study[0]][0]) for of in (made, base)]
    retrained = None
    if min(counts) >= FEWEST_SEEDS:
        random = generator("seeds", MEAN)
        ours, theirs = (random.integers(n, size=(n, DRAWS)) for n in counts)
        retrained = interval(value, relative_change(means(made, ours), means(base, theirs)))
    ratios = [
        float(relative_change([made[t][0][s] for t in study], base_T)) for s in range(counts[0])
    ]
    own = [float(relative_change([base[t][0][s] for t in study], base_T)) for s in range(counts[1])]
    return Row(
        selection=selection,
        condition=condition,
        task=MEAN,
        seeds=counts[0],
        score=value,
        baseline=0.0,
        items=items,
        retrained=retrained,
        needed=seeds_needed(value, ratios, own),
        floor="",
    )


def _drawn_mean(score_SB: Floats, chosen_SB: np.ndarray | None) -> Floats:
    """The mean over seeds, or over drawn ones, whose spread is corrected as in `over_seeds_and_items`."""
    mean_B: Floats = score_SB.mean(0)
    if chosen_SB is None:
        return mean_B
    seeds = len(score_SB)
    drawn_B = score_SB[chosen_SB, np.arange(score_SB.shape[1])].mean(0)
    found: Floats = mean_B + float(np.sqrt(seeds / (seeds - 1))) * (drawn_B - mean_B)
    return found


def _floor(run: Evaluated, task: str) -> str:
    """Scores of untrained models, else of chance; "" where neither is known."""
    floor = run.scores[run.record.best.step][task].get("floor") or {}
    if floor.get("untrained"):
        return " to ".join(f"{value:.3f}" for value in floor["untrained"])
    return "" if floor.get("chance") is None else f"{floor['chance']:.3f}"


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
    if partly:
        yield f"mean-max is over the evaluated checkpoints: {len(partly)} runs have others too"
    if len({run.record.held_out.digest for runs in groups.values() for run in runs}) > 1:
        yield "perplexities are of eval splits of several corpora; compare them only where the text is the same"
    study = [task for task in STUDY if task in tasks]
    yield f"{MEAN}: the mean relative change over {len(study)} of the study's {len(STUDY)} tasks"
    yield (
        "held-out: each run's checkpoint with the lowest held-out perplexity; mean-max: the best on the very task, "
        "chosen on the test items, and so too high"
    )
    yield f"intervals: 95 %, {DRAWS} draws; no correction for the number of comparisons"


# ---- tables ----

HEAD = ("selection", "condition", "task", "seeds", "score", "baseline", "floor", "change", "items 95 %", "p",
        "items and seeds 95 %", "seeds needed", "verdict")  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """A row as text; scores of accuracies as they are, between 0 and 1."""
    return (
        row.selection, row.condition, row.task, str(row.seeds), f"{row.score:.4f}", f"{row.baseline:.4f}",
        row.floor, f"{row.score - row.baseline:+.4f}", _span(row.items),
        "" if row.items is None else f"{row.items.p:.3f}", _span(row.retrained) or "too few seeds",
        "" if row.needed is None else str(row.needed), row.verdict,
    )  # fmt: skip


def _span(found: Interval | None) -> str:
    return "" if found is None else f"{found.low:+.4f} to {found.high:+.4f}"


def comparison_text(found: Comparison) -> str:
    """For a terminal."""
    table = [HEAD, *map(cells, found.rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = [
        "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([f"against {found.baseline}", "", *lines, "", *found.notes])


def comparison_markdown(found: Comparison) -> str:
    """A table and the notes."""
    rows = [HEAD, ("---",) * len(HEAD), *map(cells, found.rows)]
    table = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(
        [f"Against `{found.baseline}`:", "", *table, "", *(f"- {note}" for note in found.notes), ""]
    )


def comparison_latex(found: Comparison) -> str:
    """A tabular of booktabs; the notes are comments."""
    rows = [" & ".join(_tex(cell) for cell in row) + r" \\" for row in map(cells, found.rows)]
    head = " & ".join(_tex(cell) for cell in HEAD) + r" \\"
    top = [
        *(f"% {note}" for note in found.notes),
        rf"\begin{{tabular}}{{{'l' * len(HEAD)}}}",
        r"\toprule",
    ]
    return "\n".join([*top, head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def _tex(cell: str) -> str:
    for sign in "%_&#$":
        cell = cell.replace(sign, "\\" + sign)
    return cell


def comparison_page(found: Comparison) -> str:
    """One page; needs matplotlib."""
    from cdgen.reports.page import page, quiet, section, table, text
    from cdgen.reports.plots import plot, series

    def body() -> Iterator[str]:
        yield f"<header><h1>Against {text(found.baseline)}</h1></header>"
        for selection in ("held-out", "mean-max"):
            rows = [row for row in found.rows if row.selection == selection]
            drawn = plot(
                selection,
                f"Changes, {selection}",
                partial(_changes, rows=rows, series=series),
            )
            yield section(
                f"Checkpoints by {selection}",
                f"<figure>{drawn}</figure>",
                table(HEAD[1:], [cells(row)[1:] for row in rows]),
            )
        yield section("Notes", *map(quiet, found.notes))

    return page(f"Comparison against {found.baseline}", body())


def _changes(axes: Any, rows: Sequence[Row], series: Any) -> None:
    tasks = list(dict.fromkeys(row.task for row in rows))
    conditions = list(dict.fromkeys(row.condition for row in rows))
    for number, condition in enumerate(conditions):
        mine = [row for row in rows if row.condition == condition and row.items is not None]
        places = [
            tasks.index(row.task) + 0.6 * (number + 0.5) / len(conditions) - 0.3 for row in mine
        ]
        spans = [row.retrained or row.items for row in mine]
        values = [row.score - row.baseline for row in mine]
        for place, span in zip(places, spans, strict=True):
            assert span is not None
            axes.plot([span.low, span.high], [place, place], color=series(number), linewidth=1.5)
        axes.plot(values, places, "o", color=series(number), markersize=4, label=condition)
    axes.axvline(0, linewidth=0.8, color=series(7))
    axes.set_yticks(range(len(tasks)), tasks)
    axes.invert_yaxis()
    axes.set_xlabel("change against the baseline, with 95 % intervals")
    axes.legend()
