"""`cdgen diff`: what differs between two corpora or recipes, and which field is the reason."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from small import SMALL_RECIPE

from cdgen.builders.run import build
from cdgen.errors import BuildError, UsageError
from cdgen.recipes.load import load_recipe
from cdgen.reports import samples
from cdgen.reports.difference import Difference, difference
from cdgen.reports.difference_text import difference_text
from cdgen.shards.reader import samples as read_samples


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, small_text: str) -> Path:
    """A folder with three corpora of one recipe: as it is, at another share, and with other draws."""
    folder = tmp_path_factory.mktemp("diff")
    (folder / "tales.txt").write_text(small_text, encoding="utf-8")
    (folder / "small.yaml").write_text(SMALL_RECIPE, encoding="utf-8")
    threads = torch.get_num_threads()
    for name, changes in {
        "plain": [],
        "share": ["mix.synthetic=0.2", "description=Less of it."],
        "seed": ["generate.seed=7"],
    }.items():
        build(
            load_recipe(folder / "small.yaml", set=changes), folder / name, cache=folder / "cache"
        )
    torch.set_num_threads(threads)
    return folder


def keys(corpus: Path, kind: str) -> dict[str, tuple[str, bytes]]:
    """Naive: (text, ids) of every sample by its key, read from the tars."""
    return {
        sample.key: (sample.text, sample.ids.tobytes())
        for shard in sorted(corpus.glob(f"data/{kind}/*-train-*.tar"))
        for sample in read_samples(shard)
    }


def fields(found: Difference) -> dict[str, tuple[object, object, tuple[str, ...]]]:
    """The recipe's differing fields by name."""
    return {field.field: (field.a, field.b, field.moves) for field in found.fields}


def test_a_corpus_is_the_same_as_itself(home: Path) -> None:
    found = difference(home / "plain", home / "plain")

    assert found.same
    assert (found.fields, found.digests, found.inputs, found.circumstances) == ((), {}, {}, {})
    assert all(group.samples.changed + group.samples.only_a == 0 for group in found.groups)
    assert "the same shards, byte for byte" in difference_text(found)


def test_another_share_moves_the_mix_alone(home: Path) -> None:
    """The reason is named, and a description moves nothing; real and synthetic samples are all equal."""
    found = difference(home / "plain", home / "share")

    assert not found.same
    assert fields(found)["mix.synthetic"] == (0.3, 0.2, ("mix",))
    assert fields(found)["description"][2] == ()
    assert list(found.digests) == ["mix"]
    assert found.shares["nominal"] == (0.3, 0.2)
    groups = {group.group: group for group in found.groups}
    for kind in ("real-train", "real-eval", "synthetic-train"):
        assert groups[kind].equal_shards == groups[kind].shards[0] == groups[kind].shards[1] > 0
    assert groups["mixed-train"].samples.only_a > 0
    text = difference_text(found)
    assert "mix.synthetic: 0.3 -> 0.2   moves mix" in text
    assert "nominal share of synthetic text: 30.0000% -> 20.0000%" in text


def test_other_draws_change_samples_of_the_same_keys(home: Path) -> None:
    """Counted as a naive reading of the tars counts them."""
    found = difference(home / "plain", home / "seed")
    one, two = keys(home / "plain", "synthetic"), keys(home / "seed", "synthetic")

    assert fields(found)["generate.seed"] == (42, 7, ("decode", "mix"))
    assert list(found.digests) == ["decode", "mix"]
    group = next(group for group in found.groups if group.group == "synthetic-train")
    shared = one.keys() & two.keys()
    assert group.samples.equal == sum(one[key] == two[key] for key in shared)
    assert group.samples.changed == sum(one[key] != two[key] for key in shared) > 0
    assert group.samples.only_a == len(one) - len(shared)
    assert group.samples.only_b == len(two) - len(shared)
    assert one[group.samples.example] != two[group.samples.example]


def test_passes_over_parts_of_the_keys_count_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded by reading the indexes several times."""
    whole = difference(home / "plain", home / "seed").groups
    monkeypatch.setattr(samples, "ROWS_PER_PASS", 10)

    parts = difference(home / "plain", home / "seed").groups

    assert [{**asdict(g.samples), "example": ""} for g in parts] == [
        {**asdict(g.samples), "example": ""} for g in whole
    ]


def recipe(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    """The small recipe with changes, beside its text."""
    text = SMALL_RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_two_recipes_are_compared_without_building(home: Path) -> None:
    """Digests are computed from the files they name."""
    other = recipe(home, "other.yaml", ("hidden: 32", "hidden: 64"), ("name: small", "name: other"))

    found = difference(home / "small.yaml", other)

    assert not found.same and found.manifests is None and found.groups == ()
    assert list(found.digests) == ["training", "expert", "amateur", "decode", "mix"]
    assert fields(found)["expert.train.hidden"][2] == tuple(found.digests)
    assert fields(found)["name"] == ("small", "other", ())
    assert "build different corpora" in difference_text(found)


def test_recipes_that_differ_in_words_alone_build_the_same(home: Path) -> None:
    other = recipe(home, "words.yaml", ("name: small", "name: words"))

    found = difference(home / "small.yaml", other)

    assert found.same and list(fields(found)) == ["name"]
    assert "moves no digest" in difference_text(found)


def test_a_recipe_is_compared_with_a_corpus(home: Path) -> None:
    """Would it be built again as it is?"""
    assert difference(home / "small.yaml", home / "plain").same
    assert not difference(home / "small.yaml", home / "seed").same


def test_fields_that_fit_only_together_are_still_explained(home: Path) -> None:
    """Another kind of amateur with another method: neither is valid alone."""
    other = recipe(
        home,
        "sample.yaml",
        ("{kind: checkpoint, checkpoint: 4}", "{kind: none}"),
        ("method: contrastive", "method: sample"),
    )

    found = fields(difference(home / "small.yaml", other))

    assert found["amateur.kind"] == ("checkpoint", "none", ("amateur", "decode", "mix"))
    assert found["amateur.checkpoint"][:2] == (4, "absent")
    assert found["decode.method"][2] == ("decode", "mix")


def test_a_changed_text_is_the_reason_itself(home: Path, tmp_path: Path) -> None:
    """Equal recipes, another file behind the path."""
    (tmp_path / "tales.txt").write_text("Another tale.\n", encoding="utf-8")
    other = recipe(tmp_path, "small.yaml")

    found = difference(home / "small.yaml", other)

    assert found.fields == () and not found.same
    assert list(found.inputs) == ["tales"] and "text" in found.digests
    assert "text of source tales: sha256 " in difference_text(found)


def test_a_recipe_without_its_text_is_compared_by_its_fields(home: Path, tmp_path: Path) -> None:
    """And what is not known is said."""
    other = recipe(tmp_path, "small.yaml", ("alpha: 0.1", "alpha: 0.2"))

    found = difference(home / "small.yaml", other)

    assert not found.same and found.digests == {}
    assert fields(found)["decode.alpha"] == (0.1, 0.2, ("decode", "mix"))
    assert any("its digests are not known: " in note for note in found.notes)


def test_what_is_neither_is_answered(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"is not a finished corpus"):
        difference(home / "plain", tmp_path)
    with pytest.raises(UsageError, match=r"nowhere: no such recipe"):
        difference(home / "plain", tmp_path / "nowhere")


def test_a_corpus_whose_recipe_is_gone_is_still_compared(home: Path, tmp_path: Path) -> None:
    """Manifest, digests and samples are enough; the rest is noted."""
    for name in ("manifest.json", "index"):
        (tmp_path / name).symlink_to(home / "seed" / name)

    found = difference(home / "plain", tmp_path)

    assert list(found.digests) == ["decode", "mix"] and len(found.notes) == 2
    assert any(group.samples.changed for group in found.groups)
