"""The golden corpora in shards/golden/: what some version wrote once, every later version reads.

tests/make_golden.py made them. They are read here and never built again: see shards/FORMAT.md, "Changing the format".
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from make_golden import expectations

from cdgen import open_corpus
from cdgen.recipes.load import load_recipe
from cdgen.shards import npy
from cdgen.shards.index import read_index
from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.manifest import MANIFEST_FORMAT, manifest_digest, read_manifest
from cdgen.shards.reader import MappedShard, samples
from cdgen.shards.verify import verify

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden"
CORPORA = sorted(path for path in GOLDEN.glob("format-*") if path.is_dir())
LARGEST_BYTES = 300_000

each_corpus = pytest.mark.parametrize("corpus", CORPORA, ids=lambda path: path.name)


def expected(corpus: Path) -> dict[str, Any]:
    """What `make_golden` found in the corpus when it was made."""
    kept = corpus.with_name(f"{corpus.name}.expected.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(kept)
    return found


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def test_there_is_one_for_the_current_format() -> None:
    """`python tests/make_golden.py` makes it when a format is new; earlier ones stay."""
    formats = [int(path.name.removeprefix("format-")) for path in CORPORA]

    assert formats == list(range(1, MANIFEST_FORMAT + 1))


@each_corpus
def test_every_future_version_reads_every_sample(corpus: Path) -> None:
    """Text, provenance and ids of each sample are byte for byte what was written."""
    for name, rows in expected(corpus)["shards"].items():
        found = [
            [
                sample.key,
                sha256(sample.text.encode()),
                sha256(sample.meta.to_json()),
                sha256(npy.dump(sample.ids)),
            ]
            for sample in samples(shard_path(corpus, name))
        ]
        assert found == rows, name


@each_corpus
def test_every_future_version_reads_manifest_and_indexes(corpus: Path) -> None:
    """The digest is recomputed, and ids found through an index are those in the tar."""
    manifest, kept = read_manifest(corpus), expected(corpus)

    assert manifest.digest == kept["digest"] == manifest_digest(manifest.shards)
    assert sorted(shard.name for shard in manifest.shards) == sorted(kept["shards"])
    for shard in manifest.shards:
        path, index = shard_path(corpus, shard.name), index_path(corpus, shard.name)
        keys = read_index(index, ("key",))["key"].to_pylist()
        assert keys == [row[0] for row in kept["shards"][shard.name]]
        with MappedShard(path, index) as mapped:
            for row, sample in enumerate(samples(path)):
                assert mapped.ids(row).tolist() == sample.ids.tolist()


@each_corpus
def test_every_future_version_verifies_it(corpus: Path) -> None:
    """Hashes, counts, provenance, splits, the share."""
    assert list(verify(corpus).problems) == []


@each_corpus
def test_every_future_version_opens_it(corpus: Path) -> None:
    """By the public door, with the recipe that the corpus keeps."""
    opened = open_corpus(corpus)

    kinds = {(shard.kind, shard.split) for shard in opened.manifest.shards}
    assert kinds == {
        ("real", "train"),
        ("real", "eval"),
        ("synthetic", "train"),
        ("mixed", "train"),
    }
    assert sum(1 for _ in opened.samples("mixed")) > 0
    assert load_recipe(corpus / "recipe.yaml").recipe.name == opened.manifest.name


@each_corpus
def test_the_expectations_are_tarfile_s(corpus: Path) -> None:
    """They were not found with the code they test."""
    assert expectations(corpus) == expected(corpus)


def test_the_golden_corpora_stay_small() -> None:
    """With recipe, text, notice and expectations."""
    for corpus in CORPORA:
        others = [path for path in GOLDEN.rglob("*") if corpus.parent in path.parents]
        mine = [
            path
            for path in others
            if path.is_file() and "format-" not in str(path.relative_to(GOLDEN))
        ]
        mine += [path for path in corpus.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in mine) < LARGEST_BYTES
    assert (GOLDEN / "NOTICE.md").is_file()
