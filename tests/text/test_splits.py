"""Sides, pieces and chunks: keyed by content, and cut without losing a character that is not white space."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.recipes.schema import Splits
from cdgen.text.splits import chunks, document_id, pieces, sentences, side

TEXT = st.text(st.sampled_from("ab .!?\n\"'é") | st.characters(codec="utf-8"), max_size=400)
PROSE = st.lists(st.sampled_from(["a", "word", "end.", "Stop!", "line\n", "é"]), max_size=900)


def words_of(texts: list[str]) -> int:
    """As a naive reading counts them (Latin text)."""
    return sum(len(text.split()) for text in texts)


def num_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer whose tokens are words."""
    return [len(text.split()) for text in texts]


def test_the_shares_are_those_asked_for() -> None:
    """Over many documents, within four standard deviations."""
    splits = Splits(train=0.7, eval=0.1, prefix=0.2, seed=1)
    sides = [side(f"document {i}", splits) for i in range(10_000)]

    for name, share in (("train", 0.7), ("eval", 0.1), ("prefix", 0.2)):
        assert sides.count(name) / 10_000 == pytest.approx(
            share, abs=4 * (share * (1 - share) / 10_000) ** 0.5
        )


def test_the_side_depends_on_text_and_seed_alone() -> None:
    """Duplicates land on one side; pinned, since every corpus depends on it."""
    splits = [Splits(train=0.4, eval=0.3, prefix=0.3, seed=seed) for seed in range(6)]

    assert [side("a tale", each) for each in splits] == [
        "eval",
        "eval",
        "train",
        "train",
        "prefix",
        "eval",
    ]
    assert document_id("tales", "Once.") == "f9f4da745c0f52113c00e53a"


def test_a_document_is_named_by_source_and_text() -> None:
    assert document_id("a", "bc") != document_id("ab", "c")
    assert len(document_id("a", "b")) == 24


@given(TEXT)
def test_sentences_are_the_whole_text(text: str) -> None:
    spans = sentences(text)

    assert "".join(text[start:end] for start, end in spans) == text


@given(TEXT)
@settings(max_examples=300)
def test_spans_name_the_bytes_of_the_parent(text: str) -> None:
    """Of chunks and of pieces."""
    parent = text.encode()
    for span in [*chunks(text), *pieces(text, num_words, 3)]:
        assert parent[span.start_bytes : span.end_bytes].decode() == span.text
        assert span.text and span.text.strip() == span.text


@given(PROSE)
def test_chunks_hold_every_word_once_and_at_most_200(prose: list[str]) -> None:
    """100 to 200 words, but for what is left at the end; a short document is one chunk."""
    text = " ".join(prose)
    found = [span.text for span in chunks(text)]
    sizes = [len(chunk.split()) for chunk in found]

    assert " ".join(found).split() == text.split()
    assert all(size <= 200 for size in sizes)
    if words_of([text]) < 100:
        assert len(found) <= 1


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40))
def test_chunks_end_where_sentences_end(sentence_words: list[int]) -> None:
    """Where no sentence is longer than a chunk, no sentence is cut, and only the last chunk is short."""
    text = " ".join(" ".join(["w"] * (size - 1) + ["end."]) for size in sentence_words)
    found = [span.text for span in chunks(text)]

    assert all(chunk.endswith(".") for chunk in found)
    assert all(len(chunk.split()) >= 100 for chunk in found[:-1])


@given(PROSE, st.integers(1, 50))
@settings(max_examples=200)
def test_pieces_hold_every_word_once_within_the_limit(prose: list[str], limit: int) -> None:
    text = " ".join(prose)
    found = [span.text for span in pieces(text, num_words, limit)]

    assert " ".join(found).split() == text.split()
    assert all(size <= limit for size in num_words(found))


def test_a_short_document_is_one_piece() -> None:
    assert [span.text for span in pieces("One. Two.", num_words, 2)] == ["One. Two."]


def test_pieces_are_cut_at_sentence_ends_where_there_are_any() -> None:
    text = "One two. Three four. Five six seven."

    assert [span.text for span in pieces(text, num_words, 4)] == [
        "One two. Three four.",
        "Five six seven.",
    ]


def test_one_long_word_is_cut_rather_than_kept_too_long() -> None:
    """A tokenizer of characters, and no space to cut at."""
    found = pieces("x" * 100, lambda texts: [len(text) for text in texts], 30)

    assert np.max([len(span.text) for span in found]) <= 30
    assert "".join(span.text for span in found) == "x" * 100
