"""A build into a bucket: the corpus of the local build, byte for byte, through kills, faults and rivals."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_proxy import Plan, Proxy
from stores import s3_store

from cdgen import open_corpus
from cdgen.builders.checking import verify_anywhere
from cdgen.builders.destination import working_folder
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.builders.status import Watch
from cdgen.storage.conditional import Objects

Built = tuple[Path, Path, Report]


@contextmanager
def bucket(tmp_path: Path, plan: Plan | None = None) -> Iterator[tuple[str, Proxy]]:
    """The address of an empty folder in a bucket, and the proxy before its server."""
    (tmp_path / "nothing").mkdir()
    with s3_store(tmp_path / "nothing", plan) as (address, proxy):
        yield address, proxy


@pytest.fixture
def cache(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, with what the calm build trained."""
    folder = tmp_path / "cache"
    shutil.copytree(built[1].parent / "cache", folder)
    monkeypatch.setenv("CDGEN_CACHE", str(folder))
    return folder


def shards_there(address: str) -> dict[str, str]:
    """SHA-256 of every shard and index in the bucket."""
    objects = Objects(address)
    names = [*objects.listed("data"), *objects.listed("index")]
    found = objects.read_many(names)
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def shards_here(folder: Path) -> dict[str, str]:
    """The same of a local corpus."""
    files = [*folder.glob("data/*/*"), *folder.glob("index/*")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_a_build_into_a_bucket_is_the_local_corpus_and_needs_no_working_folder(
    built: Built, tmp_path: Path, cache: Path
) -> None:
    recipe, out, calm = built
    with bucket(tmp_path) as (address, _):
        report = build(recipe, address)
        assert report.manifest_digest == calm.manifest_digest and report.folder == address
        assert shards_there(address) == shards_here(out)
        there, here = open_corpus(address), open_corpus(out)
        assert list(there.samples()) == list(here.samples())
        where, checked = verify_anywhere(address)
        assert where == address and not checked.problems
        state = Watch(address).look()
        assert (state.state, state.folder) == ("complete", address)
        assert state.shards_done == state.shards_total > 0

        assert build(recipe, address).up_to_date
        shutil.rmtree(working_folder(address))
        again = build(recipe, address)
        assert again.up_to_date and again.folder == address

        Objects(address).delete(["manifest.json"])
        shutil.rmtree(working_folder(address))
        report = build(recipe, address)
        assert not report.up_to_date and report.manifest_digest == calm.manifest_digest
        events = (working_folder(address) / "work/events.jsonl").read_text(encoding="utf-8")
        assert '"stage": "fetch"' in events and '"stage": "decode"' not in events
        assert shards_there(address) == shards_here(out)
