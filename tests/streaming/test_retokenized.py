"""Another tokenizer: the same documents in new ids, encoded once."""

from pathlib import Path

import numpy as np
import pytest

import cdgen
from cdgen.errors import BuildError, UsageError
from cdgen.recipes.schema import TokenizerTraining
from cdgen.streaming import retokenized
from cdgen.text.tokenizer import Tokenizer, tokenizer_files, train_tokenizer

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A tokenizer that is not the corpus's."""
    texts = [sample.text for sample in cdgen.open_corpus(GOLDEN).samples("real")]
    backend = train_tokenizer(texts[:3], TokenizerTraining(vocab_size=300))
    folder = tmp_path / "other"
    folder.mkdir()
    for name, content in tokenizer_files(backend, context=64).items():
        (folder / name).write_bytes(content)
    return folder


def test_documents_come_in_the_same_order_in_new_ids(other: Path) -> None:
    """Where every shard of a source is in one window, lengths do not matter to the order inside a source."""
    tokenizer, old = Tokenizer.load(other), Tokenizer.load(GOLDEN / "tokenizer")
    plain = list(cdgen.stream(GOLDEN, block=None, weights={"real": 1}))
    again = list(cdgen.stream(GOLDEN, block=None, weights={"real": 1}, tokenizer=other))

    assert [item["key"] for item in again] == [item["key"] for item in plain]
    for one, before in zip(again, plain, strict=True):
        (ids,) = tokenizer.encode([one["text"]])
        ended = int(before["input_ids"][-1]) == old.eos_id
        want = [tokenizer.bos_id, *ids.tolist(), *([tokenizer.eos_id] if ended else [])]
        assert one["input_ids"].tolist() == want


def test_blocks_are_the_documents_one_after_the_other(other: Path) -> None:
    documents = cdgen.stream(GOLDEN, block=None, synthetic=0.2, tokenizer=other)
    line = np.concatenate([item["input_ids"].numpy() for item in documents])
    blocks = cdgen.blocks(GOLDEN, block=32, synthetic=0.2, tokenizer=other, verify=True)

    got = np.concatenate([blocks[j]["input_ids"].numpy() for j in range(len(blocks))])
    assert (got == line[: len(got)]).all() and 0 <= len(line) - len(got) < 32
    for bound in blocks.bounds():
        assert bound.low <= 0 <= bound.high


def test_texts_are_encoded_once(other: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a state of the corpus's own ids is not one of these."""
    first = cdgen.blocks(GOLDEN, block=32, tokenizer=other)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    monkeypatch.setattr(retokenized.Encoder, "_write", None)
    again = cdgen.blocks(GOLDEN, block=32, tokenizer=other)

    assert before == {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    assert (again[3]["input_ids"] == first[3]["input_ids"]).all()
    with pytest.raises(UsageError, match="sources"):
        cdgen.blocks(GOLDEN, block=32).block_at(first.state_at(3))


def test_half_made_ids_are_made_again_and_damaged_ones_are_named(other: Path, cache: Path) -> None:
    whole = cdgen.blocks(GOLDEN, block=32, tokenizer=other)[2]["input_ids"]
    counts = sorted(cache.rglob("num_tokens.npy"))
    counts[0].unlink()
    assert (cdgen.blocks(GOLDEN, block=32, tokenizer=other)[2]["input_ids"] == whole).all()

    for path in cache.rglob("ids.npy"):
        data = bytearray(path.read_bytes())
        data[-4] ^= 1
        path.write_bytes(data)
    damaged = cdgen.blocks(GOLDEN, block=32, tokenizer=other, verify=True)
    with pytest.raises(BuildError, match="are damaged"):
        damaged.batch(range(len(damaged)))
    counts[0].write_bytes(b"nothing")
    with pytest.raises(BuildError, match="is damaged; remove its folder"):
        cdgen.blocks(GOLDEN, block=32, tokenizer=other)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        cdgen.blocks(GOLDEN, tokenizer=tmp_path)
