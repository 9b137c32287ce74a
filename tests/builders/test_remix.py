"""`cdgen mix`: another mix of a finished corpus, byte for byte what a build would give."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kitchen import Kitchen, hashes, tree

import cdgen
from cdgen.builders.remix import mix
from cdgen.builders.report import Report
from cdgen.errors import UsageError
from cdgen.reports.summary import mix_text
from cdgen.shards.manifest import read_manifest
from cdgen.shards.verify import verify


def published(folder: Path, target: Path) -> Path:
    """A copy as it would be published: without work/."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("work"))
    return target


def test_mixing_anew_gives_what_a_build_of_that_recipe_gives(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    """Every byte of every shard and index, the manifest and the card; from a published copy, which stays as it was."""
    source = published(kitchen.cd, tmp_path / "published")
    before = tree(source)
    built, _ = kitchen.build("fifth", ("synthetic: 0.3", "synthetic: 0.2"))

    report = mix(source, tmp_path / "mixed", synthetic=0.2)

    mixed = tmp_path / "mixed"
    assert tree(mixed / "data") == tree(built / "data")
    assert tree(mixed / "index") == tree(built / "index")
    for name in ("manifest.json", "README.md", "recipe.lock.json"):
        assert (mixed / name).read_bytes() == (built / name).read_bytes()
    assert report.nominal_share == 0.2 and "20.0000% asked for" in mix_text(report)
    assert tree(source) == before
    assert verify(mixed).problems == ()


def test_a_mixed_corpus_can_be_mixed_and_built_again(kitchen: Kitchen, tmp_path: Path) -> None:
    """Its recipe says what was mixed, so that going back gives the first mix."""
    mix(kitchen.cd, tmp_path / "one", synthetic=0.15, seed=7)
    mix(tmp_path / "one", tmp_path / "two", synthetic=0.3, seed=42)

    assert read_manifest(tmp_path / "two") == read_manifest(kitchen.cd)


def test_filters_and_other_corpora_are_mixed_anew_too(
    filtered: tuple[Path, Report], tmp_path: Path
) -> None:
    """Without the folder of the other corpus: its shards are here."""
    source = published(filtered[0], tmp_path / "published")
    report = mix(source, tmp_path / "mixed", synthetic=0.1, size="synthetic_once", repeat="allow")

    assert [part.nominal for part in report.parts] == [0.8, 0.1, 0.1]
    assert verify(tmp_path / "mixed").problems == ()


def test_a_corpus_without_mixed_shards_can_get_them(kitchen: Kitchen, tmp_path: Path) -> None:
    """And the other way round: a mix that is not written says the same numbers."""
    without = mix(kitchen.cd, tmp_path / "without", synthetic=0.3, materialize=False)
    assert not list((tmp_path / "without").glob("data/mixed/*"))
    mix(tmp_path / "without", tmp_path / "with", synthetic=0.3, materialize=True)

    assert read_manifest(tmp_path / "with") == read_manifest(kitchen.cd)
    assert read_manifest(kitchen.cd).mix == read_manifest(tmp_path / "without").mix
    assert without.num_shards < len(read_manifest(kitchen.cd).shards)


def test_real_and_synthetic_shards_take_no_space_where_links_are_possible(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    """Hard links; where there can be none, copies with the same bytes."""
    mix(kitchen.cd, tmp_path / "linked", synthetic=0.2)

    for path in kitchen.cd.glob("data/synthetic/*.tar"):
        assert path.samefile(tmp_path / "linked/data/synthetic" / path.name)


def test_where_nothing_can_be_linked_shards_are_copied(
    kitchen: Kitchen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another file system."""

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    mix(kitchen.cd, tmp_path / "copied", synthetic=0.2)

    assert hashes(tmp_path / "copied", "synthetic") == hashes(kitchen.cd, "synthetic")
    assert not list((tmp_path / "copied").rglob(".tmp-*"))
    for path in kitchen.cd.glob("data/synthetic/*.tar"):
        assert not path.samefile(tmp_path / "copied/data/synthetic" / path.name)


def test_a_mix_that_stopped_is_finished(kitchen: Kitchen, tmp_path: Path) -> None:
    """The same command again; shards that are there are kept, what was lost comes back."""
    out = tmp_path / "out"
    mix(kitchen.cd, out, synthetic=0.2)
    before, kept = tree(out / "data"), next(out.glob("data/mixed/*.tar"))
    (out / "manifest.json").unlink()
    next(out.glob("data/real/*.tar")).unlink()
    (out / "index" / f"{kept.stem}.parquet").unlink()

    mix(kitchen.cd, out, synthetic=0.2)

    assert tree(out / "data") == before and verify(out).problems == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"synthetic": 1.5}, r"mix.synthetic: .*less than 1"),
        ({"size": "twice"}, r"mix.size: .*found 'twice'"),
        ({"repeat": "no"}, r"mix.repeat: "),
        ({"synthetic": 0.0000001}, r"synthetic must be 0 or at least 0.000001"),
    ],
)
def test_a_wrong_value_is_refused(
    kitchen: Kitchen, tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    """As it would be in a recipe; nothing is written."""
    with pytest.raises(UsageError, match=message):
        mix(kitchen.cd, tmp_path / "out", **{"synthetic": 0.2, **arguments})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_must_not_be_written_is_refused(kitchen: Kitchen, tmp_path: Path) -> None:
    """The corpus itself, a folder in it, somebody's files, and a folder that is no corpus."""
    before = tree(kitchen.cd)
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    for out in (kitchen.cd, kitchen.cd / "inside"):
        with pytest.raises(UsageError, match="choose a folder beside it with --out"):
            mix(kitchen.cd, out, synthetic=0.2)
    with pytest.raises(UsageError, match="holds files that are not a cdgen corpus"):
        mix(kitchen.cd, tmp_path, synthetic=0.2)
    with pytest.raises(UsageError, match="no finished corpus"):
        mix(tmp_path, tmp_path / "out", synthetic=0.2)
    assert tree(kitchen.cd) == before


def test_a_recipe_of_another_corpus_is_not_believed(kitchen: Kitchen, tmp_path: Path) -> None:
    """What the mix's other fields are is known from the recipe alone, so it must be the right one."""
    source = published(kitchen.cd, tmp_path / "published")
    text = (source / "recipe.yaml").read_text(encoding="utf-8")
    (source / "recipe.yaml").write_text(text.replace("seed: 42}\nshards", "seed: 1}\nshards"))

    with pytest.raises(UsageError, match="is not the recipe that this corpus was mixed by"):
        mix(source, tmp_path / "out", synthetic=0.2)


def test_the_verb_mixes_and_says_what_it_made(kitchen: Kitchen, tmp_path: Path) -> None:
    """From the command line, with JSON for programs; and it is in the Python interface."""
    command = [sys.executable, "-m", "cdgen", "mix", str(kitchen.cd), "--synthetic", "0.2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--seed", "5", "--size", "6000", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert 6000 <= facts["num_mixed_tokens"] < 6400
    assert facts["manifest_digest"] == read_manifest(tmp_path / "out").digest
    assert cdgen.mix is mix
