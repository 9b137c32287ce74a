"""A stream from a store is the stream from the disk: the same blocks and states, with any cache and through faults."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faulty_proxy import Plan
from shards.corpus_maker import DIGESTS, real_sample, synthetic_sample, write_shard
from stores import STORES

import cdgen
from cdgen.corpus import Corpus, open_corpus
from cdgen.shards.cached_files import CachedFiles
from cdgen.shards.manifest import Manifest, ManifestShard, Mix, write_manifest
from cdgen.storage.cache import Cache
from cdgen.storage.remote import Retries
from cdgen.streaming.loader import StreamDataset

SOON = Retries(tries=4, first_wait_s=0.01, longest_wait_s=0.02)
BLOCK = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty real and twenty synthetic shards: more than one window of either."""
    out = tmp_path_factory.mktemp("stream") / "tiny"
    real = [
        write_shard(out, "real", "train", n, *map(real_sample, range(n * 6, n * 6 + 6)))
        for n in range(20)
    ]
    made = [
        write_shard(out, "synthetic", "train", n, *(synthetic_sample(900 + n, c) for c in range(5)))
        for n in range(20)
    ]
    tokens = [sum(info.num_tokens for info in infos) for infos in (real, made)]
    mix = Mix(
        nominal=0.3, realised=0.3, unit="tokens", num_real_tokens=tokens[0], num_synthetic_tokens=tokens[1]
    )  # fmt: skip
    shards = tuple(map(ManifestShard.of, [*real, *made]))
    write_manifest(out, Manifest(name="tiny", digests=DIGESTS, engine="1", shards=shards, mix=mix))
    return out


def faults(path: str, before: int) -> str | None:
    """One file in three fails once, each in its own way."""
    number = hashlib.sha256(path.encode()).digest()[0]
    if before or number % 3 or path.endswith(("manifest.json", "lock.json")) or "/api/" in path:
        return None
    return ("503", "cut", "reset", "flip", "429")[number // 3 % 5]


def read(corpus: Corpus, start: int = 0) -> list[np.ndarray]:
    """Every block from `start` on, in the order of the stream."""
    stream = cdgen.stream(
        corpus, block=BLOCK, seed=3, synthetic=0.3, repeat="allow", rank=0, world_size=1
    )
    assert isinstance(stream, StreamDataset)
    stream.load_state_dict(stream.blocks.state_at(start))
    return [np.asarray(item["input_ids"]) for item in stream]


def same(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return len(one) == len(two) and all(map(np.array_equal, one, two))


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("plan", [None, faults])
def test_blocks_and_resume_are_those_of_the_disk(
    folder: Path, tmp_path: Path, name: str, plan: Plan | None
) -> None:
    """Cold, then warm, then resumed in the middle with an empty cache: one sequence."""
    disk = read(open_corpus(folder))
    assert len(disk) > 40
    with STORES[name](folder, plan) as (address, proxy):
        cache = Cache(tmp_path / "one/shards")
        corpus = open_corpus(address, cache=cache, retries=SOON)
        assert same(read(corpus), disk)
        assert plan is None or len(proxy.injected) >= 4
        assert isinstance(corpus.files, CachedFiles)
        corpus.files._state.forget_ahead()  # waits for what is under way
        held = {path.name[65:] for path in cache.folder.iterdir()}
        asked = {path: n for path, n in proxy.asked.items() if Path(path).name in held}
        assert same(read(open_corpus(address, cache=cache, retries=SOON)), disk)
        assert {path: proxy.asked[path] for path in asked} == asked  # not asked for again
        cold = Cache(tmp_path / "two/shards")
        middle = len(disk) // 2
        assert same(read(open_corpus(address, cache=cold, retries=SOON), middle), disk[middle:])


def test_a_fifth_of_the_corpus_is_enough_cache(folder: Path, tmp_path: Path) -> None:
    """Everything is streamed through a cache that holds 20 % of it, which never grows beyond."""
    corpus = open_corpus(folder)
    total = sum(e.num_bytes + e.index.num_bytes for e in corpus.manifest.shards)
    with STORES["web"](folder, None) as (address, _):
        cache = Cache(tmp_path / "shards", limit_bytes=total // 5)
        remote = open_corpus(address, cache=cache, retries=SOON)
        stream = cdgen.stream(
            remote, block=BLOCK, seed=3, synthetic=0.3, repeat="allow", rank=0, world_size=1
        )
        disk = read(corpus)
        for number, item in enumerate(stream):
            assert np.array_equal(np.asarray(item["input_ids"]), disk[number])
            held = sum(p.stat().st_size for p in cache.folder.iterdir() if p.exists())
            assert held <= total // 5
        assert number == len(disk) - 1


READER = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
import cdgen
from cdgen.corpus import open_corpus
from cdgen.storage.cache import Cache
corpus = open_corpus(sys.argv[1], cache=Cache(Path(sys.argv[2]), limit_bytes=int(sys.argv[4]) or None))
stream = cdgen.stream(corpus, block=16, seed=3, synthetic=0.3, repeat="allow", rank=int(sys.argv[3]), world_size=2)
print(json.dumps([np.asarray(item["input_ids"]).tolist() for item in stream]))
"""


@pytest.mark.parametrize(("name", "part"), [("web", 0), ("web", 4), ("s3", 4)])
def test_two_ranks_share_one_cache(folder: Path, tmp_path: Path, name: str, part: int) -> None:
    """Two processes at once: together the stream of the disk.

    Each file is downloaded once, or again where the cache holds a quarter of the corpus and files give way.
    """
    local = open_corpus(folder)
    disk = read(local)
    total = sum(entry.num_bytes + entry.index.num_bytes for entry in local.manifest.shards)
    limit = total // part if part else 0
    with STORES[name](folder, None) as (address, proxy):
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", READER, address, tmp_path / "shards", str(rank), str(limit)],
                stdout=subprocess.PIPE, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        found = [json.loads(process.communicate(timeout=250)[0]) for process in ranks]
        files = [n for path, n in proxy.asked.items() if path.endswith((".tar", ".parquet"))]
    held = sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())
    assert files and (max(files) > 1 and held <= limit if limit else set(files) == {1})
    merged = [block for pair in zip(*found, strict=True) for block in pair]
    assert merged == [block.tolist() for block in disk[: len(merged)]]
    assert len(merged) >= len(disk) - 1
