"""A corpus in a store is the corpus on the disk: the same samples, whatever the network does, or one line."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from faulty_proxy import Plan
from shards.corpus_maker import make_corpus
from stores import STORES

from cdgen import open_corpus
from cdgen.corpus import open_folder
from cdgen.errors import BuildError, UsageError
from cdgen.shards.cached_files import CachedFiles
from cdgen.storage.cache import Cache
from cdgen.storage.remote import Retries

SOON = Retries(tries=4, first_wait_s=0.01, longest_wait_s=0.02)
KINDS = [("mixed", "train"), ("real", "train"), ("real", "eval"), ("synthetic", "train")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = make_corpus(tmp_path_factory.mktemp("corpus") / "tiny")
    (corpus / "tokenizer").mkdir()
    (corpus / "tokenizer/tokenizer.json").write_text("{}")
    lock = {"tokenizer": {"sha256": hashlib.sha256(b"{}").hexdigest()}}
    (corpus / "recipe.lock.json").write_text(json.dumps(lock))
    return corpus


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, object]]:
    with STORES[request.param](folder, None) as found:
        yield found


def keys(corpus: object) -> list[tuple[str, str, bytes]]:
    return [
        (sample.key, sample.text, sample.ids.tobytes())
        for kind, split in KINDS
        for sample in corpus.samples(kind, split)  # type: ignore[attr-defined]
    ]


def faults(path: str, before: int) -> str | None:
    """Every file fails twice, each in its own way, and then comes."""
    kinds: tuple[str, ...] = ("503", "cut", "reset", "flip", "slow", "429")
    if (
        path.endswith(("manifest.json", "lock.json", "config.json")) or "/api/" in path
    ):  # without a hash
        kinds = ("503", "cut", "reset")
    number = hashlib.sha256(path.encode()).digest()[0] + before
    return kinds[number % len(kinds)] if before < 2 else None


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("plan", [None, faults])
def test_a_store_gives_what_the_disk_gives(
    folder: Path, tmp_path: Path, name: str, plan: Plan | None
) -> None:
    """Cold, warm, and by a second process's worth of state; faults change nothing."""
    with STORES[name](folder, plan) as (address, proxy):
        cache = Cache(tmp_path / "shards")
        corpus = open_corpus(address, cache=cache, retries=SOON)
        assert keys(corpus) == keys(open_corpus(folder))
        assert corpus.manifest == open_corpus(folder).manifest
        assert (corpus.folder / "tokenizer/tokenizer.json").read_text() == "{}"
        asked = sum(proxy.asked.values())
        again = open_corpus(address, cache=cache, retries=SOON)
        assert keys(again) == keys(corpus)
        opened = sum(proxy.asked.values()) - asked
        assert (
            opened <= 10
        )  # the manifest, the commit, what small files it does not have, and tries after faults
        if plan is not None:
            assert len(proxy.injected) >= 4


def test_its_manifest_is_pinned_to_one_commit(folder: Path, tmp_path: Path) -> None:
    from hub_double import REVISION

    with STORES["hub"](folder, None) as (address, proxy):
        corpus = open_corpus(f"{address}@main", cache=Cache(tmp_path / "shards"))
        list(corpus.samples())
        assert corpus.where == f"hf://datasets/org/tiny@{REVISION[:8]}"
        files = [path for path in proxy.asked if "resolve" in path]
        assert files and all(f"/resolve/{REVISION}/" in path for path in files)
        assert {h.get("Authorization") for h in proxy.headers} == {"Bearer hf_dummy"}


def test_no_corpus_there(store: tuple[str, object], tmp_path: Path) -> None:
    address, _ = store
    with pytest.raises(UsageError, match=r"no manifest\.json, so no finished corpus; check"):
        open_corpus(f"{address}/nowhere", cache=Cache(tmp_path / "shards"), retries=SOON)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("hf://datasets/org/other", r"hf://datasets/org/other@main: no such dataset or revision; check"),
        ("hf://datasets/org/tiny@v9", "tiny@v9: no such dataset or revision"),
    ],
)  # fmt: skip
def test_no_such_dataset(folder: Path, tmp_path: Path, address: str, says: str) -> None:
    with STORES["hub"](folder, None), pytest.raises(BuildError, match=says):
        open_corpus(address, cache=Cache(tmp_path / "shards"), retries=SOON)


def test_offline_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        open_corpus("hf://datasets/org/tiny")


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            "flip",
            r"real-train-[0-9a-f]{8}-00000\.tar: (fetched twice, its SHA-256 is not|.*own check sum)",
        ),
        ("503", r"real-train-[0-9a-f]{8}-00000\.tar: .*4 times; try again later"),
        ("403", r"real-train-[0-9a-f]{8}-00000\.tar: access is refused"),
        ("404", r"real-train-[0-9a-f]{8}-00000\.tar: there is no such file"),
    ],
)
def test_what_cannot_be_had_names_shard_and_address(
    folder: Path, tmp_path: Path, name: str, fault: str, says: str
) -> None:
    def plan(path: str, before: int) -> str | None:
        return fault if "real-train" in path and path.endswith("00000.tar") else None

    with STORES[name](folder, plan) as (address, proxy):
        cache = Cache(tmp_path / "shards")
        corpus = open_corpus(address, cache=cache, retries=SOON)
        with pytest.raises(BuildError, match=says) as caught:
            list(corpus.samples("real"))
        assert corpus.where in str(caught.value) and "\n" not in str(caught.value)
        for secret in ("s3cr3t", "hf_dummy"):
            assert secret not in str(caught.value)
        assert not [
            path
            for path in cache.folder.iterdir()
            if "real-train" in path.name and "00000.tar" in path.name
        ]
        again = {"flip": 2, "503": 4}.get(fault, 1)
        asked = [
            n
            for path, n in proxy.asked.items()
            if "real-train" in path and path.endswith("00000.tar")
        ]
        assert name == "s3" or asked == [again]  # its library asks again by itself


def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    text = (copy / "manifest.json").read_text()
    sha256 = open_folder(folder).manifest.shards[0].sha256
    (copy / "manifest.json").write_text(text.replace(sha256, "0" * 64))
    with (
        STORES["web"](copy, None) as (address, _),
        pytest.raises(
            BuildError, match=r"manifest\.json: damaged: its digest is not that of its shards"
        ),
    ):
        open_corpus(address, cache=Cache(tmp_path / "shards"))


def test_a_folder_has_several_names(folder: Path) -> None:
    assert open_corpus(f"file://{folder}").folder == open_corpus(folder).folder == folder
    with pytest.raises(UsageError, match="on this machine"):
        open_corpus("file://elsewhere/x")
    with pytest.raises(UsageError, match=r"https://h/x: a local folder is needed"):
        open_folder("https://h/x?sig=1")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        UsageError, match=r"gs://b/x: gs:// needs gcsfs: pip install 'cdgen\[gcs\]'"
    ):
        open_corpus("gs://b/x")


def settle(files: CachedFiles) -> None:
    """Wait until nothing is brought any more."""
    state = files._state
    with state.lock:
        assert state.lock.wait_for(lambda: state.num_threads == 0, 30)


def test_files_are_brought_ahead_and_released(folder: Path, tmp_path: Path) -> None:
    """What was brought is not asked for again; a pickled copy begins anew; released files may go."""
    with STORES["web"](folder, None) as (address, proxy):
        cache = Cache(tmp_path / "shards")
        files = open_corpus(address, cache=cache).files
        assert isinstance(files, CachedFiles)
        entries = open_folder(folder).shards("real")
        files.ahead(entries)
        assert [files.shard(entry).read_bytes() for entry in entries] == [
            (folder / "data/real" / entry.name).read_bytes() for entry in entries
        ]
        for entry in entries:
            files.index(entry)
        settle(files)  # a file that was asked for while it was brought has two pins for a moment
        assert all(proxy.asked[f"/data/real/{entry.name}"] == 1 for entry in entries)

        held = sorted(path for path in cache.folder.iterdir() if path.name.endswith(".tar"))
        assert len(held) == 2
        assert not any(cache.delete(path) for path in held)
        copy = pickle.loads(pickle.dumps(files))
        assert copy.shard(entries[0]) == files.shard(entries[0])
        files.release(entries)
        assert [cache.delete(path) for path in held] == [
            entries[0].sha256 not in path.name for path in held
        ]
        copy.release(entries)
        assert all(cache.delete(path) for path in held if path.exists())


def test_what_is_released_on_its_way_is_not_kept_when_it_arrives(
    folder: Path, tmp_path: Path
) -> None:
    """Unless it is wanted again by then."""
    going, go_on = Event(), Event()

    def slow(path: str, before: int) -> None:
        if path.endswith(".tar"):
            going.set()
            assert go_on.wait(30)

    entry = open_folder(folder).shards("real")[0]
    with STORES["web"](folder, slow) as (address, _):
        cache = Cache(tmp_path / "shards")
        files = open_corpus(address, cache=cache).files
        assert isinstance(files, CachedFiles)
        for is_wanted_again in (False, True):
            going.clear()
            go_on.clear()
            files.ahead([entry])
            assert going.wait(30)
            files.release([entry])
            if is_wanted_again:
                files.ahead([entry])
            go_on.set()
            settle(files)
            shard = next(path for path in cache.folder.iterdir() if path.name.endswith(".tar"))
            assert cache.delete(shard) == (not is_wanted_again)


def test_reading_needs_room_for_one_shard_only(folder: Path, tmp_path: Path) -> None:
    largest = max(entry.num_bytes for entry in open_folder(folder).manifest.shards)
    with STORES["web"](folder, None) as (address, _):
        small = Cache(tmp_path / "shards", limit_bytes=largest)
        assert keys(open_corpus(address, cache=small, retries=SOON)) == keys(open_folder(folder))
        assert sum(path.stat().st_size for path in small.folder.iterdir()) <= largest
        smaller = Cache(tmp_path / "other", limit_bytes=largest - 1)
        with pytest.raises(BuildError, match=r"CDGEN_CACHE_LIMIT"):
            keys(open_corpus(address, cache=smaller, retries=SOON))
