"""What a stream is told of by: the digest of its sources."""

from pathlib import Path

import pytest
from stream_corpora import make_corpus

import cdgen
from cdgen.corpus import open_corpus
from cdgen.shards import manifest
from cdgen.streaming.sources import ShardSource, open_sources

SIZES = {"real": [[5, 6], [7]], "synthetic": [[9, 4, 4], [8]]}


@pytest.mark.parametrize("mixed", ["", "too", "only"])
def test_a_sources_digest_is_that_of_its_shards(tmp_path: Path, mixed: str) -> None:
    """Whether it was found when the corpus was opened, or is computed; saved states have it."""
    corpus = open_corpus(make_corpus(tmp_path, SIZES, 0.3, mixed=mixed))
    sources = open_sources(corpus, "train")
    assert [source.name for source in sources] == ["real", "synthetic"]
    for source in sources:
        alone = ShardSource(source.name, source.entries, source.files, source.masks)
        assert source.digest == alone.digest


def test_to_open_a_stream_hashes_every_entry_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def escaped(sha256: str) -> str:
        hashed.append(sha256)
        return f'"{sha256}"'

    folder = make_corpus(tmp_path, SIZES, 0.3, mixed="too")
    monkeypatch.setattr(manifest, "encode_basestring", escaped)
    cdgen.stream(folder, block=4)
    entries = open_corpus(folder).manifest.shards
    assert sorted(hashed) == sorted([entry.sha256 for entry in entries] * 2)  # this one, and ours
