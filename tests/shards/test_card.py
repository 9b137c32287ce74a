"""The card: what the Hub reads is what the corpus is, and nothing that strangers call things can break it."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cdgen.recipes.load import load_recipe
from cdgen.recipes.schema import Recipe
from cdgen.shards.card import MIRROR, card, mirrored_card
from cdgen.shards.licensing import corpus_license
from cdgen.shards.lock import Input, Lock, read_lock
from cdgen.shards.manifest import AlsoInfo, Manifest, Removed, SourceInfo, read_manifest
from cdgen.shards.markdown import code, paragraphs, plain, table
from cdgen.shards.sample import FEATURES

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"
MANIFEST = read_manifest(GOLDEN)
RECIPE = load_recipe(GOLDEN / "recipe.yaml").recipe
LOCK = read_lock(GOLDEN / "recipe.lock.json")
HOSTILE = "a | b\n---\nlicense: mit\n# x\n<script>alert(1)</script> `[x](javascript:y)` {{}} \"'\\ & \u202egnp.exe"


def changed(**values: Any) -> Recipe:
    """The golden recipe with other top-level values, checked again."""
    return Recipe.model_validate(RECIPE.model_dump(by_alias=True) | values)


def licensed(recipe: Recipe, **values: Any) -> Manifest:
    """The golden manifest with what follows from a recipe."""
    manifest = replace(MANIFEST, **values)
    return replace(manifest, **asdict(corpus_license(recipe, manifest.also)))


def header(text: str) -> dict[str, Any]:
    """The YAML of a card."""
    _, head, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def body(text: str) -> str:
    """What is below it."""
    return text.split("---\n", 2)[2]


def made(recipe: Recipe = RECIPE, lock: Lock = LOCK, **values: Any) -> str:
    """The card of the golden corpus, with changes."""
    return card(licensed(recipe, **values), recipe, lock, dtype="uint16")


def test_the_header_says_what_the_hub_asks() -> None:
    head = header(made())

    assert head["pretty_name"] == "golden" and head["license"] == "apache-2.0"
    assert {"webdataset", "datasets", "text", "synthetic", "cdgen"} <= set(head["tags"])
    assert "arxiv:2510.08245" in head["tags"]
    assert head["annotations_creators"] == ["machine-generated"]
    assert head["size_categories"] == ["n<1K"]
    assert "language" not in head and "source_datasets" not in head


def test_configurations_are_explicit_and_features_pinned_without_aliases() -> None:
    text = made()
    head = header(text)

    assert [one["config_name"] for one in head["configs"]] == ["mixed", "synthetic", "real"]
    assert [one.get("default", False) for one in head["configs"]] == [True, False, False]
    assert [one["features"] for one in head["dataset_info"]] == [FEATURES["uint16"]] * 3
    assert "&id" not in text and "*id" not in text


def test_every_pattern_finds_exactly_the_shards_of_its_kind_and_split() -> None:
    found = {
        (config["config_name"], files["split"]): {path.name for path in GOLDEN.glob(files["path"])}
        for config in header(made())["configs"]
        for files in config["data_files"]
    }
    expected: dict[tuple[str, str], set[str]] = {}
    for shard in MANIFEST.shards:
        split = "validation" if shard.split == "eval" else shard.split
        expected.setdefault((shard.kind, split), set()).add(shard.name)
    assert found == expected


@pytest.mark.parametrize(
    ("license_", "head"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        (
            "EUPL-1.2",
            {
                "license": "other",
                "license_name": "EUPL-1.2",
                "license_link": "https://spdx.org/licenses/EUPL-1.2.html",
            },
        ),
        ("MIT AND CC-BY-4.0", {"license": "other", "license_name": "MIT AND CC-BY-4.0"}),
        ("LicenseRef-ours", {"license": "other", "license_name": "LicenseRef-ours"}),
    ],
)
def test_a_licence_in_the_hubs_words(license_: str, head: dict[str, str]) -> None:
    found = header(made(changed(license=license_)))

    assert {name: value for name, value in found.items() if name.startswith("license")} == head


def test_an_override_is_told_with_what_would_have_followed() -> None:
    text = made(changed(license="CC-BY-4.0"))
    assert "The recipe decides so; from its texts and models Apache-2.0 follows." in text

    unknown = {**RECIPE.text.model_dump(), "sources": [source(license="LicenseRef-mine")]}
    text = made(changed(license="CC-BY-4.0", text=unknown))
    assert "could not be told: the source tales is under LicenseRef-mine" in text


def source(**values: Any) -> dict[str, Any]:
    """The golden recipe's source with other values."""
    return RECIPE.text.sources[0].model_dump() | values


def test_an_unknown_licence_is_not_left_out() -> None:
    text = made(
        changed(text={**RECIPE.text.model_dump(), "sources": [source(license="CC-BY-ND-4.0")]})
    )

    assert header(text)["license"] == "unknown"
    assert "It cannot be told what this corpus may be used under" in text


def test_languages_and_hub_datasets_of_the_sources() -> None:
    hub = {"dataset": "someone/tales", "revision": "0" * 40}
    sources = [
        source(language="en"),
        source(name="other", path=None, format=None, document=None, hf=hub, language="pt-BR"),
    ]
    recipe = changed(text={**RECIPE.text.model_dump(), "sources": sources})
    lock = Lock(sources={"other": Input(sha256="ab" * 32, hub="someone/tales", revision="0" * 40)})
    info = SourceInfo(name="other", license="MIT", num_documents=1, num_tokens=2)
    text = made(recipe, lock, sources=(info,))

    assert header(text)["language"] == ["en", "pt-BR"]
    assert header(text)["source_datasets"] == ["someone/tales"]
    assert f"someone/tales at `{'0' * 40}`, sha256 `{'ab' * 8}`" in body(text)


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"decode": {"method": "sample"}, "amateur": {"kind": "none"}}, ["no contrast", "| amateur | none |"]),
        ({"amateur": {"kind": "early_exit", "layer": 1}, "expert": {"path": "x", "license": "MIT"}},
         ["the expert's first 1 layers", "given; sha256 `e9cac756", "licence MIT"]),
        ({"amateur": {"kind": "ngram", "order": 3, "temperature": 2.0}}, ["order 3", "2 (amateur, besides)"]),
        ({"amateur": {"kind": "truncated_context", "prefix_tokens": 3}}, ["last 3 tokens of the prefix"]),
        ({"amateur": {"kind": "dropout", "attention": 0.7}}, ["attention dropout 0.7"]),
        ({"amateur": {"kind": "quantized", "bits": 4}}, ["weights of 4 bits"]),
        ({"decode": {"outside_head": -20.0, "top_k": 50, "top_p": 0.9}}, ["score -20", "`top_k` 50, `top_p` 0.9"]),
        ({"decode": {"method": "weighted_sum", "models": [
            {"model": "expert", "weight": 1.5}, {"model": "amateur", "weight": -0.5}, {"path": "y", "weight": -1.0}]}},
         ["| weight 1.5 | the expert |", "| weight -0.5 | the amateur |", "| weight -1 | given; licence not said |"]),
    ],
)  # fmt: skip
def test_the_decoding_is_told_as_the_recipe_has_it(
    values: dict[str, Any], lines: list[str]
) -> None:
    text = body(made(changed(**values)))

    for line in lines:
        assert line in text


def test_the_numbers_are_the_manifests() -> None:
    text = body(made())

    assert "| `mixed-train` | 17 | 1,697 | 99.8 | 2,642 | 8 |" in text
    assert "21.2139% synthetic, 20.0000% asked for" in text
    assert "0 by `min_tokens`" in text and "by `near_dedup`" not in text
    assert MANIFEST.digest in text and "2510.08245" in text
    assert "cdgen build recipe.yaml" in text


def test_a_mix_that_is_not_written_out_is_told() -> None:
    plain_shards = tuple(shard for shard in MANIFEST.shards if shard.kind != "mixed")
    without, full = made(shards=plain_shards), made()

    assert "It is not written out" in without and "It is not written out" not in full
    assert [one["config_name"] for one in header(without)["configs"]] == ["synthetic", "real"]
    assert not any(one.get("default") for one in header(without)["configs"])


def test_a_mirrored_card_names_parquet_wherever_it_named_shards_and_keeps_the_rest() -> None:
    """Also lists of patterns, and what a person wrote."""
    card = f"{made()}\n## My own words\n\ndata/real/x-*.tar\n".replace(
        "    path: data/synthetic/synthetic-train-7c5cc6d4-*.tar\n",
        "    path:\n    - data/synthetic/synthetic-train-7c5cc6d4-*.tar\n"
        "    - data/synthetic/synthetic-train-01234567-*.tar\n",
    )
    mirrored = mirrored_card(card)
    paths = [
        file["path"] for config in header(mirrored)["configs"] for file in config["data_files"]
    ]
    assert paths == [
        "parquet/mixed/mixed-train-5a0da445-*.parquet",
        [
            "parquet/synthetic/synthetic-train-7c5cc6d4-*.parquet",
            "parquet/synthetic/synthetic-train-01234567-*.parquet",
        ],
        "parquet/real/real-train-f312997e-*.parquet",
        "parquet/real/real-eval-f312997e-*.parquet",
    ]
    assert {k: v for k, v in header(mirrored).items() if k != "configs"} == {
        k: v for k, v in header(card).items() if k != "configs"
    }
    assert body(mirrored).replace(MIRROR, "") == body(card)
    for own in ("# Mine\n", "---\nlicense: mit\n---\n", "---\nnever closed\n"):
        with pytest.raises(ValueError, match=r"has no header|names no shards"):
            mirrored_card(own)


def test_removed_documents_are_told() -> None:
    gone = Removed(documents=("a-0", "b-0"), source="00" * 32)

    assert "2 documents were taken out after the build" in body(made(removed=gone))
    assert "taken out" not in body(made())


def test_names_of_strangers_cannot_break_header_or_tables() -> None:
    also = AlsoInfo(name=HOSTILE, corpus="", digests={"decode": HOSTILE}, sources=(
        SourceInfo(name=HOSTILE, license=HOSTILE, num_documents=1, num_tokens=1),))  # fmt: skip
    info = SourceInfo(name=HOSTILE, license=HOSTILE, num_documents=1, num_tokens=1)
    recipe = changed(description=HOSTILE)
    lock = Lock(models={"expert": Input(sha256=HOSTILE, hub=HOSTILE, revision=HOSTILE)})
    calm = made(recipe, LOCK, also=(replace(also, name="n", digests={}),))
    text = made(recipe, lock, name=HOSTILE, sources=(info,), also=(also,))

    head = header(text)
    assert head["pretty_name"].startswith("a | b ---") and "\u202e" not in text
    assert head.keys() == header(calm).keys()
    outside_code = re.sub(r"`[^`\n]*`", "", body(text))
    assert "\\<script" in outside_code and "<script" not in outside_code.replace("\\<script", "")
    assert lines_of_tables(text) == lines_of_tables(calm)
    assert [line for line in body(text).splitlines() if line.startswith("## ")] == [
        line for line in body(calm).splitlines() if line.startswith("## ")
    ]


def lines_of_tables(text: str) -> list[int]:
    """The number of cells of every row of every table."""
    rows = [line for line in body(text).splitlines() if line.startswith("|")]
    return [row.replace("\\|", "").count("|") for row in rows]


@given(st.text())
def test_any_text_stays_one_cell_and_one_line(text: str) -> None:
    for made_of in (plain(text), code(text)):
        row = table(("x",), [(made_of,)]).splitlines()
        assert len(row) == 3
        assert row[2].replace("\\\\", "").replace("\\|", "").count("|") == 2


@given(st.text())
def test_any_description_holds_no_markup(text: str) -> None:
    for line in paragraphs(text).splitlines():
        assert not line.startswith(("#", ">", "-", "+", "=", "|", "```", "    ", "<"))


def test_words_and_paragraphs_stay_as_they_are() -> None:
    assert paragraphs("One, two.\nThree: 4.5 %!\n\n\n1. x") == "One, two. Three: 4.5 %\\!\n\n1\\. x"
    assert code("a`|b") == "`ab`" and code("") == ""


def test_a_markdown_reader_finds_no_html_and_no_link_of_a_stranger() -> None:
    """In the whole card, with every name hostile."""
    reader = MarkdownIt("commonmark").enable("table")
    info = SourceInfo(name=HOSTILE, license=HOSTILE, num_documents=1, num_tokens=1)
    also = AlsoInfo(name=HOSTILE, corpus="", digests={"decode": HOSTILE}, sources=(info,))
    hub = Input(sha256=HOSTILE, hub=HOSTILE, revision=HOSTILE)
    lock = Lock(cdgen=HOSTILE, models={"expert": hub, "amateur": hub}, sources={HOSTILE: hub})
    recipe = changed(description=HOSTILE)
    text = body(made(recipe, lock, name=HOSTILE, sources=(info,), also=(also,)))
    tokens = [part for token in reader.parse(text) for part in (token, *(token.children or ()))]

    assert not [token for token in tokens if token.type in ("html_block", "html_inline", "image")]
    links = {token.attrs["href"] for token in tokens if token.type == "link_open"}
    assert links == {"https://arxiv.org/abs/2510.08245"}
    assert sum(token.type == "table_open" for token in tokens) == 3
    assert any(
        HOSTILE.split("\n", maxsplit=1)[0] in token.content
        for token in tokens
        if token.type == "text"
    )
