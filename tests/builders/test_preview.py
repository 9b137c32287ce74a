"""A few prefixes under three methods, before a build and after it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import SMALL_RECIPE
from typer.testing import CliRunner

from cdgen.builders.needs import Needs
from cdgen.builders.plan import plan
from cdgen.builders.preview import preview
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.cli import app
from cdgen.corpus import open_corpus
from cdgen.errors import BuildError, UsageError
from cdgen.recipes.load import load_recipe
from cdgen.text.tokenizer import Tokenizer

Built = tuple[Path, Path, Report]


def test_what_is_missing_is_named_and_nothing_is_written(
    small_recipe: Path, tmp_path: Path
) -> None:
    """The steps it would take, and the word that takes them."""
    with pytest.raises(
        BuildError, match=r"the tokenized text and the expert \(12 training steps.*--train"
    ):
        preview(small_recipe, tmp_path / "out", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_a_build_goes_on_from_a_preview(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and health are there already, and the corpus has the same bytes."""
    text = SMALL_RECIPE.replace("mix: {", "preflight: {}\nmix: {")
    (recipe := built[0].parent / "previewed.yaml").write_text(text, encoding="utf-8")
    out, cache = tmp_path / "out", built[0].parent / "cache"

    seen = preview(recipe, out, num_prefixes=1, num_tokens=4, train=True, cache=cache)
    again = preview(recipe, out, num_prefixes=1, num_tokens=4, cache=cache)

    assert again == seen and not (out / "manifest.json").exists()
    monkeypatch.setattr("cdgen.builders.preflight.measure", None)
    report = build(recipe, out, cache=cache)
    assert report.manifest_digest == built[2].manifest_digest
    assert report.preflight == seen.health


def test_a_corpus_is_previewed_as_it_was_decoded(built: Built, tmp_path: Path) -> None:
    """In fp32 the recipe's own column is what the corpus has, to the first end of text."""
    seen = preview(built[1], num_prefixes=3, num_tokens=48)
    tokenizer = Tokenizer.load(built[1] / "tokenizer")
    stored = {
        (sample.meta.document, tokenizer.decode([sample.ids[:8]])[0]): sample
        for sample in open_corpus(built[1]).samples("synthetic")
        if sample.meta.completion == 0 and sample.meta.part == 0
    }

    assert len(seen.prefixes) == 3 and seen.health is not None
    for one in seen.prefixes:
        sample = stored[one.document, one.prefix]
        assert [found.method for found in one.continuations] == [
            "contrastive",
            "head_only",
            "sample",
        ]
        assert one.continuations[0].text == tokenizer.decode([sample.ids[8:].astype(np.int64)])[0]
        assert len({found.text for found in one.continuations}) > 1


@pytest.mark.parametrize(
    ("amateur", "method", "columns"),
    [
        ("{kind: none}", "head_only", ["head_only", "sample"]),
        ("{kind: none}", "sample", ["sample", "head_only"]),
        ("{kind: early_exit, layer: 1}", "contrastive", ["contrastive", "head_only", "sample"]),
        (
            "{kind: temperature, temperature: 2.0}",
            "contrastive",
            ["contrastive", "head_only", "sample"],
        ),
    ],
)
def test_every_method_has_its_column_once(
    built: Built, tmp_path: Path, amateur: str, method: str, columns: list[str]
) -> None:
    """Whatever the amateur is."""
    text = SMALL_RECIPE.replace("{kind: checkpoint, checkpoint: 4}", amateur)
    (recipe := built[0].parent / "other.yaml").write_text(
        text.replace("method: contrastive", f"method: {method}"), encoding="utf-8"
    )

    seen = preview(
        recipe,
        tmp_path / "out",
        num_prefixes=1,
        num_tokens=4,
        train=True,
        cache=built[0].parent / "cache",
    )

    assert [found.method for found in seen.prefixes[0].continuations] == columns
    assert seen.health is not None
    assert (seen.health.amateur_nats is None) == (amateur == "{kind: none}")


def test_the_command_prints_text_and_json(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """For people and for programs; wrong use is one line."""
    runner = CliRunner()

    text = runner.invoke(app, ["preview", str(built[1]), "-n", "1", "--tokens", "4"])
    facts = runner.invoke(app, ["preview", str(built[1]), "-n", "1", "--tokens", "4", "--json"])

    assert text.exit_code == facts.exit_code == 0
    assert "head_only (" in text.stdout and "contrast: loss" in text.stdout
    assert len(json.loads(facts.stdout)["prefixes"][0]["continuations"]) == 3
    wrong = runner.invoke(app, ["preview", str(built[1]), "--train"])
    assert isinstance(wrong.exception, UsageError)
    assert runner.invoke(app, ["preview", str(built[1]), "-n", "0"]).exit_code == 2


def test_a_folder_without_what_it_takes_says_so(built: Built, tmp_path: Path) -> None:
    """No corpus, prefixes gone, an option that has no meaning: one line each."""
    with pytest.raises(UsageError):
        preview(tmp_path)
    with pytest.raises(UsageError, match="--out has no meaning"):
        preview(built[1], tmp_path / "out")
    shutil.copytree(built[1], tmp_path / "copy")
    next((tmp_path / "copy/work").glob("prefixes-*.parquet")).unlink()
    with pytest.raises(BuildError, match="build the corpus again here"):
        preview(tmp_path / "copy")


def test_no_prefix_is_long_enough(built: Built, tmp_path: Path) -> None:
    """Said, with what to change."""
    file = load_recipe(built[0], set=["generate.prefix_tokens=63", "generate.new_tokens=1"])
    short = load_recipe(built[0], set=["text.splits.prefix=0.0", "text.splits.train=0.9"])

    assert len(preview(file, tmp_path / "a", train=True, cache=built[0].parent / "cache").prefixes)
    with pytest.raises(BuildError, match="no chunk of the prefix split has 8 tokens"):
        preview(short, tmp_path / "b", train=True, cache=tmp_path / "cache")


def test_a_plan_tells_the_path_that_will_be_used(built: Built, tmp_path: Path) -> None:
    """From the calibration; without one, nothing is known."""
    cache = built[0].parent / "cache"
    timed = plan(built[0], tmp_path / "out", cache=cache, timed=True).needs

    assert timed.decoding_path == preview(built[1], num_prefixes=1, num_tokens=1).engine
    assert timed.decoding_s is not None and timed.decoding_s > 0
    assert plan(built[0], tmp_path / "out", cache=cache).needs.decoding_path is None


def test_gpu_hours_and_memory_are_those_of_the_gpu() -> None:
    """Where there is one, models must fit it, whatever the machine has."""
    there = Needs(
        shard_bytes=1,
        training_disk_bytes=1,
        free_disk_bytes=10,
        training_memory_bytes=5,
        decoding_memory_bytes=9,
        memory_bytes=8,
        training_s=1800.0,
        decoding_s=5400.0,
        gpu_memory_bytes=10,
    )

    assert there.fits and there.gpu_hours == 2.0
    without = Needs(
        **{name: getattr(there, name) for name in there.__slots__} | {"gpu_memory_bytes": None}
    )
    assert not without.fits and without.gpu_hours is None
