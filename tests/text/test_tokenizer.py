"""The tokenizer: trained the same every time, and byte-exact both ways."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import UsageError
from cdgen.recipes.schema import TokenizerTraining
from cdgen.text.tokenizer import Tokenizer, tokenizer_files, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_text: str) -> Tokenizer:
    return Tokenizer.trained(
        train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=400))
    )


def test_training_gives_the_same_tokenizer_every_time(
    small_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with another number of threads."""
    spec = TokenizerTraining(vocab_size=500)
    first = train_tokenizer(small_text.split("\n\n"), spec).to_str()
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")

    assert train_tokenizer(small_text.split("\n\n"), spec).to_str() == first


def test_special_tokens_are_the_first_ids(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 400)


@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    """Bytes that training never saw too."""
    assert tokenizer.decode(tokenizer.encode([text])) == [text]


@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_ends_name_the_bytes_after_each_token(tokenizer: Tokenizer, text: str) -> None:
    """They grow, and the last one is the end of the text."""
    ((ids, found),) = tokenizer.encode_with_ends([text])
    ends = found.tolist()

    assert np.array_equal(ids, tokenizer.encode([text])[0])
    assert ends == sorted(ends) and len(ends) == len(ids)
    assert (ends[-1] if ends else 0) == len(text.encode())


def test_the_files_load_in_transformers_with_the_same_ids(small_text: str, tmp_path: Path) -> None:
    """A user without cdgen gets BOS before the text and nothing after it."""
    from transformers import AutoTokenizer

    backend = train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=400))
    for name, content in tokenizer_files(backend, context=64).items():
        (tmp_path / name).write_bytes(content)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)

    ids = theirs("Once upon a time, été.").input_ids
    assert ids == [0, *ours.encode(["Once upon a time, été."])[0]]
    assert theirs.decode(ids, skip_special_tokens=True) == "Once upon a time, été."
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id) == (0, 1)


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokenizer.json; save a fast tokenizer there"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps({"model": {"type": "BPE"}})])
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")

    with pytest.raises(UsageError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)
