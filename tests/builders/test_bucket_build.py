"""A build into a bucket: the corpus of the local build, byte for byte, through kills, faults and rivals."""

import hashlib
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Event

import pytest
from faulty_proxy import Plan, Proxy, writes
from stores import BUCKETS, Store, build_with, s3_store
from typer.testing import CliRunner, Result

from cdgen import open_corpus
from cdgen.builders.checking import verify_anywhere
from cdgen.builders.destination import working_folder
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.builders.status import Watch
from cdgen.cli import app
from cdgen.errors import BuildError, UsageError
from cdgen.recipes.load import load_recipe
from cdgen.storage.buckets import BucketPlace
from cdgen.storage.conditional import Objects
from cdgen.storage.lease import LEASE, LeaseLostError
from cdgen.storage.remote import Retries

Built = tuple[Path, Path, Report]

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


def test_text_is_sent_while_it_decodes(built: Built, tmp_path: Path, cache: Path) -> None:
    """The store answers to no drawn shard before a real one has come."""
    real, late = Event(), list[str]()

    def in_order(path: str, before: int) -> None:
        if not writes(path):
            return
        if "data/real" in path:
            real.set()
        elif "data/synthetic" in path and not real.wait(60):
            late.append(path)

    with bucket(tmp_path, in_order) as (address, _):
        report = build(built[0], address)

    assert not late and real.is_set()
    assert report.manifest_digest == built[2].manifest_digest


def no_fault(path: str, before: int) -> None:
    """Every request is answered."""


class Killer:
    """A plan that kills a driver when the nth request that holds a word comes, before it is answered."""

    def __init__(self) -> None:
        self.pid, self.word, self.left = 0, "", 0

    def aim(self, pid: int, word: str, nth: int) -> None:
        self.word, self.left, self.pid = word, nth, pid

    def __call__(self, path: str, before: int) -> str | None:
        if self.pid == 0 or self.word not in path:
            return None
        self.left -= 1
        if self.left == 0:
            os.kill(self.pid, signal.SIGKILL)
            return "reset"
        return None


def test_a_driver_killed_in_the_middle_of_uploads_goes_on_and_ends_in_the_same_bytes(
    built: Built, tmp_path: Path, cache: Path
) -> None:
    """In a shard, between a shard and its receipt, while the finished corpus is sent; each time on a new machine."""
    recipe, out, calm = built
    killer, server = Killer(), get_context("forkserver")
    server.set_forkserver_preload(["cdgen.builders.run", "cdgen.builders.engines", "s3fs"])
    with bucket(tmp_path, killer) as (address, _):
        for word, nth in (("data/synthetic", 3), ("work/receipts", 2), ("data/mixed", 4)):
            driver = server.Process(target=build_with, args=(dict(os.environ), recipe, address))
            driver.start()
            assert driver.pid is not None
            killer.aim(driver.pid, word, nth)
            driver.join()
            assert driver.exitcode == -signal.SIGKILL
            shutil.rmtree(working_folder(address))
            assert Watch(address).look().state == "interrupted"
        killer.pid = 0

        report = build(recipe, address)

        assert report.manifest_digest == calm.manifest_digest
        assert shards_there(address) == shards_here(out)
        assert not verify_anywhere(address)[1].problems


def test_a_store_that_refuses_and_loses_a_fifth_of_everything_gets_the_same_bytes(
    built: Built, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retries, "_wait_s", lambda *_: 0.0)
    recipe, out, calm = built
    draws, in_a_row = random.Random(7), Counter[str]()

    def plan(path: str, before: int) -> str | None:
        """Never so often in a row that a build may give up: in which order its threads ask is chance."""
        in_a_row[path] = in_a_row[path] + 1 if draws.random() < 0.2 and in_a_row[path] < 4 else 0
        return draws.choice(["503", "reset", "lost"]) if in_a_row[path] else None

    with bucket(tmp_path, plan) as (address, proxy):
        report = build(recipe, address)
        assert sum(proxy.injected.values()) > 20
        assert report.manifest_digest == calm.manifest_digest
        proxy.plan = no_fault
        assert shards_there(address) == shards_here(out)
        assert not Objects(address).listed("work/aside")


def test_another_ratio_decodes_nothing_again_and_what_is_left_over_moves_aside(
    built: Built, tmp_path: Path, cache: Path
) -> None:
    with bucket(tmp_path) as (address, _):
        first = build(built[0], address)
        changed = load_recipe(built[0], set=["mix.synthetic=0.2"])
        second = build(changed, address)
        assert second.manifest_digest != first.manifest_digest
        events = (working_folder(address) / "work/events.jsonl").read_text(encoding="utf-8")
        assert '"stage": "decode"' not in events[events.rfind('"event": "build"') :]
        old = Objects(address).listed("work/old")
        assert {name.split("/")[-1].split("-")[0] for name in old} == {"mixed"}
        assert not verify_anywhere(address)[1].problems
        assert build(changed, address).up_to_date


def test_who_comes_second_is_refused_and_the_first_goes_on(
    built: Built, tmp_path: Path, cache: Path
) -> None:
    with bucket(tmp_path) as (address, _):
        with BucketPlace(address).hold("build elsewhere"):
            with pytest.raises(BuildError, match=r"is held by process .* \(build elsewhere\)"):
                build(built[0], address)
            assert Objects(address).listed("data") == {}
        build(built[0], address)


def test_a_build_that_lost_its_lease_stops_by_name_and_writes_no_manifest(
    built: Built, tmp_path: Path, cache: Path
) -> None:
    """Somebody else holds the folder by now, and this build hears of it at a renewal, or before its manifest."""

    def steal(path: str, before: int) -> str | None:
        if writes(path) and "data/synthetic" in path and "stolen" not in proxy.injected:
            objects = Objects(address)
            stored = objects.stat(LEASE)
            assert stored is not None
            lease = json.loads(stored.note) | {"token": "thief", "pid": 1, "purpose": "theft"}
            objects.replace(LEASE, b"theirs", stored.version, note=json.dumps(lease))
            proxy.injected["stolen"] += 1
        return None

    with bucket(tmp_path) as (address, proxy):
        proxy.plan = steal
        with pytest.raises(
            LeaseLostError, match=r"lost its lease: another build has taken it.*theft"
        ):
            build(built[0], address)
        assert Objects(address).read("manifest.json") is None


def test_a_bucket_that_may_only_be_read_is_one_line_before_any_work(
    built: Built, tmp_path: Path, cache: Path
) -> None:
    with bucket(tmp_path, lambda path, _: "403" if writes(path) else None) as (
        address,
        _,
    ):
        with pytest.raises(BuildError, match=r"access is refused; check your credentials"):
            build(built[0], address)
        assert not (working_folder(address) / "data").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (
            "hf://datasets/org/name",
            r"hf://datasets/org/name: a build cannot write there: .*cdgen publish DIR hf://",
        ),
        (
            "https://user:s3cr3t@host/x",
            r"https://host/x: a build cannot write there: a folder, s3://",
        ),
        ("s3://bucket", r"s3://bucket: names no folder in a bucket"),
        ("s3://", r"s3:: names no folder in a bucket: s3://bucket/folder is expected"),
        ("ftp://host/x", r"ftp:// is not known"),
        (Path("s3://bucket/x"), r"give an address as text"),
    ],
)
def test_where_nothing_can_be_built_is_one_line(built: Built, out: str | Path, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        build(built[0], out)
    assert "\n" not in str(caught.value) and "s3cr3t" not in str(caught.value)


def test_a_bucket_folder_with_other_files_is_refused(built: Built, tmp_path: Path) -> None:
    with bucket(tmp_path) as (address, _):
        Objects(address).put("notes.txt", b"mine")
        with pytest.raises(
            UsageError, match=r"holds files that are not a cdgen corpus, first notes.txt"
        ):
            build(built[0], address)


def test_the_command_line_names_the_address_and_no_secret(
    built: Built, tmp_path: Path, cache: Path
) -> None:
    def cdgen(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    with bucket(tmp_path) as (address, _):
        nothing = cdgen("status", address)
        assert isinstance(nothing.exception, UsageError)
        assert f"{address}: no build was begun here" in str(nothing.exception)
        planned = cdgen("plan", str(built[0]), "--out", address, "--no-time", "--json")
        assert json.loads(planned.stdout)["folder"] == address
        made = cdgen("build", str(built[0]), "--out", address)
        assert made.exit_code == 0 and address in made.output
        state = cdgen("status", address, "--json")
        told = json.loads(state.stdout)
        assert (told["state"], told["folder"]) == ("complete", address)
        for run in (nothing, planned, made, state):
            assert "s3cr3t" not in run.output + str(run.exception)
