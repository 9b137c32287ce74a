"""The fast tokenizer gives the library's own ids, whatever the text."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers

from cdgen.recipes.schema import TokenizerTraining
from cdgen.text import words
from cdgen.text.tokenizer import Tokenizer, train_tokenizer
from cdgen.text.words import WordTable, fits

PIECES = [
    *(
        "'s",
        "'t",
        "'re",
        "'ve",
        "'m",
        "'ll",
        "'d",
        "'",
        " ",
        "  ",
        "\n",
        "\t",
        "\u00a0",
        "\u2028",
        "\u3000",
        "\r\n",
    ),
    *(
        "a",
        "Re",
        "ll",
        "é",
        "ß",
        "語",
        "1",
        "٣",
        "½",
        "!",
        "…",
        "’",
        "😀",
        "\u0301",
        "\x00",
        "\x1c",
        "<s>",
        "</s>",
    ),
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(
    st.characters(codec="utf-8"), max_size=30
)


@pytest.fixture(scope="module")
def backend(small_text: str) -> Backend:
    made = train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=600))
    made.encode_special_tokens = True
    return made


@given(st.lists(TEXT, max_size=5))
@example(
    [
        "x's s",
        "'s",
        " 's",
        "''s",
        "!'s",
        "'\n's",
        "'sx",
        "'rex 'r",
        "I'll'll",
        "a \n b",
        "a  ",
        "\u3000\u3000a",
    ]
)
@settings(max_examples=600, deadline=None)
def test_ids_are_the_librarys(backend: Backend, texts: list[str]) -> None:
    """Contractions, white space of every kind, characters of any length, special tokens spelt out, empty texts."""
    ids, ends = WordTable(backend).encode(texts)
    expected = [backend.encode(text, add_special_tokens=False).ids for text in texts]

    assert [ids[a:b].tolist() for a, b in pairwise(ends)] == expected


@given(st.lists(TEXT, max_size=3))
@settings(max_examples=300, deadline=None)
def test_ends_are_the_librarys(backend: Backend, texts: list[str]) -> None:
    """Also where a token ends inside a character: then the character's last byte counts."""
    table = WordTable(backend)
    for text, (ids, ends) in zip(texts, table.encode_with_ends(texts), strict=True):
        encoding = backend.encode(text, add_special_tokens=False)
        before = np.cumsum([0, *(len(character.encode()) for character in text)])

        assert ids.tolist() == encoding.ids
        assert ends.tolist() == [before[end] for _, end in encoding.offsets]


def test_every_character_is_taken_as_the_library_takes_it(backend: Backend) -> None:
    """Between letters, digits, marks and spaces, where its class decides the words. A sample of all planes."""
    points = [
        *range(0x500),
        *range(0x2000, 0x2100),
        *range(0x3000, 0x3040),
        *range(0x10000, 0x110000, 0x1001),
    ]
    texts = [f"a{chr(p)} 1{chr(p)}{chr(p)}!{chr(p)}'s" for p in points]
    ids, ends = WordTable(backend).encode(texts)

    for text, first, last in zip(texts, ends, ends[1:], strict=False):
        assert ids[first:last].tolist() == backend.encode(text, add_special_tokens=False).ids


def test_a_full_table_begins_anew(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, small_text: str
) -> None:
    """Memory stays bounded, and the ids are the same."""
    monkeypatch.setattr(words, "MAX_WORDS", 50)
    table = WordTable(backend)
    texts = small_text.split("\n\n")[:6]
    for text in texts + texts:
        assert (
            table.encode([text])[0].tolist() == backend.encode(text, add_special_tokens=False).ids
        )
    assert table.num_words < 1000


def test_real_text_of_several_batches_gives_the_librarys_ids(
    backend: Backend, tales: list[str]
) -> None:
    """Whole tales, with words met before and new ones."""
    table = WordTable(backend)
    for batch in (tales[:10], tales[5:20]):
        ids, ends = table.encode(batch)
        for text, first, last in zip(batch, ends, ends[1:], strict=False):
            assert ids[first:last].tolist() == backend.encode(text, add_special_tokens=False).ids


def test_other_tokenizers_keep_to_the_library(backend: Backend) -> None:
    """A normalizer, another pattern, dropout or added words: the table would be wrong."""

    def changed(**fields: object) -> Backend:
        return Backend.from_str(json.dumps({**json.loads(backend.to_str()), **fields}))

    spec = json.loads(backend.to_str())
    assert fits(changed())
    normalized = changed()
    normalized.normalizer = normalizers.NFC()
    assert not fits(normalized)
    whole = changed()
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not fits(whole)
    assert not fits(changed(model={**spec["model"], "dropout": 0.1}))
    assert not fits(changed(pre_tokenizer=None))
    assert not fits(Backend(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")))
    added = changed()
    added.add_tokens(["wolf"])
    assert not fits(added)
    assert (
        Tokenizer(added, bos=None, eos=None).encode(["a wolf."])[0].tolist()
        == added.encode("a wolf.", add_special_tokens=False).ids
    )


def test_a_special_token_that_is_spelt_out_is_text(backend: Backend) -> None:
    """Otherwise a text could end itself in the middle."""
    tokenizer = Tokenizer.trained(backend)
    ids = tokenizer.encode(["a</s><s>b"])[0]

    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids.tolist())
    assert tokenizer.decode([ids]) == ["a</s><s>b"]


@given(st.lists(TEXT, max_size=3), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_a_count_up_to_a_limit_is_right_up_to_it(
    backend: Backend, texts: list[str], limit: int
) -> None:
    """Above the limit any number above it will do, and long texts need no tokenizing."""
    tokenizer = Tokenizer.trained(backend)
    for exact, found in zip(
        tokenizer.num_tokens(texts), tokenizer.num_tokens(texts, up_to=limit), strict=True
    ):
        assert found == exact or (exact > limit and found > limit)
    assert tokenizer.num_tokens(["x" * 10**6], up_to=limit) == [limit + 1]
