"""The text stage writes the same bytes however it is cut into batches, and leaves nothing when it fails."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cdgen.errors import UsageError
from cdgen.recipes.schema import Source, Splits, Text, TokenizerTraining
from cdgen.shards.layout import shard_path
from cdgen.shards.reader import samples
from cdgen.shards.sample import Sample
from cdgen.text.prepare import TextResult, write_text
from cdgen.text.sides import Placed, place
from cdgen.text.splits import chunks, pieces
from cdgen.text.tokenizer import Tokenizer, train_tokenizer

DIGEST = "0" * 64
MOST = 120


@pytest.fixture(scope="module")
def tokenizer(small_text: str) -> Tokenizer:
    return Tokenizer.trained(
        train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=500))
    )


@pytest.fixture
def text(tmp_path: Path, small_text: str) -> tuple[Text, dict[str, Path]]:
    """Tales, a long document without a sentence end, one-word texts, copies, and white space around a text."""
    (tmp_path / "tales.txt").write_text(
        small_text + "\n" + "x" * 3000 + "\n\nword\n\nword\n\n  spaced out.  \n", encoding="utf-8"
    )
    source = Source(name="tales", license="MIT", path=Path("tales.txt"))
    splits = Splits(train=0.6, eval=0.2, prefix=0.2, seed=5)
    section = Text(sources=(source,), max_document_tokens=MOST, splits=splits)
    return section, {"tales": tmp_path / "tales.txt"}


def written(
    text: tuple[Text, dict[str, Path]],
    tokenizer: Tokenizer,
    out: Path,
    placed: Iterator[Placed] | None = None,
) -> TextResult:
    return write_text(
        placed or place(*text),
        text[0],
        tokenizer,
        out,
        digest=DIGEST,
        documents=7,
        prefixes=out / "work/prefixes.parquet",
    )


def content(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_samples_are_those_of_a_naive_reading(
    text: tuple[Text, dict[str, Path]], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Document after document, each cut and tokenized by itself."""
    result = written(text, tokenizer, tmp_path / "out")
    expected = []
    for item in place(*text):
        if item.side != "prefix":
            spans = pieces(item.text, tokenizer.num_tokens, MOST - 2)
            for number, span in enumerate(spans):
                ended = number == len(spans) - 1
                ids = [0, *tokenizer.encode([span.text])[0], *([1] if ended else [])]
                expected.append((item.side, f"r{item.id}-{number:04d}", span.text, ids, not ended))
    found = [
        (split, sample.key, sample.text, sample.ids.tolist(), sample.meta.truncated)
        for split, info in result.shards
        for sample in samples(shard_path(tmp_path / "out", info.name))
    ]

    assert sorted(found) == sorted(expected)
    assert max(len(ids) for _, _, _, ids, _ in found) <= MOST
    assert result.counts["duplicates"] == 1


def test_prefixes_are_those_of_a_naive_reading(
    text: tuple[Text, dict[str, Path]], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Chunks with BOS first, and where each token's text ends."""
    result = written(text, tokenizer, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out/work/prefixes.parquet").to_pylist()
    expected = [
        (item.id, number, span)
        for item in place(*text)
        if item.side == "prefix"
        for number, span in enumerate(chunks(item.text))
    ]

    assert result.num_prefixes == len(rows) == len(expected) > 5
    for row, (document, number, span) in zip(rows, expected, strict=True):
        ids, ends = tokenizer.encode_with_ends([span.text])[0]
        assert (row["document"], row["chunk"], row["start"], row["end"]) == (
            document,
            number,
            span.start_bytes,
            span.end_bytes,
        )
        assert row["ids"] == [0, *ids] and row["ends"] == [0, *ends]


@pytest.mark.parametrize("batch", [1, 3])
def test_bytes_do_not_depend_on_batches(
    text: tuple[Text, dict[str, Path]],
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    """Shards, indexes and the prefix table."""
    written(text, tokenizer, tmp_path / "one")
    monkeypatch.setattr("cdgen.text.sides.BATCH_DOCUMENTS", batch)
    written(text, tokenizer, tmp_path / "two")

    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_an_error_in_a_source_leaves_nothing(
    text: tuple[Text, dict[str, Path]], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Also when shards were finished before it."""

    def damaged() -> Iterator[Placed]:
        yield from place(*text)
        raise UsageError("t.txt:9: not UTF-8")

    with pytest.raises(UsageError, match=r"t\.txt:9"):
        written(text, tokenizer, tmp_path / "out", damaged())

    assert content(tmp_path / "out") == {}


def test_a_full_disk_ends_the_threads(
    text: tuple[Text, dict[str, Path]],
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The writer fails: reading and tokenizing stop, and the error is the writer's."""
    import threading

    from cdgen.shards.writer import ShardWriter

    def full(self: ShardWriter, sample: Sample) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    before = threading.active_count()

    with pytest.raises(Exception, match="No space left"):
        written(text, tokenizer, tmp_path / "out")

    assert threading.active_count() == before
    assert content(tmp_path / "out") == {}


def test_ids_of_a_tokenizer_without_bos_begin_with_the_text(
    text: tuple[Text, dict[str, Path]], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """BOS first where the tokenizer has one; EOS last where the document ended."""
    plain = Tokenizer(tokenizer.backend, bos=None, eos="</s>")
    result = written(text, plain, tmp_path / "out")

    for _, info in result.shards:
        for sample in samples(shard_path(tmp_path / "out", info.name)):
            ids = plain.encode([sample.text])[0]
            assert np.array_equal(sample.ids, ids if sample.meta.truncated else [*ids, 1])
