"""Builds on a Ray cluster of several nodes on this machine, with every fault: each ends in a calm build's bytes."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray_builds
from corpora import events, hashes
from pretend_engine import Opener
from ray_builds import (
    PATIENCE_S,
    RECIPE,
    Home,
    Mortal,
    kill,
    meanwhile,
    opening_by,
    patiently,
    profile,
    until,
)  # fmt: skip

from cdgen.builders.plan import plan
from cdgen.builders.ray.head import Head, HeadLostError
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.builders.status import status
from cdgen.errors import BuildError, DeterminismError
from cdgen.shards.verify import verify
from cdgen.storage.places import ASIDE

NODE = {
    "num_cpus": 1,
    "object_store_memory": 80_000_000,
    "include_dashboard": False,
    "no_monitor": True,
    "include_log_monitor": False,
}
"""Without two processes that nobody here asks: the autoscaler, and the one that brings workers' logs to a driver."""


def started() -> Any:
    """A cluster of one node."""
    import ray
    from ray.cluster_utils import Cluster
    from ray.experimental import internal_kv

    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=NODE))
    if ray.is_initialized():  # what this process asks its own cluster would now go to the new one
        worker: Any = ray._private.worker.global_worker
        internal_kv._initialize_internal_kv(worker.gcs_client)
    return cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A node for two workers; this process is connected to it."""
    helpers = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])
    import ray

    cluster = started()
    ray.init(address=cluster.address, namespace="cdgen", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def calm(
    built: tuple[Path, Path, Report], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Home, dict[str, str]]:
    """(where a calm local build of the same recipe was made, its hashes)."""
    folder = tmp_path_factory.mktemp("calm")
    shutil.copy(built[0].with_name("tales.txt"), folder)
    recipe = folder / "many.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    home = Home(recipe, built[1].parent / "cache", folder)
    with pytest.MonkeyPatch.context() as patch:
        engine = Opener(home.orders)
        patch.setattr(
            "cdgen.builders.decoding.open_models",
            lambda decoding: engine(None, vocab_size=decoding.context.tokenizer.vocab_size),
        )
        build(recipe, home.out, cache=home.cache)
    return home, hashes(home.out)


@pytest.fixture
def home(calm: tuple[Home, dict[str, str]], tmp_path: Path) -> Home:
    """A place for another build of the calm recipe."""
    return Home(calm[0].recipe, calm[0].cache, tmp_path)


def same(home: Home, calm: tuple[Home, dict[str, str]]) -> None:
    """The calm build's bytes, and no shard written twice."""
    assert hashes(home.out) == calm[1]
    names = Counter(str(one["name"]) for one in home.events("shard"))
    assert set(names.values()) == {1}
    assert len(names) == sum("data/synthetic" in name for name in calm[1])
    assert list(verify(home.out).problems) == []
    assert not list((home.out / "work").glob("staging/*"))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_makes_the_same_bytes(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home, workers: int
) -> None:
    home.build(profile(workers={"min": workers, "max": workers, "cpus": 0.25}))

    same(home, calm)
    joined = home.events("worker", state="joined")
    assert len({one["worker"] for one in joined}) == workers


def test_real_models_make_the_bytes_of_a_local_build(
    cluster: Any, built: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    recipe, out, report = built

    made = build(
        recipe,
        tmp_path / "out",
        cache=out.parent / "cache",
        profile=profile(workers={"max": 1, "cpus": 0.5}),
    )

    assert hashes(tmp_path / "out") == hashes(out)
    assert made.manifest_digest == report.manifest_digest
    lock = "recipe.lock.json"
    assert (tmp_path / "out" / lock).read_bytes() == (out / lock).read_bytes()


def test_a_plan_asks_a_running_cluster_what_fits(
    cluster: Any, calm: tuple[Home, dict[str, str]], tmp_path: Path
) -> None:
    """Two workers of half a core on the one node; 14 jobs; what this process has of Ray stays as it is."""
    import ray

    half = profile(workers={"min": 1, "max": 8, "cpus": 0.5})
    planned = plan(calm[0].recipe, tmp_path / "out", cache=calm[0].cache, profile=half)

    found = planned.fleet
    assert found is not None and found.why_not == ""
    assert (found.num_fit, found.num_workers, found.most_jobs) == (2, 2, 7)
    assert (found.gpus, found.idle_share) == (0.0, 0.0)
    assert ray.is_initialized()
    large = plan(
        calm[0].recipe,
        tmp_path / "out",
        cache=calm[0].cache,
        profile=profile(workers={"cpus": 3.0}),
    )
    assert large.fleet is not None and large.fleet.num_fit == 0


def test_a_cluster_that_is_there_is_found_without_joining_it(cluster: Any) -> None:
    """Started without a file that says so; asked by a program of its own, as `cdgen build` is."""
    look = (
        "import ray; from ray_builds import profile; from cdgen.builders.reach import check_reachable; "
        "check_reachable(profile('auto')); assert not ray.is_initialized()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-c", look]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def looking(built: tuple[Path, Path, Report], limits: str) -> Path:
    """The built recipe with a preflight."""
    recipe = built[0].with_name("looking.yaml")
    text = built[0].read_text(encoding="utf-8")
    recipe.write_text(text.replace("mix: {", f"preflight: {limits}\nmix: {{"), encoding="utf-8")
    return recipe


def no_models_here(*_: Any, **__: Any) -> Any:
    raise AssertionError("the driver opens models")


def test_a_preflight_is_a_workers_and_its_numbers_are_those_of_a_local_build(
    cluster: Any, built: tuple[Path, Path, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver opens no models; a worker that dies of it is replaced, and the next one looks."""
    recipe, cache = looking(built, "{min_gap_nats: 0.01, action: stop}"), built[1].parent / "cache"
    local = build(recipe, tmp_path / "local", cache=cache)
    (tmp_path / "die").touch()
    monkeypatch.setattr("cdgen.builders.engines.open_engine", no_models_here)

    only = profile(workers={"max": 1, "cpus": 0.5}, retries={"death": 1, "error": 0})
    with opening_by(Mortal(tmp_path / "die")):
        made = build(recipe, tmp_path / "out", cache=cache, profile=only)

    assert made.preflight is not None and made.preflight == local.preflight
    assert hashes(tmp_path / "out") == hashes(built[1])
    states = [one["state"] for one in events(tmp_path / "out", "worker")]
    assert states.count("joined") == 2 and states.count("dead") == 1
    assert not (tmp_path / "die").exists() and not events(tmp_path / "out", "retry")


def test_a_preflight_that_fails_stops_the_build_in_the_words_of_a_local_one(
    cluster: Any, built: tuple[Path, Path, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cache = looking(built, "{min_gap_nats: 9.0, action: stop}"), built[1].parent / "cache"
    with pytest.raises(BuildError, match="the contrast is dead") as local:
        build(recipe, tmp_path / "local", cache=cache)
    monkeypatch.setattr("cdgen.builders.engines.open_engine", no_models_here)

    with pytest.raises(BuildError) as here:
        build(
            recipe,
            tmp_path / "out",
            cache=cache,
            profile=profile(workers={"max": 1, "cpus": 0.5}),
        )

    assert str(here.value) == str(local.value)
    assert not list((tmp_path / "out").glob("data/synthetic/*"))
    assert not events(tmp_path / "out", "job")


def test_kill_9_of_an_actor_in_the_middle_of_a_shard(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    hold = home.order("hold")
    with meanwhile(lambda: until(home.began), lambda: kill(home.began()[0][1]), hold.unlink):
        home.build(profile())

    same(home, calm)
    assert home.events("worker", state="dead")
    assert {one["cause"] for one in home.events("retry")} == {"death"}


def test_twenty_kills_at_random(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    """Whoever decodes is killed, twenty times; after the twentieth nobody is."""
    chance = random.Random(7)
    killed: list[int] = []

    def kill_one() -> None:
        alive = [pid for _, pid in home.began() if pid not in killed]
        victim = chance.choice(alive) if alive else None
        if victim is not None:
            killed.append(victim)
            kill(victim)

    hold = home.order("hold")

    def kill_twenty() -> None:
        while len(killed) < 20:
            until(lambda: [pid for _, pid in home.began() if pid not in killed])
            kill_one()

    with meanwhile(kill_twenty, hold.unlink):
        home.build(profile(retries={"death": 25, "error": 0}, workers={"max": 4, "cpus": 0.25}))

    same(home, calm)
    assert len(home.events("worker", state="dead")) == 20


def test_kill_9_of_a_whole_node(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    node = patiently(lambda: cluster.add_node(**NODE))
    hold = home.order("hold")
    only = profile(workers={"min": 2, "max": 4, "cpus": 0.5})
    with meanwhile(
        lambda: until(lambda: len({pid for _, pid in home.began()}) >= 3),
        lambda: cluster.remove_node(node, allow_graceful=False),
        lambda: until(lambda: home.events("worker", state="dead")),
        hold.unlink,
    ):
        home.build(only)

    same(home, calm)
    assert home.events("retry", cause="death")


def test_nodes_that_join_late_and_leave_early(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    """A node comes while all others hold; its raylet gets SIGTERM, as on a spot machine: no death is counted."""
    hold = home.order("hold")
    every = profile(workers={"cpus": 0.5}, retries={"death": 0, "error": 0})
    with ThreadPoolExecutor(max_workers=1) as thread:  # Ray starts nodes in the main thread only
        building = thread.submit(home.build, every)
        try:
            until(home.began)
            late = patiently(lambda: cluster.add_node(**NODE))
            until(lambda: len({pid for _, pid in home.began()}) >= 3)
            late.all_processes["raylet"][0].process.send_signal(signal.SIGTERM)
            until(lambda: home.events("worker", state="left"))
        finally:
            hold.unlink()
        building.result()
    cluster.remove_node(late)

    same(home, calm)
    assert len({one["worker"] for one in home.events("worker", state="joined")}) >= 3


def test_a_worker_that_is_told_to_leave_ends_its_shard_and_hands_the_next_one_back(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    """SIGTERM to the worker's own process: nothing is lost, nothing is done again."""
    hold = home.order("hold")
    with meanwhile(
        lambda: until(home.began),
        lambda: kill(home.began()[0][1], signal.SIGTERM),
        lambda: until(lambda: home.events("worker", state="draining")),
        hold.unlink,
    ):
        home.build(profile(workers={"max": 1, "cpus": 0.5}, retries={"death": 0, "error": 0}))

    same(home, calm)
    assert home.events("worker", state="left") and not home.events("worker", state="dead")
    assert home.events("retry") == []


def test_a_job_that_always_fails_is_set_aside_by_name_and_the_others_finish(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    """Tried twice, as the profile says; without the bug, the same command makes the one that is missing."""
    bug = home.order(f"fail-{home.marks(calm[0].out)[3]}")

    with pytest.raises(
        BuildError, match=r"1 shard could not be made, all others are done: .*-00003.tar: "
    ) as failed:
        home.build(profile())

    assert "RuntimeError: a bug of ours" in str(failed.value)
    assert [one["attempt"] for one in home.events("retry")] == [1]
    assert home.events("retry")[0]["cause"] == "error"
    assert len(home.events("shard")) == 13 and len(home.events("quarantined")) == 1
    assert home.events("worker", state="dead") == []

    bug.unlink()
    home.build(profile())
    same(home, calm)


def test_a_job_that_kills_its_workers_is_set_aside_and_takes_no_other_along(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    home.order(f"kill-{home.marks(calm[0].out)[5]}")

    with pytest.raises(
        BuildError, match=r"1 shard could not be made, all others are done: .*-00005.tar: "
    ):
        home.build(profile(retries={"death": 2, "error": 0}))

    assert len(home.events("shard")) == 13
    assert len(home.events("worker", state="dead")) == 3


def test_out_of_memory_halves_what_is_in_flight_there(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    """The job is done again, with the same rows to a batch."""
    home.order(f"once-memory-{home.marks(calm[0].out)[2]}")

    home.build(profile(in_flight=4, retries={"death": 0, "error": 0}))

    same(home, calm)
    assert [one["in_flight"] for one in home.events("halve")] == [2]
    assert [one["cause"] for one in home.events("retry")] == ["memory"]


def hang_the_first(home: Home, mark: str) -> None:
    """The worker that has a batch first waits in it; whoever has it next does not."""
    until(lambda: mark in dict(home.began()))
    home.order(f"hold-{mark}-{dict(home.began())[mark]}")


QUICK = {"times": 2.0, "at_least_s": 0.5}


def test_a_straggler_is_done_elsewhere_and_the_first_receipt_wins(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    mark = home.marks(calm[0].out)[1]
    hold = home.order("hold")
    with meanwhile(lambda: hang_the_first(home, mark), hold.unlink):
        home.build(
            profile(stragglers=QUICK, in_flight=1, workers={"min": 2, "max": 2, "cpus": 0.5})
        )

    same(home, calm)
    copies = home.events("job", speculative=True)
    assert [one["shard"][-9:] for one in copies] == ["00001.tar"]
    assert [mine for mine, _ in home.began()].count(mark) == 2


def test_a_second_copy_with_other_bytes_is_fatal_and_both_are_kept(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    """The copy is delivered; then the straggler, which was only slow, turns out to have drawn other tokens."""
    marks = home.marks(calm[0].out)
    hold = home.order("hold")
    home.order(f"hold-{marks[13]}")  # so that the build does not end before

    def wake_the_first() -> None:
        until(lambda: [one for one in home.events("shard") if str(one["name"]).endswith("01.tar")])
        home.order(f"other-{marks[1]}")
        for path in home.orders.glob(f"hold-{marks[1]}-*"):
            path.unlink()

    with (
        meanwhile(lambda: hang_the_first(home, marks[1]), hold.unlink, wake_the_first),
        pytest.raises(DeterminismError, match=r"00001.tar: was made twice, and not with the same"),
    ):
        home.build(
            profile(stragglers=QUICK, in_flight=1, workers={"min": 3, "max": 3, "cpus": 0.3})
        )

    kept = [path.name for path in (home.out / ASIDE).rglob("*.tar")]
    assert len(kept) == 2 and len(set(kept)) == 1 and kept[0].endswith("00001.tar")

    for path in home.orders.glob("*-*"):
        path.unlink()
    home.build(profile())
    assert hashes(home.out) == calm[1]


def driver(home: Home, address: str) -> subprocess.Popen[bytes]:
    """A build in a process of its own."""
    fields = profile(address).model_dump_json(exclude_unset=True)
    paths = [str(path) for path in (home.recipe, home.cache, home.folder)]
    command = [sys.executable, ray_builds.__file__, *paths, fields]
    with (home.folder / "said").open("wb") as said:
        return subprocess.Popen(command, stderr=said)


def resumed(home: Home, calm: tuple[Home, dict[str, str]]) -> None:
    """Go on with a build whose driver is gone. What its workers still delivered is in no event."""
    home.build(profile())

    assert hashes(home.out) == calm[1]
    assert list(verify(home.out).problems) == []


def test_kill_9_of_the_driver(cluster: Any, calm: tuple[Home, dict[str, str]], home: Home) -> None:
    hold = home.order("hold")
    process = driver(home, cluster.address)
    until(home.began)
    process.kill()
    process.wait()
    hold.unlink()

    resumed(home, calm)


def test_kill_9_of_the_head_and_a_new_cluster(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home
) -> None:
    """The build on the old one ends by itself and says why, before Ray would end it without a word."""
    other = started()
    hold = home.order("hold")
    process = driver(home, other.address)
    until(home.began)
    other.remove_node(other.head_node, allow_graceful=False)
    assert process.wait(timeout=PATIENCE_S) != 0
    hold.unlink()
    assert "HeadLostError: the head of the Ray cluster" in (home.folder / "said").read_text()
    assert "has not answered" in status(home.out).why

    resumed(home, calm)


def test_a_head_that_comes_back_is_forgiven_and_one_that_does_not_ends_the_build() -> None:
    """Until then nothing is asked of it; every question to Ray would wait."""
    seconds = iter(range(0, 1000, 10))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        head = Head(f"{address[0]}:{address[1]}", lambda: next(seconds))
        head.ask()
        assert head.answers
    head.ask()
    head.ask()
    assert not head.answers
    with socket.create_server(address):
        head.ask()
        assert head.answers
    for _ in range(3):
        head.ask()
        assert not head.answers

    with pytest.raises(HeadLostError, match=r"has not answered for 30 s .*finished shards"):
        head.ask()


@pytest.fixture
def small_disk(home: Home) -> Iterator[Path]:
    """The corpus folder as a file system of its own, too small for the shards."""
    home.out.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(home.out)]
    mounted = subprocess.run(asked, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield home.out
    subprocess.run(["umount", "-l", str(home.out)], check=True)


@pytest.fixture
def staging(home: Home) -> Iterator[Path]:
    """Where workers write what they have decoded, to be mounted by the test; the driver has no file open there."""
    folder = home.out / "work/staging"
    folder.mkdir(parents=True)
    probe = mount_read_only(folder)
    if probe.returncode:
        pytest.skip(f"nothing can be mounted read-only here: {probe.stderr.strip()}")
    unmount(folder)
    yield folder
    if os.path.ismount(folder):
        unmount(folder)


def mount_read_only(folder: Path) -> "subprocess.CompletedProcess[str]":
    asked = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    return subprocess.run(asked, capture_output=True, text=True, check=False)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_storage_that_becomes_read_only_stops_the_build_in_one_line(
    cluster: Any, calm: tuple[Home, dict[str, str]], home: Home, staging: Path
) -> None:
    """The workers' folder alone, so that it is they who say so; exit 1, and `cdgen status` has the reason."""
    hold = home.order("hold")

    def protect() -> None:
        staging.mkdir(parents=True, exist_ok=True)  # a build clears it when it begins
        assert mount_read_only(staging).returncode == 0

    with (
        meanwhile(lambda: until(home.began), protect, hold.unlink),
        pytest.raises(BuildError, match="Read-only file system") as failed,
    ):
        home.build(profile())

    assert failed.value.exit_code == 1 and "\n" not in str(failed.value)
    seen = status(home.out)
    assert (seen.state, seen.why) == ("failed", str(failed.value))
    assert home.events("worker", state="dead") == []
    unmount(staging)

    resumed(home, calm)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_disk_that_fills_stops_the_build_in_one_line(
    cluster: Any,
    calm: tuple[Home, dict[str, str]],
    home: Home,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not every job is decoded for nothing; with room again the build goes on."""
    monkeypatch.setattr("cdgen.builders.run.check_space", lambda *_: None)
    with pytest.raises(BuildError, match="No space left on device"):
        home.build(profile())
    remount(small_disk, "size=40m")

    resumed(home, calm)
