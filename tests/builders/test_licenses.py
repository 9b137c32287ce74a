"""The licence of a corpus follows from texts, models and other corpora, or the recipe decides it; it is recorded."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from kitchen import Kitchen, tree
from small import SMALL_RECIPE

from cdgen import mix
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.errors import UsageError
from cdgen.recipes.licensing import Part, parts_of
from cdgen.recipes.load import load_recipe
from cdgen.recipes.schema import Recipe
from cdgen.shards.licensing import corpus_license
from cdgen.shards.manifest import AlsoInfo, SourceInfo, read_manifest
from cdgen.shards.verify import verify

TRAINED = SMALL_RECIPE[SMALL_RECIPE.index("expert:") : SMALL_RECIPE.index("amateur:")]


def recipe_of(folder: Path, *changes: tuple[str, str]) -> Recipe:
    """The small recipe with these changes."""
    text = SMALL_RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "r.yaml"
    file.write_text(text, encoding="utf-8")
    return load_recipe(file).recipe


def given(license_: str) -> tuple[tuple[str, str], ...]:
    """Changes to a given expert, amateur, tokenizer and summand, each with this line of licence."""
    models = f"[{{model: expert, weight: 1.5}}, {{path: d, weight: -0.5{license_}}}]"
    return (
        (TRAINED, f"expert: {{path: a{license_}}}\n"),
        ("{kind: checkpoint, checkpoint: 4}", f"{{kind: model, path: b{license_}}}"),
        ("tokenizer: {train: {algorithm: bpe, vocab_size: 400}}", f"tokenizer: {{path: c{license_}}}"),
        ("{method: contrastive, lambda: 1.0, alpha: 0.1}", f"{{method: weighted_sum, models: {models}}}"),
    )  # fmt: skip


def test_what_is_trained_here_follows_the_text(tmp_path: Path) -> None:
    assert parts_of(recipe_of(tmp_path)) == [Part("the source tales", "Apache-2.0")]


@pytest.mark.parametrize("license_", [None, "MIT"])
def test_what_is_given_is_a_part(tmp_path: Path, license_: str | None) -> None:
    recipe = recipe_of(tmp_path, *given(f", license: {license_}" if license_ else ""))
    parts = ["the tokenizer", "the expert", "the amateur", "the model decode.models[1]"]

    assert parts_of(recipe)[1:] == [Part(what, license_) for what in parts]
    told = corpus_license(recipe, ())
    assert told.license == ("Apache-2.0 AND MIT" if license_ else "")
    assert told.license_problems[:1] == (() if license_ else ("the tokenizer has no licence",))


@pytest.mark.parametrize(
    "change",
    [
        ("checkpoint: best", "license: MIT"),
        ("vocab_size: 400}}", "vocab_size: 400}, license: MIT}"),
        ("license: Apache-2.0", "license: Apache 2"),
        ("license: Apache-2.0", "license: Apache-2.0, language: English"),
        ("name: small", "name: small\nlicense: mine"),
    ],
)
def test_what_is_no_licence_or_language_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=r"r\.yaml:\d+:\d+"):
        recipe_of(tmp_path, change)


def other(**values: object) -> AlsoInfo:
    """Another corpus, of a share-alike text."""
    source = SourceInfo(name="wiki", license="CC-BY-SA-4.0", num_documents=1, num_tokens=1)
    info = AlsoInfo(name="plain", corpus="", digests={}, sources=(source,))
    return replace(info, **values)  # type: ignore[arg-type]


def test_other_corpora_bring_their_licence(tmp_path: Path) -> None:
    """One whose manifest tells none, of an earlier version, brings those of its texts."""
    recipe = recipe_of(tmp_path)

    assert corpus_license(recipe, [other()]).license == "CC-BY-SA-4.0"
    assert corpus_license(recipe, [other(license="MIT")]).license == "Apache-2.0 AND MIT"
    untold = corpus_license(recipe, [other(license_problems=("the expert has no licence",))])
    assert (untold.license, untold.license_problems) == ("", ("the corpus plain has no licence",))


def test_a_recipe_decides_and_the_reason_is_kept(tmp_path: Path) -> None:
    decided = ("name: small", "name: small\nlicense: CC-BY-4.0")
    unknown = ("license: Apache-2.0", "license: LicenseRef-ours")
    told = corpus_license(recipe_of(tmp_path, decided, unknown), ())

    assert (told.license, told.license_override) == ("CC-BY-4.0", True)
    assert told.license_problems == (
        "the source tales is under LicenseRef-ours, whose terms cdgen does not know",
    )


def test_deciding_later_describes_anew_and_makes_nothing_anew(
    built: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    """Not a byte of data changes; card, croissant.json and manifest say it; without it all is as before."""
    recipe, folder, _ = built
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    before = {name: tree(out / name) for name in ("data", "index")}
    text = recipe.read_text(encoding="utf-8")
    decided = recipe.with_name("decided.yaml")
    decided.write_text(text.replace("name: small", "name: small\nlicense: CC-BY-4.0"))
    build(decided, out, cache=recipe.parent / "cache")

    manifest = read_manifest(out)
    assert (manifest.license, manifest.license_override) == ("CC-BY-4.0", True)
    assert manifest.digest == read_manifest(folder).digest
    assert {name: tree(out / name) for name in before} == before
    assert "license: cc-by-4.0" in (out / "README.md").read_text()
    assert "licenses/CC-BY-4.0" in (out / "croissant.json").read_text()
    assert verify(out).problems == ()

    build(recipe, out, cache=recipe.parent / "cache")
    for name in ("manifest.json", "README.md", "croissant.json", "recipe.lock.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert read_manifest(out).license == "Apache-2.0"


def test_a_mix_keeps_the_decision_and_what_other_corpora_bring(
    kitchen: Kitchen, filtered: tuple[Path, Report], tmp_path: Path
) -> None:
    assert read_manifest(filtered[0]).also[0].license == "Apache-2.0"
    mix(filtered[0], tmp_path / "mixed", synthetic=0.1)
    assert read_manifest(tmp_path / "mixed").license == "Apache-2.0"

    decided = ("name: small", "name: small\nlicense: CC0-1.0")
    shutil.copytree(kitchen.cd, kitchen.home / "decided")
    folder, _ = kitchen.build("decided", decided)
    mix(folder, tmp_path / "again", synthetic=0.2)
    manifest = read_manifest(tmp_path / "again")
    assert (manifest.license, manifest.license_override) == ("CC0-1.0", True)
