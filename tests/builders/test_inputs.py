"""What a recipe reads is found, checked and hashed before any work; a mistake is one line with its place."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small import SMALL_RECIPE
from tokenizers import Tokenizer as Backend
from transformers import LlamaConfig, LlamaForCausalLM

from cdgen import open_corpus
from cdgen.builders.found import find_sources
from cdgen.builders.inputs import resolve
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.errors import UsageError
from cdgen.recipes.digests import digests
from cdgen.recipes.load import load_recipe
from cdgen.recipes.schema import TokenizerTraining
from cdgen.shards.verify import verify
from cdgen.text.tokenizer import tokenizer_files, train_tokenizer

SOURCE = "path: tales.txt, format: text, document: blank-line"


def with_source(recipe: Path, source: str) -> Path:
    """The small recipe with another source."""
    recipe.write_text(SMALL_RECIPE.replace(SOURCE, source), encoding="utf-8")
    return recipe


def refused(recipe: Path) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(load_recipe(recipe))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(recipe))


# ---- sources ----


SHA = "a" * 40
MISTAKES = [
    ("path: nowhere.txt", r":6:27: text.sources[0].path: no file "),
    ("path: tales.jsonl", r":6:27: text.sources[0].path: "),
    ("path: folder, format: text", "a folder needs format: corpus or hf"),
    ("path: tales.txt, format: corpus", "format corpus does not fit tales.txt, whose name says text"),
    ("path: nowhere, format: corpus", "no folder "),
    ("path: folder, format: corpus", "no manifest.json, so no finished corpus"),
    ("path: folder, format: hf", "cannot read split train"),
    ("path: tales", "path tales does not say its format by .txt, .jsonl or .parquet"),
    ("path: tales.parquet.zst", "parquet is compressed inside"),
    ("path: tales.txt, field: text", "field belongs to jsonl, parquet and a local hf folder, this"),
    ("path: tales.jsonl, document: file", "document belongs to format text, this source is read as jsonl"),
    ("path: tales.txt, document: separator", "document separator needs separator"),
    ('path: tales.txt, separator: "--"', "separator belongs to document: separator"),
    ("path: tales.txt, split: eval", "split belongs to format corpus and a local hf folder"),
    ("path: tales.txt, kind: real", "kind belongs to format corpus"),
    ("path: folder, format: corpus, split: test", "split of a corpus must be train or eval, found test"),
    (f"hf: {{dataset: a/b, revision: {SHA}}}, field: x", "this source is read as hf; write it inside hf"),
    (f"hf: {{dataset: a/b, revision: {SHA}}}, format: text", "format text does not fit a dataset on the Hub"),
    ("hf: {dataset: a/b, revision: main}", "text.sources[0].hf.revision: "),
    (f"hf: {{dataset: ../b/c, revision: {SHA}}}", "text.sources[0].hf.dataset: "),
    (f"path: tales.txt, hf: {{dataset: a/b, revision: {SHA}}}", "exactly one of path, hf is needed, found path and hf"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), MISTAKES, ids=[case[0][:40] for case in MISTAKES])
def test_a_mistake_in_a_source_is_one_line(small_recipe: Path, source: str, expected: str) -> None:
    """With file, line, column and field, before anything is written."""
    (small_recipe.parent / "folder").mkdir()
    (small_recipe.parent / "tales.jsonl").write_text('{"txt": "a"}\n', encoding="utf-8")
    message = refused(with_source(small_recipe, source))

    assert expected in message and message.startswith(":6:"), message


def test_a_source_that_does_not_begin_with_a_document_is_named(small_recipe: Path) -> None:
    """The recipe's line, and the file's."""
    (small_recipe.parent / "tales.jsonl").write_text('{"txt": "a"}\n', encoding="utf-8")
    message = refused(with_source(small_recipe, "path: tales.jsonl"))

    assert (
        "tales.jsonl:1: no field 'text'; it has 'txt'; name the field that holds the text"
        in message
    )


WRITERS: dict[str, Callable[[list[str], Path], None]] = {
    "path: d.jsonl": lambda texts, folder: _jsonl(texts, folder / "d.jsonl"),
    "path: d.parquet": lambda texts, folder: pq.write_table(pa.table({"text": texts}), folder / "d.parquet"),
    "path: d, format: hf": lambda texts, folder: _jsonl(texts, folder / "d/train.jsonl"),
    'path: d.txt, document: separator, separator: "<|endoftext|>"': lambda texts, folder: _separated(
        texts, folder / "d.txt"
    ),
}  # fmt: skip


def _jsonl(texts: list[str], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def _separated(texts: list[str], path: Path) -> None:
    path.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")


@pytest.mark.parametrize("source", WRITERS)
def test_the_same_documents_give_the_same_real_shards_whatever_their_format(
    small_recipe: Path, tmp_path: Path, small_text: str, source: str
) -> None:
    """Keys, texts and ids; only the digest in the names differs."""
    from cdgen.text.sides import place

    def documents(recipe: Path) -> list[tuple[str, str]]:
        file = load_recipe(recipe)
        paths = {name: found.path for name, found in find_sources(file).items()}
        return [(item.id, item.side) for item in place(file.recipe.text, paths)]

    expected = documents(small_recipe)
    WRITERS[source](small_text.rstrip("\n").split("\n\n"), small_recipe.parent)

    assert documents(with_source(small_recipe, source)) == expected


def test_what_is_read_and_how_is_in_the_text_digest(small_recipe: Path) -> None:
    """Content, field, separator and cut; neither place nor spelling of a default."""
    folder = small_recipe.parent
    (folder / "d.jsonl").write_text('{"text": "a\\n--\\nb", "body": "a"}\n', encoding="utf-8")
    (folder / "e.jsonl").write_bytes((folder / "d.jsonl").read_bytes())
    (folder / "t.txt").write_text("a\n--\nb\n\nc", encoding="utf-8")

    def text_digest(source: str) -> str:
        file = load_recipe(with_source(small_recipe, source))
        return digests(file.recipe, resolve(file).hashes, engine=1).text

    jsonl = {
        text_digest(f"path: {name}")
        for name in ("d.jsonl", "e.jsonl", "d.jsonl, format: jsonl, field: text")
    }
    plain = {
        text_digest(f"path: t.txt{rest}")
        for rest in ("", ", document: blank-line", ", format: text")
    }
    others = {
        text_digest(source)
        for source in (
            "path: d.jsonl, field: body",
            "path: t.txt, document: file",
            'path: t.txt, document: separator, separator: "--"',
        )
    }

    assert len(jsonl) == len(plain) == 1
    assert len(jsonl | plain | others) == 5


# ---- another corpus ----


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, small_text: str) -> tuple[Path, Report]:
    """A first corpus."""
    home = tmp_path_factory.mktemp("first")
    (home / "tales.txt").write_text(small_text, encoding="utf-8")
    (home / "small.yaml").write_text(SMALL_RECIPE, encoding="utf-8")
    return home / "out", build(home / "small.yaml", home / "out", cache=home / "cache")


@pytest.mark.parametrize("kind", ["real", "synthetic", "mixed"])
def test_a_corpus_is_a_source_of_its_samples(
    first: tuple[Path, Report], small_recipe: Path, kind: str
) -> None:
    """A second generation reads what the first one wrote."""
    from cdgen.text.sources import read

    file = load_recipe(with_source(small_recipe, f"path: {first[0]}, format: corpus, kind: {kind}"))
    paths = {name: found.path for name, found in find_sources(file).items()}

    assert [document.text for document in read(file.recipe.text.sources, paths)] == [
        sample.text for sample in open_corpus(first[0]).samples(kind)
    ]


def test_a_second_generation_builds(
    first: tuple[Path, Report], small_recipe: Path, tmp_path: Path
) -> None:
    """From the mixed text of the first; its digest is the first manifest's."""
    recipe = with_source(small_recipe, f"path: {first[0]}, format: corpus")

    build(recipe, tmp_path / "out", cache=tmp_path / "cache")

    assert list(verify(tmp_path / "out").problems) == []


def test_a_corpus_is_hashed_by_its_manifest(
    first: tuple[Path, Report], small_recipe: Path, tmp_path: Path
) -> None:
    """Wherever it lies; kind and split count."""

    def content(source: str) -> str:
        return find_sources(load_recipe(with_source(small_recipe, source)))["tales"].sha256

    shutil.copytree(first[0], tmp_path / "moved")
    here = content(f"path: {first[0]}, format: corpus")

    assert content(f"path: {tmp_path / 'moved'}, format: corpus, kind: mixed, split: train") == here
    assert content(f"path: {first[0]}, format: corpus, kind: real") != here


def test_a_damaged_corpus_is_one_line(
    first: tuple[Path, Report], small_recipe: Path, tmp_path: Path
) -> None:
    """A flipped byte would be another text under the same digest."""
    shutil.copytree(first[0], tmp_path / "copy")
    shard = min((tmp_path / "copy/data/mixed").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)

    message = refused(with_source(small_recipe, f"path: {tmp_path / 'copy'}, format: corpus"))

    assert f"{shard.name}: is not the file that the manifest names; run cdgen verify" in message


# ---- given tokenizers and models ----

GIVEN = (
    SMALL_RECIPE[: SMALL_RECIPE.index("tokenizer:")]
    + "tokenizer: {path: tok}\nexpert: {path: expert}\namateur: {kind: model, path: amateur}\n"
    + SMALL_RECIPE[SMALL_RECIPE.index("decode:") :].replace("synthetic: 0.3", "synthetic: 0.2")
)


@pytest.fixture(scope="module")
def backend(small_text: str) -> Backend:
    return train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=300))


@pytest.fixture
def given_recipe(small_recipe: Path, backend: Backend) -> Path:
    """A recipe with a given tokenizer and two given models."""
    small_recipe.write_text(GIVEN, encoding="utf-8")
    for name in ("tok", "expert", "amateur"):
        (small_recipe.parent / name).mkdir()
        for file, content in tokenizer_files(backend, context=128).items():
            (small_recipe.parent / name / file).write_bytes(content)
    for name in ("expert", "amateur"):
        save_model(small_recipe.parent / name, 300)
    return small_recipe


def save_model(folder: Path, vocab_size: int) -> None:
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def special_tokens(folder: Path, **tokens: str | None) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **tokens}))


def test_a_tokenizer_without_eos_is_refused_with_advice(given_recipe: Path) -> None:
    """Documents that follow one another could not be told apart."""
    special_tokens(given_recipe.parent / "tok", eos_token=None)

    assert "tokenizer.path: the tokenizer in" in refused(given_recipe)
    assert "has no end-of-text token, so documents would have no end; set eos_token" in refused(
        given_recipe
    )


def test_a_special_token_that_the_vocabulary_lacks_is_named(given_recipe: Path) -> None:
    """Not taken for a tokenizer without one."""
    special_tokens(given_recipe.parent / "tok", bos_token="<bos>")

    assert "bos_token '<bos>' of tokenizer_config.json is no token of tokenizer.json" in refused(
        given_recipe
    )


@pytest.mark.parametrize("bos", [None, "</s>"], ids=["no BOS", "BOS is EOS"])
def test_a_corpus_of_a_tokenizer_with_other_ends_is_sound(
    given_recipe: Path, tmp_path: Path, bos: str | None
) -> None:
    """Without BOS, as Qwen's; with one token for both, as GPT-2's: ids begin and end as the contract says."""
    for name in ("tok", "expert", "amateur"):
        special_tokens(given_recipe.parent / name, bos_token=bos)

    build(given_recipe, tmp_path / "out", cache=tmp_path / "cache")

    assert list(verify(tmp_path / "out").problems) == []
    for kind in ("real", "synthetic", "mixed"):
        for sample in open_corpus(tmp_path / "out").samples(kind):
            assert (sample.ids[-1] == 1) == (not sample.meta.truncated)
            assert 0 not in sample.ids[:1]
            assert bos is None or sample.ids[0] == 1


@pytest.mark.parametrize("role", ["expert", "amateur"])
def test_a_model_of_fewer_tokens_is_refused_before_any_work(given_recipe: Path, role: str) -> None:
    save_model(given_recipe.parent / role, 290)

    assert (
        f"{role}.path: the model has 290 vocabulary entries and the corpus's tokenizer 300"
        in refused(given_recipe)
    )


def test_a_model_of_another_tokenizer_is_refused_before_any_work(
    given_recipe: Path, tales: list[str]
) -> None:
    """The same number of tokens, with other meanings."""
    other = train_tokenizer(tales[50:60], TokenizerTraining(vocab_size=300))
    (given_recipe.parent / "amateur/tokenizer.json").write_text(other.to_str())

    assert "tokens of the model's own tokenizer have other ids than the corpus's" in refused(
        given_recipe
    )


def test_an_amateur_that_does_not_fit_is_refused_before_training(
    small_recipe: Path, tmp_path: Path
) -> None:
    """The tokenizer is trained here, so it is known only after that."""
    save_model(small_recipe.parent / "amateur", 64)
    small_recipe.write_text(
        SMALL_RECIPE.replace("{kind: checkpoint, checkpoint: 4}", "{kind: model, path: amateur}"),
        encoding="utf-8",
    )

    with pytest.raises(
        UsageError, match="the model has 64 vocabulary entries and the corpus's tokenizer 400"
    ):
        build(small_recipe, tmp_path / "out", cache=tmp_path / "cache")

    assert not list((tmp_path / "out").rglob("*.tar"))


def test_the_lock_names_no_path(given_recipe: Path, tmp_path: Path) -> None:
    """Inputs are in it by content."""
    build(given_recipe, tmp_path / "out", cache=tmp_path / "cache")
    lock = (tmp_path / "out/recipe.lock.json").read_text(encoding="utf-8")

    assert str(tmp_path) not in lock
    hashes = asdict(resolve(load_recipe(given_recipe)).hashes)
    assert hashes["expert"] in lock and hashes["sources"]["tales"] in lock
