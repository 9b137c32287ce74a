"""One builder per folder of a store: who is let in, who is refused, who finds out that it is over."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
from faulty_proxy import Plan, Proxy, writes
from stores import BUCKETS, Store, s3_store

import cdgen
from cdgen.errors import BuildError
from cdgen.storage import lease as leases
from cdgen.storage.conditional import Objects, check_conditions
from cdgen.storage.lease import LEASE, LeaseLostError, lease_holder, leased
from cdgen.storage.remote import Retries

QUICK = Retries(tries=5, sleep=lambda _: None)

store: Store = s3_store


@pytest.fixture(autouse=True, params=BUCKETS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3 or gs: each test meets both, and gs is skipped where there is no server of its kind."""
    monkeypatch.setattr(f"{__name__}.store", BUCKETS[request.param])
    return str(request.param)


@contextmanager
def folder(tmp_path: Path, plan: Plan | None = None) -> Iterator[tuple[Objects, Proxy]]:
    """An empty folder of a bucket, and the proxy before its server."""
    empty = tmp_path / "nothing"
    empty.mkdir()
    with store(empty, plan) as (address, proxy):
        yield Objects(address, QUICK), proxy


def test_a_second_builder_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with folder(tmp_path) as (objects, _):
        assert lease_holder(objects) is None
        with leased(objects, "build one") as held:
            held.check()
            who = lease_holder(objects)
            assert who is not None and (who.pid, who.purpose) == (os.getpid(), "build one")
            said = (
                rf"{objects.where} is held by process {os.getpid()} on \S+ since 20\S+Z \(build one\): wait for it, "
                r"stop it, or choose another folder with --out; if it is dead, its lease ends in \d+ s"
            )
            with pytest.raises(BuildError, match=said) as caught, leased(objects, "build two"):
                pass
            assert "\n" not in str(caught.value)
        assert lease_holder(objects) is None
        with pytest.raises(KeyError), leased(objects, "build three"):
            raise KeyError
        with leased(objects, "build four"):
            pass


@pytest.mark.parametrize("before", [False, True], ids=["first", "after another"])
def test_of_many_that_try_at_once_one_gets_in(tmp_path: Path, before: bool) -> None:
    with folder(tmp_path) as (objects, _):
        if before:
            with leased(objects, "build zero"):
                pass
        barrier, leave = threading.Barrier(6), threading.Event()

        def race(number: int) -> bool:
            barrier.wait()
            try:
                with leased(objects, f"build {number}"):
                    leave.wait()
                    return True
            except BuildError as error:
                return False if "is held by" in str(error) else pytest.fail(str(error))

        with ThreadPoolExecutor(6) as pool:
            runs = [pool.submit(race, number) for number in range(6)]
            for loser in islice(as_completed(runs), 5):
                assert loser.result() is False
            leave.set()
            assert sorted(run.result() for run in runs) == [False] * 5 + [True]


def test_a_lease_that_is_not_renewed_is_taken_over_and_its_holder_finds_out(tmp_path: Path) -> None:
    """The store's clock decides, which tells whole seconds."""
    with folder(tmp_path) as (objects, _):
        first = leases._taken(objects, "build one", 0.0, lambda: 0.0)
        while lease_holder(objects) is not None:
            threading.Event().wait(0.05)
        with leased(objects, "build two") as held:
            first.renew()
            with pytest.raises(
                LeaseLostError, match=r"another build has taken it: .*\(build two\)"
            ):
                first.check()
            held.check()


@pytest.mark.parametrize("kind", ["s3"], indirect=True)
def test_an_age_that_is_told_in_whole_seconds_takes_nothing_from_a_holder(tmp_path: Path) -> None:
    """Written at 0.9 s, which is told as 0, and asked for at 60.0 s: it has 0.9 s of its term left."""
    with folder(tmp_path) as (objects, _):
        lease = leases._taken(objects, "build one", 60.0, lambda: 0.0).lease
        assert not lease.is_over(60.0) and not lease.is_over(60.9)
        assert lease.is_over(61.1)


def test_a_lease_that_cannot_be_renewed_ends_for_its_holder_first(tmp_path: Path) -> None:
    now = [0.0]
    down = threading.Event()

    def plan(path: str, before: int) -> str | None:
        return "503" if down.is_set() else None

    def build(objects: Objects) -> None:
        with leased(objects, "build one", clock=lambda: now[0]) as held:
            down.set()
            now[0] = 59.0
            held.check()
            now[0] = 61.0
            held.check()

    with folder(tmp_path, plan) as (objects, _):
        with pytest.raises(LeaseLostError, match="could not be renewed for 60 s") as caught:
            build(objects)
        assert objects.where in str(caught.value)


def test_it_is_renewed_by_itself(tmp_path: Path) -> None:
    """However slow this machine is: its own clock stands still here."""
    with (
        folder(tmp_path) as (objects, _),
        leased(objects, "build one", term_s=0.3, clock=lambda: 0.0) as held,
    ):
        while (found := leases._read(objects)) is not None and found[0].number < 2:
            threading.Event().wait(0.05)
        held.check()
        held.confirm()


@pytest.mark.parametrize("fault", ["503", "lost", "reset"])
def test_an_answer_that_is_lost_costs_nobody_the_lease(tmp_path: Path, fault: str) -> None:
    """Whether it was taken or not, what is there tells."""
    count = iter(range(10**6))

    def plan(path: str, _: int) -> str | None:
        return fault if writes(path) and next(count) % 3 == 0 else None

    with folder(tmp_path, plan) as (objects, proxy):
        held = leases._taken(objects, "build one", 60.0, lambda: 0.0)
        for _ in range(6):
            held.renew()
            held.check()
        assert held.lease.number == 6 and proxy.injected[fault] >= 3


def test_a_renewal_whose_answers_were_all_lost_is_not_taken_for_a_later_one(tmp_path: Path) -> None:
    """The store took it when it was first sent, and counts from there; so must its holder."""
    now, deaf = [0.0], threading.Event()
    with folder(tmp_path, lambda path, _: "lost" if deaf.is_set() and writes(path) else None) as (
        objects,
        _,
    ):
        held = leases._taken(objects, "build one", 60.0, lambda: now[0])

        def unheard() -> str:
            deaf.set()
            with pytest.raises(BuildError, match="does not answer"):
                held.renew()
            deaf.clear()
            stored = objects.stat(LEASE)
            assert stored is not None and stored.version != held.version, "it was taken"
            return stored.version

        earlier = unheard()
        now[0] = 45.0
        held.renew()
        assert held.renewed_at == 45.0 and held.version != earlier
        unheard()
        held.renew(released=True)
        assert not held.lost and lease_holder(objects) is None


def test_who_fails_before_the_work_begins_gives_the_folder_back(tmp_path: Path) -> None:
    """The first write is the lease; then the store is away while it is asked about conditions."""
    count = iter(range(10**6))

    def plan(path: str, _: int) -> str | None:
        return "503" if writes(path) and 1 <= next(count) <= QUICK.tries else None

    with folder(tmp_path, plan) as (objects, proxy):
        with pytest.raises(BuildError, match="does not answer"), leased(objects, "build one"):
            pytest.fail("nobody asked")
        assert proxy.injected["503"] == QUICK.tries
        assert lease_holder(objects) is None


def test_who_is_interrupted_does_not_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    down, waits = threading.Event(), list[float]()

    def plan(path: str, before: int) -> str | None:
        return "503" if down.is_set() else None

    def build(objects: Objects) -> None:
        with leased(objects, "build one"):
            down.set()
            raise KeyboardInterrupt

    with folder(tmp_path, plan) as (objects, _):
        with pytest.raises(KeyboardInterrupt):
            build(Objects(objects.address, Retries(sleep=waits.append)))
        assert not waits


def test_a_killed_builder_of_this_machine_does_not_keep_it(tmp_path: Path) -> None:
    """Nobody need wait for its term."""
    program = (
        "import os, sys; from cdgen.storage.conditional import Objects; from cdgen.storage.lease import leased\n"
        "with leased(Objects(sys.argv[1]), 'build one'): os.kill(os.getpid(), 9)"
    )
    with folder(tmp_path) as (objects, _):
        environment = os.environ | {"PYTHONPATH": str(Path(cdgen.__file__).parents[1])}
        command = [sys.executable, "-c", program, objects.address]
        assert subprocess.run(command, env=environment, check=False).returncode == -9
        assert objects.stat(LEASE) is not None
        assert lease_holder(objects) is None
        with leased(objects, "build two"):
            pass


class Forgetful(Objects):
    """A store that takes conditions and does not keep to them."""

    def create(self, name: str, source: bytes | Path, sha256: str = "", note: str = "") -> bool:
        self.put(name, source)
        return True


def test_a_store_that_ignores_conditions_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    with folder(tmp_path) as (objects, _):
        objects.put(LEASE, b"mine")
        stored = objects.stat(LEASE)
        assert stored is not None
        check_conditions(objects, LEASE, stored.version)
        assert objects.read(LEASE) == b"mine"
        said = rf"this store ignores .*Match.*cdgen publish DIR {kind}://"
        with pytest.raises(BuildError, match=said):
            check_conditions(Forgetful(objects.address, QUICK), LEASE, stored.version)


@pytest.mark.parametrize(
    ("kind", "dropped"),
    [("s3", "If-None-Match"), ("s3", "If-Match"), ("gs", "ifGenerationMatch")],
    indirect=["kind"],
)
def test_a_server_that_ignores_one_kind_of_condition_is_found_out(
    tmp_path: Path, dropped: str
) -> None:
    with folder(tmp_path) as (objects, proxy):
        proxy.dropped_headers.add(dropped.lower())
        proxy.dropped_queries.add(dropped)
        with pytest.raises(BuildError, match="this store ignores"), leased(objects, "build"):
            pass


def test_a_damaged_lease_is_one_line(tmp_path: Path) -> None:
    with folder(tmp_path) as (objects, _):
        objects.put(LEASE, b"what somebody put there")
        with pytest.raises(
            BuildError, match=r"work/lease.json: is not a lease of this cdgen; .* delete"
        ):
            lease_holder(objects)
