"""`cdgen compare` on runs whose answers are known: what is real, what is noise, what cannot be said."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cdgen.cli import app
from cdgen.errors import BuildError, UsageError
from cdgen.evaluation.scores import task_score
from cdgen.reports.comparison import MEAN, Row, compare, comparison_latex, comparison_markdown
from cdgen.training.record import (
    Checkpoint,
    CorpusRead,
    RunRecord,
    SourceRead,
    SyntheticShare,
    step_name,
    write_record,
)

ITEMS = 200


def make_run(
    home: Path, condition: str, seed: int, right: dict[int, int], *, items: int = ITEMS
) -> Path:
    """A run whose step s answers the first right[s] items rightly; step 1 has the lowest perplexity."""
    folder = home / f"{condition}-{seed}"
    read = CorpusRead(name="c", digest="0" * 64)
    kept = [Checkpoint(step=s, perplexity=20.0 + s, bits_per_byte=1.0, sha256="") for s in right]
    write_record(
        folder,
        RunRecord(
            name=folder.name, condition=condition, seed=seed, digest="", corpus=read, held_out=read,
            synthetic_share=SyntheticShare(asked=0.3, realised=0.3), tokens=1,
            sources={"real": SourceRead(tokens=1, passes=1.0)}, spec={}, checkpoints=tuple(kept),
            versions={}, numeric_classes=(),
        ),
    )  # fmt: skip
    for step, count in right.items():
        columns = {
            "task": ["blimp"] * items,
            "part": [f"p{i % 2}" for i in range(items)],
            "item": [f"{i:04d}" for i in range(items)],
            "value": [float(i < count) for i in range(items)],
            "inputs": [[] for _ in range(items)],
        }
        at = folder / "eval" / step_name(step)
        at.mkdir(parents=True)
        pq.write_table(pa.table(columns), at / "items.parquet")
        score = task_score("blimp", columns)
        floor = {"chance": 0.5, "untrained": [0.47, 0.48], "rule": None}
        results = {"format": 1, "model": {}, "tasks": {"blimp": {"score": score, "floor": floor}}}
        (at / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """better: 30 points above at step 1. close: 1 point above, and the seeds differ by more."""
    counts = {"baseline": (100, 104, 108), "better": (160, 164, 168), "close": (100, 108, 110)}
    return [
        make_run(tmp_path, name, 40 + seed, {1: count, 2: count + 10})
        for name, each in counts.items()
        for seed, count in enumerate(each)
    ]


def row(rows: tuple[Row, ...], condition: str, task: str, selection: str = "held-out") -> Row:
    return next(
        r for r in rows if (r.condition, r.task, r.selection) == (condition, task, selection)
    )


def test_a_large_difference_is_found_and_a_small_one_is_noise(runs: list[Path]) -> None:
    found = compare(runs)
    better, close = (row(found.rows, name, "blimp") for name in ("better", "close"))

    assert better.score - better.baseline == pytest.approx(0.3)
    assert better.verdict == "differs"
    assert better.retrained is not None and better.retrained.low > 0.2
    assert better.floor == "0.470 to 0.480"
    assert close.score - close.baseline == pytest.approx(0.01)
    assert close.verdict.startswith("noise")
    assert close.needed is not None and better.needed is not None and close.needed > better.needed


def test_mean_max_takes_the_best_step_on_the_task_itself(runs: list[Path]) -> None:
    """Ten more of 200 items are right at step 2, which held-out perplexity does not choose."""
    found = compare(runs)
    honest, best = (row(found.rows, "better", "blimp", s) for s in ("held-out", "mean-max"))

    assert best.score - honest.score == pytest.approx(0.05)
    assert best.baseline - honest.baseline == pytest.approx(0.05)


def test_the_mean_relative_change_has_an_interval(runs: list[Path]) -> None:
    found = row(compare(runs).rows, "better", MEAN)

    assert found.score == pytest.approx(0.82 / 0.52 - 1)
    assert found.items is not None and found.items.low < found.score < found.items.high
    assert found.retrained is not None


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_said_and_give_no_interval(runs: list[Path], seeds: int) -> None:
    found = compare([run for run in runs if int(run.name[-2:]) < 40 + seeds])
    better = row(found.rows, "better", "blimp")

    assert better.retrained is None
    assert better.verdict == f"unknown: {seeds} seeds, at least 3 of each condition needed"
    assert any("say nothing about other seeds" in note for note in found.notes)


def test_the_order_of_runs_does_not_matter(runs: list[Path]) -> None:
    assert compare(runs[::-1]) == compare(runs)


def test_nothing_is_intersected_silently(runs: list[Path], tmp_path: Path) -> None:
    odd = make_run(tmp_path / "odd", "odd", 40, {1: 100}, items=150)
    with pytest.raises(UsageError, match="step 1 has other items of blimp than"):
        compare([*runs, odd])
    with pytest.raises(UsageError, match="was not evaluated on ewok"):
        compare(runs, tasks=["ewok"])
    with pytest.raises(UsageError, match="no run of condition 'none'"):
        compare(runs, baseline="none")
    with pytest.raises(UsageError, match=r"no run\.json, so no finished run"):
        compare([*runs, tmp_path])
    (runs[0] / "eval/step-000001/results.json").unlink()
    with pytest.raises(UsageError, match="is not evaluated; run cdgen eval"):
        compare(runs)


def test_a_record_of_a_stranger_is_no_markup(runs: list[Path]) -> None:
    path = runs[0] / "run.json"
    said = path.read_text(encoding="utf-8")
    path.write_text(said.replace('"baseline"', '"<b>baseline</b>"'), encoding="utf-8")
    with pytest.raises(BuildError, match="is not a name"):
        compare(runs)


def test_tables_and_the_page(runs: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = compare(runs)
    page = tmp_path / "c.html"
    told = CliRunner().invoke(app, ["compare", *map(str, runs), "--html", str(page), "--json"])

    assert told.exit_code == 0, told.exception
    facts = json.loads(told.stdout[told.stdout.index("{") :])
    assert len(facts["rows"]) == len(found.rows) == 8
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text and "<script" not in text and "differs" in text
    assert "| held-out | better | blimp | 3 | 0.8200 | 0.5200 |" in comparison_markdown(found)
    assert r"\begin{tabular}" in comparison_latex(found) and r"95 \%" in comparison_latex(found)
