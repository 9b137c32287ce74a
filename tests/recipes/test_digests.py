"""What does not matter keeps the digests; what matters changes exactly the right ones."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from small import SMALL_RECIPE

from cdgen.recipes.digests import Digests, Inputs, digests
from cdgen.recipes.load import load_recipe

INPUTS = Inputs(sources={"tales": "ab" * 32})

GOLDEN = {
    "tokenizer": "1ba042047178b125773880281b1a75d981d6bf543b89591b6114cf5136dec095",
    "text": "d3988bcd6f6a2e86d977a1b2a13203c93ac53d7d5978ca69a05ce85560ac09b4",
    "training": "a4f50193aca042d5a00cf7df30a50ba03cd66dcecf4b29067d0ca4192a8b578c",
    "expert": "96516204ceed8ce4e944600dda8e51b27192429eb903bfdf95dcdd90d02afa65",
    "amateur": "f7302fc97df789c94a6da406c671bde3d330e7e665d295e30d480cd5dc87f866",
    "decode": "b71e110bd21ce0413d84ebbeded222e5f2eeb3ea51d7455d8b9c39d39031af95",
    "mix": "d83d20732c8bfe8a29d862308dffcf8c2daa9e1bbed82338b1de39b36faa9d13",
}


def digests_of(
    folder: Path, text: str = SMALL_RECIPE, inputs: Inputs = INPUTS, engine: int = 1
) -> Digests:
    """The digests of a recipe with this text."""
    file = folder / "r.yaml"
    file.write_text(text, encoding="utf-8")
    return digests(load_recipe(file).recipe, inputs, engine=engine)


def changed(old: Digests, new: Digests) -> set[str]:
    """The names of the digests that differ."""
    before, after = asdict(old), asdict(new)
    return {name for name in before if before[name] != after[name]}


def test_the_golden_recipe_keeps_its_digests(tmp_path: Path) -> None:
    """A change here means that everybody's corpora are built again: raise DIGEST_FORMAT on purpose."""
    assert asdict(digests_of(tmp_path)) == GOLDEN


KEPT = [
    ("name: small", "name: other"),
    ("description: A piece of the fairy tales, with models that are far too small.\n", ""),
    ("path: tales.txt", "path: elsewhere/other.txt"),
    ("alpha: 0.1", "alpha: 0.10"),
    ("lambda: 1.0", "lambda: 1"),
    ("decode: {method: contrastive, lambda: 1.0, alpha: 0.1}\n", ""),
    ("  checkpoint: best\n", ""),
    ("version: 1\n", "# a comment\nversion: 1\n"),
    ("outside_head: -inf", "outside_head: -inf"),
]


@pytest.mark.parametrize(("old", "new"), KEPT)
def test_what_does_not_matter_changes_nothing(tmp_path: Path, old: str, new: str) -> None:
    """Names, places, comments, spellings of a default."""
    assert (
        changed(digests_of(tmp_path), digests_of(tmp_path, SMALL_RECIPE.replace(old, new))) == set()
    )


ALL = {"tokenizer", "text", "training", "expert", "amateur", "decode", "mix"}
MOVED = [
    ("license: Apache-2.0", "license: MIT", ALL),
    ("train: 0.5, eval: 0.1", "train: 0.4, eval: 0.2", ALL),
    ("vocab_size: 400", "vocab_size: 401", ALL),
    ("max_document_tokens: 400", "max_document_tokens: 401", ALL - {"tokenizer"}),
    ("documents: 16", "documents: 17", ALL - {"tokenizer"}),
    ("hidden: 32", "hidden: 64", {"training", "expert", "amateur", "decode", "mix"}),
    ("seed: 43", "seed: 44", {"training", "expert", "amateur", "decode", "mix"}),
    ("checkpoint: best", "checkpoint: 8", {"expert", "decode", "mix"}),
    ("checkpoint: 4}", "checkpoint: 8}", {"amateur", "decode", "mix"}),
    ("lambda: 1.0", "lambda: 0.5", {"decode", "mix"}),
    ("completions: 6", "completions: 3", {"decode", "mix"}),
    ("rows_per_batch: 24", "rows_per_batch: 48", {"decode", "mix"}),
    ("synthetic: 0.3", "synthetic: 0.4", {"mix"}),
    ("synthetic: 0.3, seed: 42", "synthetic: 0.3, seed: 1", {"mix"}),
    ("synthetic: 0.3", "synthetic: 0.3, size: synthetic_once", {"mix"}),
    ("synthetic: 0.3", "synthetic: 0.3, unit: documents", {"mix"}),
    ("synthetic: 0.3", "synthetic: 0.3, repeat: allow", {"mix"}),
    ("mix: {", "filters: {}\nmix: {", {"mix"}),
]


@pytest.mark.parametrize(("old", "new", "expected"), MOVED)
def test_what_matters_changes_exactly_what_depends_on_it(
    tmp_path: Path, old: str, new: str, expected: set[str]
) -> None:
    """Changing a ratio never decodes again; changing a decoding parameter never trains again."""
    assert old in SMALL_RECIPE

    assert (
        changed(digests_of(tmp_path), digests_of(tmp_path, SMALL_RECIPE.replace(old, new)))
        == expected
    )


def test_other_source_bytes_change_everything(tmp_path: Path) -> None:
    """The text is where it all begins."""
    other = Inputs(sources={"tales": "cd" * 32})

    assert changed(digests_of(tmp_path), digests_of(tmp_path, inputs=other)) == ALL


def test_other_corpora_are_known_by_what_they_decoded(tmp_path: Path) -> None:
    """Their place changes nothing; other text or another share changes the mix alone."""
    also = SMALL_RECIPE.replace("0.3", "0.2, also: [{corpus: there, share: 0.1}]")
    inputs = replace(INPUTS, also=("11" * 32,))
    first = digests_of(tmp_path, also, inputs)

    assert changed(first, digests_of(tmp_path, also.replace("there", "here"), inputs)) == set()
    assert changed(first, digests_of(tmp_path, also, replace(INPUTS, also=("22" * 32,)))) == {"mix"}
    assert changed(
        first, digests_of(tmp_path, also.replace("share: 0.1", "share: 0.15"), inputs)
    ) == {"mix"}
    assert changed(first, digests_of(tmp_path)) == {"mix"}


def test_another_engine_decodes_again_and_trains_nothing(tmp_path: Path) -> None:
    """The engine's version stands for its tokens."""
    assert changed(digests_of(tmp_path), digests_of(tmp_path, engine=2)) == {"decode", "mix"}


def test_the_forms_of_minus_infinity_are_one(tmp_path: Path) -> None:
    """-inf is a word, -.inf a number: canonical -inf."""
    word = SMALL_RECIPE.replace("alpha: 0.1", "alpha: 0.1, outside_head: -inf")
    number = SMALL_RECIPE.replace("alpha: 0.1", "alpha: 0.1, outside_head: -.inf")

    assert changed(digests_of(tmp_path, word), digests_of(tmp_path, number)) == set()
    assert changed(digests_of(tmp_path), digests_of(tmp_path, word)) == set()


def test_a_given_expert_is_known_by_its_content(tmp_path: Path) -> None:
    """Neither its path nor the text is in its digest; the text is in the decode digest."""
    given = SMALL_RECIPE[: SMALL_RECIPE.index("expert:")] + (
        "expert: {path: somewhere}\namateur: {kind: model, path: elsewhere}\n"
        + SMALL_RECIPE[SMALL_RECIPE.index("decode:") :]
    )
    inputs = Inputs(
        sources={"tales": "ab" * 32}, tokenizer="11" * 32, expert="22" * 32, amateur="33" * 32
    )
    first = digests_of(tmp_path, given, inputs)

    moved = digests_of(tmp_path, given.replace("path: somewhere", "path: other"), inputs)
    other_text = digests_of(tmp_path, given.replace("documents: 16", "documents: 17"), inputs)

    assert changed(first, moved) == set()
    assert changed(first, other_text) == {"text", "decode", "mix"}
    assert first.training == first.tokenizer == ""


SUM = SMALL_RECIPE.replace(
    "decode: {method: contrastive, lambda: 1.0, alpha: 0.1}",
    "decode: {method: weighted_sum, models: [{model: expert, weight: 1.0}, {path: here, weight: 0.5}, "
    "{checkpoint: 8, weight: -0.5}]}",
)


def test_the_models_of_a_sum_are_known_by_their_content(tmp_path: Path) -> None:
    """Not by their path; weight, step, temperature and content move the decode digest alone."""
    inputs = replace(INPUTS, models=(None, "11" * 32, None))
    first = digests_of(tmp_path, SUM, inputs)

    assert changed(first, digests_of(tmp_path, SUM.replace("here", "there"), inputs)) == set()
    for old, new in (
        ("weight: 0.5", "weight: 0.25"),
        ("checkpoint: 8", "checkpoint: 4"),
        ("path: here", "path: here, temperature: 2.0"),
        ("model: expert", "model: amateur"),
    ):
        assert changed(first, digests_of(tmp_path, SUM.replace(old, new), inputs)) == {
            "decode",
            "mix",
        }
    other = replace(INPUTS, models=(None, "22" * 32, None))
    assert changed(first, digests_of(tmp_path, SUM, other)) == {"decode", "mix"}
