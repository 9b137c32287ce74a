"""The end of a build into a bucket, while others write there: a manifest says what is there, or there is none."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faulty_proxy import Plan, Proxy, writes
from shard_maker import made
from stores import BUCKETS, Store, s3_store

from cdgen.builders.destination import held
from cdgen.builders.report import Report
from cdgen.builders.run import build, open_build
from cdgen.builders.sending import Sending, send_rest
from cdgen.builders.stages import Build
from cdgen.errors import BuildError
from cdgen.progress import Quiet
from cdgen.recipes.load import load_recipe
from cdgen.shards.layout import MANIFEST
from cdgen.shards.manifest import read_manifest
from cdgen.storage import Receipt, read_receipts
from cdgen.storage.buckets import BucketPlace
from cdgen.storage.conditional import Objects
from cdgen.storage.lease import LEASE, LeaseLostError
from cdgen.storage.receipts import RECEIPTS
from cdgen.storage.remote import Retries

Built = tuple[Path, Path, Report]
NAME = "synthetic-train-0123abcd-00000.tar"

store: Store = s3_store


@pytest.fixture(autouse=True, params=BUCKETS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3 or gs: each test meets both, and gs is skipped where there is no server of its kind."""
    monkeypatch.setattr(f"{__name__}.store", BUCKETS[request.param])
    return str(request.param)


@contextmanager
def bucket(tmp_path: Path, plan: Plan | None = None) -> Iterator[tuple[str, Proxy]]:
    """The address of an empty folder in a bucket, and the proxy before its server."""
    (tmp_path / "nothing").mkdir()
    with store(tmp_path / "nothing", plan) as (address, proxy):
        yield address, proxy


@pytest.fixture
def cache(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, with what the calm build trained."""
    folder = tmp_path / "cache"
    shutil.copytree(built[1].parent / "cache", folder)
    monkeypatch.setenv("CDGEN_CACHE", str(folder))
    return folder


def no_fault(path: str, before: int) -> None:
    """Every request is answered."""


class AtFirst:
    """A plan: at the first write whose path holds a word something else happens, and then a fault."""

    def __init__(self, word: str, act: Any, fault: str | None = None) -> None:
        self.word, self.act, self.fault, self.met = word, act, fault, False

    def __call__(self, path: str, before: int) -> str | None:
        if self.met or self.word not in path or not writes(path):
            return None
        self.met = True
        self.act()
        return self.fault


@pytest.fixture
def corpus(built: Built, tmp_path: Path) -> Path:
    """A finished corpus, as a build's working folder."""
    return Path(shutil.copytree(built[1], tmp_path / "corpus"))


def send(built: Built, corpus: Path, address: str, *shards: Receipt) -> None:
    """What a build does with a finished working folder."""
    work = replace(open_build(load_recipe(built[0]), address), out=corpus)
    with held(work, "build") as work:
        with Sending(work) as sending:
            sending.begin(*shards)
        send_rest(work, read_manifest(corpus))


def test_a_manifest_is_written_over_what_was_seen_and_names_what_is_there(
    built: Built, corpus: Path, tmp_path: Path
) -> None:
    with bucket(tmp_path) as (address, proxy):
        objects = Objects(address)
        whole = (corpus / MANIFEST).read_bytes()

        # A shard is taken away while it is delivered.
        shards = read_receipts(corpus / RECEIPTS)
        lost = next(one for name, one in shards.items() if name.startswith("synthetic"))
        proxy.plan = AtFirst(f"{lost.name}.json", lambda: objects.delete([lost.paths[0]]))
        with pytest.raises(BuildError, match=rf"{lost.paths[0]}: is not there any more"):
            send(built, corpus, address, *shards.values())
        assert objects.read(MANIFEST) is None

        # The first answer is lost: what is there is our own.
        proxy.plan = AtFirst(MANIFEST, lambda: None, "lost")
        send(built, corpus, address, lost)
        assert objects.read(MANIFEST) == whole and proxy.injected["lost"] == 1

        # Somebody else is quicker.
        for before in (b"", b"earlier"):
            objects.put(MANIFEST, before) if before else objects.delete([MANIFEST])
            proxy.plan = AtFirst(MANIFEST, lambda: objects.put(MANIFEST, b"theirs"))
            with pytest.raises(BuildError, match=f"{MANIFEST}: somebody else has written it"):
                send(built, corpus, address)
            assert objects.read(MANIFEST) == b"theirs"

        # Somebody else takes the folder while this build waits for the store.
        proxy.plan = AtFirst(MANIFEST, lambda: steal(objects), "503")
        with pytest.raises(LeaseLostError, match="another build has taken it"):
            send(built, corpus, address)
        assert objects.read(MANIFEST) == b"theirs"
        objects.delete([LEASE])

        # What comes while the manifest is written is of whoever comes next; what came before is moved aside.
        old, new = (f"data/synthetic/synthetic-train-{c * 8}-00000.tar" for c in "ef")
        objects.put(old, b"old")
        proxy.plan = AtFirst(MANIFEST, lambda: objects.put(new, b"new"))
        send(built, corpus, address)
        assert objects.read(MANIFEST) == whole
        assert (objects.read(new), objects.read(f"work/old/{old}")) == (b"new", b"old")


def steal(objects: Objects) -> None:
    """Write another builder's lease over the one that is there."""
    stored = objects.stat(LEASE)
    assert stored is not None
    lease = json.loads(stored.note) | {"token": "thief", "pid": 1, "purpose": "theft"}
    assert objects.replace(LEASE, b"theirs", stored.version, note=json.dumps(lease))


def test_a_build_that_is_interrupted_waits_for_no_store(
    built: Built, tmp_path: Path, cache: Path
) -> None:
    """From then on the store is away: nothing is asked for a second time, but what was waited for at that moment."""
    away = threading.Event()

    def plan(path: str, before: int) -> str | None:
        if writes(path) and "data/synthetic" in path and not away.is_set():
            away.set()
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
        if away.is_set():
            asked.append(path)
        return "503" if away.is_set() else None

    asked: list[str] = []
    with bucket(tmp_path, plan) as (address, _):
        with pytest.raises(KeyboardInterrupt):
            build(built[0], address)
        assert len(asked) - len(set(asked)) <= 2, asked
        away.clear()


def working(place: BucketPlace, out: Path) -> Build:
    """As much of a build as is asked for by what sends."""
    return cast(Build, SimpleNamespace(place=place, out=out, in_place=False, progress=Quiet()))


def test_what_stops_a_shard_is_told_at_the_next_look_and_at_the_end(tmp_path: Path) -> None:
    with bucket(tmp_path, lambda path, _: "403" if writes(path) else None) as (address, _):
        receipt = made(tmp_path / "a", NAME, b"text")
        sending = Sending(working(BucketPlace(address), tmp_path / "a"))

        def looked() -> None:
            with sending:
                sending.begin(receipt)
                while True:
                    sending.look()

        def ended() -> None:
            with Sending(working(BucketPlace(address), tmp_path / "a")) as other:
                other.begin(receipt)

        for one in (looked, ended):
            with pytest.raises(BuildError, match="access is refused"):
                one()


def test_who_sends_and_is_interrupted_tries_nothing_again(tmp_path: Path) -> None:
    tried = threading.Event()

    def plan(path: str, before: int) -> str | None:
        if not writes(path):
            return None
        tried.set()
        return "503"

    def interrupted(place: BucketPlace) -> None:
        with Sending(working(place, tmp_path / "a")) as sending:
            sending.begin(made(tmp_path / "a", NAME, b"text"))
            tried.wait()
            raise KeyboardInterrupt

    with bucket(tmp_path, plan) as (address, proxy):
        with pytest.raises(KeyboardInterrupt):
            interrupted(BucketPlace(address, Retries(tries=3, first_wait_s=20.0)))
        assert proxy.injected["503"] == 1
