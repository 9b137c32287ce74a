"""What is kept of an index changes the time of a first batch, and nothing else."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stream_corpora import make_corpus

import cdgen
from cdgen.builders.kept import list_cache
from cdgen.errors import BuildError
from cdgen.shards.index import read_index

SIZES = {"real": [[30, 41, 9], [25, 60]], "synthetic": [[70, 33], [50]]}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus, and a cache of its own."""
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    return make_corpus(tmp_path / "corpus", SIZES, 0.3)


@pytest.fixture
def num_parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many indexes were decoded."""
    seen: list[Path] = []

    def counted(path: Path, columns: Sequence[str]) -> pa.Table:
        seen.append(path)
        return read_index(path, columns)

    monkeypatch.setattr("cdgen.streaming.sources.read_index", counted)
    return lambda: len(seen)


def ids(corpus: Path) -> np.ndarray:
    """All blocks."""
    made = cdgen.blocks(corpus, block=16, repeat="allow")
    found: np.ndarray = made.batch(range(len(made)))["input_ids"].numpy()
    return found


def places(corpus: Path) -> list[Path]:
    """What is kept."""
    return sorted((corpus.parent / "cache/places").iterdir())


def test_a_second_run_decodes_no_index(corpus: Path, num_parsed: Callable[[], int]) -> None:
    first = ids(corpus)
    assert num_parsed() == 4 and len(places(corpus)) == 4

    assert np.array_equal(ids(corpus), first)
    assert num_parsed() == 4


def test_it_is_listed_and_cleared(corpus: Path) -> None:
    first = ids(corpus)

    assert [entry.kind for entry in list_cache().entries] == ["places"] * 4
    list_cache(clear=True)
    assert places(corpus) == []
    assert np.array_equal(ids(corpus), first)


def test_an_index_that_was_touched_is_read_anew(corpus: Path) -> None:
    """Even where its size and its times are as they were."""
    ids(corpus)
    index = next((corpus / "index").glob("real*00001.parquet"))
    before = index.stat()
    data = bytearray(index.read_bytes())
    data[-20] ^= 255
    index.write_bytes(data)
    os.utime(index, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(BuildError, match=r"cannot read .*00001\.parquet"):
        ids(corpus)
    index.unlink()
    with pytest.raises(BuildError, match=r"00001\.parquet"):
        ids(corpus)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "width"])
def test_a_damaged_place_is_not_believed(corpus: Path, damage: str) -> None:
    first = ids(corpus)
    for place in places(corpus):
        data = bytearray(place.read_bytes())
        data[40 if damage == "width" else -9] ^= 4
        place.write_bytes(data[: {"cut": -8, "empty": 0}.get(damage, len(data))])

    assert np.array_equal(ids(corpus), first)


def test_shards_that_meet_in_one_place_take_turns(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ids(corpus)
    one = corpus.parent / "one/place"
    monkeypatch.setattr("cdgen.streaming.remembered._place", lambda *_: one)

    assert np.array_equal(ids(corpus), first) and np.array_equal(ids(corpus), first)
    assert list(one.parent.iterdir()) == [one]


def test_a_cache_that_cannot_be_written_is_done_without(corpus: Path) -> None:
    (corpus.parent / "cache").write_text("a file where the folder should be")
    first = ids(corpus)

    assert len(first) and np.array_equal(ids(corpus), first)
