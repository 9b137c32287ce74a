"""What a sweep may say: a mistake is one line with the place, before any work."""

import re
from pathlib import Path

import pytest

from cdgen.errors import UsageError
from cdgen.recipes.load import load_recipe
from cdgen.recipes.runs import load_run
from cdgen.recipes.sweeps import load_sweep, options

SWEEP = """\
version: 1
name: study
corpora:
  - {name: plain, recipe: plain.yaml, set: {decode: {method: sample}}}
  - {name: cd, recipe: cd.yaml}
matrix:
  run: run.yaml
  seeds: [1, 2]
  conditions:
    - {name: baseline, corpus: plain, set: {mix.synthetic: 0.0}}
    - {name: cd, corpus: cd}
evaluate: {tasks: [blimp], data: eval, limit: 10, checkpoints: last}
compare: {baseline: baseline}
"""

WRONG = [
    ("seeds: [1, 2]", "seeds: [1, 1]", r"matrix.seeds: 1 is there more than once"),
    ("seeds: [1, 2]", "seeds: []", r"s\.yaml:8:10: matrix.seeds: "),
    ("seeds: [1, 2]", "seeds: [-1]", r"s\.yaml:8:11: matrix.seeds\[0\]: must be greater"),
    ("corpus: plain,", "corpus: plane,", r"conditions\[0\].corpus: must be one of plain, cd, found plane"),
    ("baseline: baseline", "baseline: base", r"compare.baseline: must be one of baseline, cd, found base"),
    ("mix.synthetic: 0.0", "train.seed: 4", r"conditions\[0\].set: train.seed is what the sweep sets"),
    ("mix.synthetic: 0.0", "corpus: cd", r"conditions\[0\].set: corpus is what the sweep sets"),
    ("{name: cd, corpus: cd}", "{name: baseline, corpus: cd}", r"matrix.conditions: baseline is there more"),
    ("{name: cd, recipe: cd.yaml}", "{name: plain, recipe: cd.yaml}", r"corpora: plain is there more than once"),
    ("checkpoints: last", "checkpoints: first", r"s\.yaml:12:64: evaluate.checkpoints: must be 'last', 'best' or"),
    ("limit: 10", "limits: 10", r"s\.yaml:12:40: unknown field 'evaluate.limits' \(did you mean 'limit'\?\)"),
    ("  run: run.yaml\n", "", r"matrix.run is missing"),
    (
        "{name: cd, recipe: cd.yaml}",
        "{name: cd, recipe: cd.yaml, models: {expert.path: {run: cd-3, step: 4}}}",
        r"corpora\[1\].models.expert.path.run: must be one of baseline-1, cd-1, .*, found cd-3",
    ),
    (
        "{name: cd, recipe: cd.yaml}",
        "{name: cd, recipe: cd.yaml, models: {expert.path: {run: cd-1, step: 4}}}",
        r"corpora: cd need each other; none could be built first",
    ),
    (
        "{name: cd, recipe: cd.yaml}",
        "{name: cd, recipe: cd.yaml, also: [{corpus: cd, share: 0.1}]}",
        r"corpora: cd need each other",
    ),
]  # fmt: skip


def written(folder: Path, text: str) -> Path:
    file = folder / "s.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(("old", "new", "expected"), WRONG)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in SWEEP

    with pytest.raises(UsageError) as caught:
        load_sweep(written(tmp_path, SWEEP.replace(old, new, 1)))

    message = str(caught.value)
    assert re.search(r"s\.yaml:\d+:\d+: ", message) and re.search(expected, message), message
    assert "\n" not in message


def test_runs_are_seed_by_seed(tmp_path: Path) -> None:
    """A sweep that is stopped has whole rows."""
    sweep = load_sweep(written(tmp_path, SWEEP)).sweep

    assert [name for _, _, name in sweep.runs()] == ["baseline-1", "cd-1", "baseline-2", "cd-2"]


def test_a_field_is_changed_from_the_command_line(tmp_path: Path) -> None:
    file = written(tmp_path, SWEEP)

    sweep = load_sweep(file, set=["evaluate.data=/elsewhere", "matrix.seeds=[7]"]).sweep

    assert sweep.evaluate is not None and sweep.evaluate.data == Path("/elsewhere")
    assert sweep.matrix.seeds == (7,)


def test_the_kinds_of_files_are_told_apart(tmp_path: Path) -> None:
    """A sweep is no recipe and no run file."""
    file = written(tmp_path, SWEEP)

    for load in (load_recipe, load_run):
        with pytest.raises(UsageError, match=r"is a sweep; `cdgen sweep` takes it"):
            load(file)


def test_changes_are_written_as_the_command_line_reads_them() -> None:
    changed = options(
        [
            ("amateur", {"kind": "none"}),
            ("mix.synthetic", 0.1),
            ("decode.outside_head", "-inf"),
            ("a", "1e-3"),
        ]
    )

    assert changed == [
        "amateur={kind: none}",
        "mix.synthetic=0.1",
        "decode.outside_head=-inf",
        "a=1e-3",
    ]
