"""`cdgen compare` on runs whose answers are known: what is real, what is noise, what cannot be said."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cdgen.cli import app
from cdgen.errors import BuildError, UsageError
from cdgen.evaluation.scores import task_score
from cdgen.reports.comparison import DIFFERS, MEAN, Row, compare
from cdgen.reports.comparison_text import comparison_latex, comparison_markdown, comparison_text
from cdgen.training.record import (
    Checkpoint,
    CorpusRead,
    HeldOutRead,
    RunRecord,
    SourceRead,
    SyntheticShare,
    step_name,
    write_record,
)

ITEMS = 200


def make_run(
    home: Path,
    condition: str,
    seed: int,
    right: dict[int, int],
    *,
    items: int = ITEMS,
    held_out: str = "0" * 64,
) -> Path:
    """A run whose step s answers the first right[s] items rightly; step 1 has the lowest perplexity."""
    folder = home / f"{condition}-{seed}"
    read = {"name": "c", "digest": f"{condition}-{seed}"}
    kept = [Checkpoint(step=s, perplexity=20.0 + s, bits_per_byte=1.0, sha256="") for s in right]
    write_record(
        folder,
        RunRecord(
            name=folder.name, condition=condition, seed=seed, digest="",
            corpus=CorpusRead(**read), held_out=HeldOutRead(**read, shards=held_out),
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
    counts = {"baseline": (100, 104, 108), "better": (160, 163, 169), "close": (100, 108, 110)}
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


def test_one_checkpoint_of_each_run_is_compared_once(tmp_path: Path) -> None:
    """Both ways of choosing would take it; the table is not there twice."""
    runs = [make_run(tmp_path, name, 1, {1: 100}) for name in ("baseline", "other")]
    found = compare(runs)
    html = tmp_path / "page.html"
    CliRunner().invoke(app, ["compare", *map(str, runs), "--html", str(html)])

    assert {row.selection for row in found.rows} == {"held-out"}
    assert any("mean-max has nothing to choose from" in note for note in found.notes)
    assert "Checkpoints by held-out" in html.read_text(encoding="utf-8")
    assert "Checkpoints by mean-max" not in html.read_text(encoding="utf-8")


def test_perplexities_of_several_eval_splits_are_said(tmp_path: Path) -> None:
    """Corpora of one text and tokenizer share the split, though every corpus is another one."""
    runs = [make_run(tmp_path, name, 1, {1: 100}) for name in ("baseline", "other")]
    assert not any("several eval splits" in note for note in compare(runs).notes)

    runs.append(make_run(tmp_path, "elsewhere", 1, {1: 100}, held_out="1" * 64))
    assert any("several eval splits" in note for note in compare(runs).notes)


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
    assert text.count("<svg") == 4  # two selections of checkpoints, blimp and the mean
    assert "<script" not in text and "differs" in text
    assert "| held-out | better | blimp | 3 | 0.8200 | 0.5200 |" in comparison_markdown(found)
    text = comparison_text(found)
    assert text.count("better (3 seeds, held-out)") == text.count("close (3 seeds, mean-max)") == 1
    assert DIFFERS in text


def test_a_seed_that_conditions_share_is_drawn_for_both(runs: list[Path]) -> None:
    """Of its seeds close is 0, 4 and 2 answers above; with a seed renamed nothing is shared, and more is possible."""
    shared = row(compare(runs).rows, "close", MEAN)
    record = next(run for run in runs if run.name == "close-42") / "run.json"
    said = record.read_text(encoding="utf-8")
    assert '"seed": 42' in said
    record.write_text(said.replace('"seed": 42', '"seed": 43'), encoding="utf-8")
    apart = row(compare(runs).rows, "close", MEAN)

    assert shared.retrained is not None and apart.retrained is not None
    assert shared.score == apart.score and shared.items == apart.items
    width, wider = (one.high - one.low for one in (shared.retrained, apart.retrained))
    assert wider > 1.3 * width
    assert shared.needed is not None and apart.needed is not None and shared.needed < apart.needed


def test_a_change_relative_to_nothing_is_said_to_be_none(tmp_path: Path) -> None:
    """The baseline answers nothing or next to nothing: (x - 0) / 0 is no number, and one by 0.005 hardly one."""
    right = {"none": (0, 0, 0), "hardly": (0, 1, 2), "some": (100, 101, 105)}
    runs = [
        make_run(tmp_path, name, seed, {1: count})
        for name, each in right.items()
        for seed, count in enumerate(each)
    ]
    found = compare(runs, baseline="none")
    assert row(found.rows, "some", MEAN).verdict == "unknown: relative to 0"
    assert row(found.rows, "some", "blimp").verdict == DIFFERS
    for name in ("none", "hardly"):
        found = compare(runs, baseline=name)
        assert any("not clearly above 0 on blimp" in note for note in found.notes)
    assert not any("not clearly" in note for note in compare(runs, baseline="some").notes)


def test_latex_is_a_table_for_each_page(runs: list[Path]) -> None:
    """Every row has the cells of the head; conditions that do not fit one page go on the next."""
    found = compare(runs)
    said = comparison_latex(found)
    rows = [line for line in said.splitlines() if " & " in line]

    assert said.count(r"\begin{tabular}") == said.count(r"\end{tabular}") == 2
    assert {line.count(" & ") for line in rows} == {7} and all(
        line.endswith(r"\\") for line in rows
    )
    assert r"\textbf{better (3 seeds, held-out)}" in said
    assert any("$+0.300$$^{*}$" in line and "$0.470$--$0.480$" in line for line in rows)

    of_one = [row for row in found.rows if row.selection == "held-out"][:1] * 7
    many = replace(
        found, rows=tuple(replace(row, condition=f"c_{n}") for n in range(30) for row in of_one)
    )
    tables = comparison_latex(many).split(r"\begin{tabular}")[1:]
    assert [one.count("textbf") for one in tables] == [6] * 5
    assert r"c\_29" in tables[-1]
