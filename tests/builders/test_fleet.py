"""What a builder profile makes of a plan; a cluster that is there is asked in test_ray.py."""

import dataclasses
import heapq
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.builders import fleet as fleets
from cdgen.builders.fleet import Room, fleet
from cdgen.builders.needs import Needs
from cdgen.builders.profile import Profile
from cdgen.builders.reach import check_reachable
from cdgen.errors import UsageError
from cdgen.reports.fleet import fleet_rows

HERE = Needs(
    shard_bytes=1,
    training_disk_bytes=0,
    free_disk_bytes=10**12,
    training_memory_bytes=5,
    decoding_memory_bytes=1_500_000_000,
    memory_bytes=8 * 10**9,
    training_s=120.0,
    decoding_s=3600.0,
    decoding_path="as it does",
)
ON_A_GPU = dataclasses.replace(HERE, gpu_memory_bytes=80 * 10**9)


def profile(**fields: Any) -> Profile:
    return Profile.model_validate({"version": 1, "name": "here", "engine": "ray", **fields})


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """What would be found out, said by the test."""
    monkeypatch.setattr(fleets, "_room", lambda _: request.param)


def text(profile: Profile, needs: Needs, num_jobs: int) -> str:
    return "\n".join(" ".join(row) for row in fleet_rows(fleet(profile, needs, num_jobs), needs))


@given(num_jobs=st.integers(1, 300), workers=st.integers(1, 40))
def test_time_and_idleness_are_those_of_jobs_given_out_one_by_one(
    num_jobs: int, workers: int
) -> None:
    """Against a queue: whoever is free first takes the next job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleets, "_room", lambda _: Room(workers, 1.0))
        found = fleet(profile(address="auto"), ON_A_GPU, num_jobs)

    free, done = [0] * found.num_workers, [0] * found.num_workers
    for _ in range(num_jobs):
        at = heapq.heappop(free)
        heapq.heappush(free, at + 1)
        done[at % found.num_workers] += 1
    last = max(free)
    assert found.num_workers == min(workers, num_jobs) and found.most_jobs == last
    assert found.decoding_s == pytest.approx(3600.0 * last / num_jobs)
    assert found.idle_share == pytest.approx(1 - num_jobs / (last * found.num_workers))
    assert found.gpu_hours == pytest.approx(last / num_jobs * found.num_workers)


@pytest.mark.parametrize(
    ("limits", "room", "expected"),
    [
        ({"max": 8}, Room(4, 0.0), 4),
        ({"max": 3}, Room(4, 0.0), 3),
        ({}, Room(4, 0.0), 4),
        ({"max": 8}, Room(None, 0.0, "nobody answers"), 8),
        ({"min": 2}, Room(None, 0.0, "nobody answers"), 2),
        ({"max": 8}, Room(0, 0.0), 8),
        ({"max": 80}, Room(70, 0.0), 20),
    ],
    indirect=["room"],
)
@pytest.mark.usefixtures("room")
def test_how_many_workers_are_reckoned_with(limits: dict[str, int], expected: int) -> None:
    """What fits now, within the profile's limits, and no more than there are jobs."""
    assert fleet(profile(address="auto", workers=limits), HERE, 20).num_workers == expected


def test_an_address_where_nobody_answers_is_told_and_not_waited_for() -> None:
    """Ray itself would try for two minutes, and then end the process."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen: nobody else can, meanwhile
        port = held.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            there = profile(address=address, workers={"max": 6, "gpus": 0.5})

            found = fleet(there, ON_A_GPU, 12)

            assert found.num_fit is None and f"no Ray at address {address}" in found.why_not
            assert "refused" in found.why_not
            assert (found.num_workers, found.gpus, found.gpu_hours) == (6, 0.5, 0.5)
            assert "6 workers reckoned with" in text(there, ON_A_GPU, 12)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Ray's processes, whoever else runs some here; the file that `ray start` would leave."""
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services._is_raylet_process", lambda _: False)
    file = tmp_path / "ray/ray_current_cluster"
    file.parent.mkdir()
    return file


def test_auto_without_a_cluster_is_told_and_nothing_is_started(alone: Path) -> None:
    there = profile(address="auto", workers={"max": 3})

    with pytest.raises(
        UsageError, match=r"no Ray at address auto .*: this machine is part of none"
    ):
        check_reachable(there)

    found = fleet(there, HERE, 12)
    assert found.num_fit is None and "this machine is part of none" in found.why_not
    assert found.num_workers == 3
    ray = sys.modules["ray"]
    assert not ray.is_initialized()


def test_auto_is_where_ray_itself_would_look(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a cluster that is gone is no cluster; one that answers is; RAY_ADDRESS comes first."""
    auto = profile(address="auto")
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = f"127.0.0.1:{server.getsockname()[1]}"
    alone.write_text(gone, encoding="utf-8")

    with pytest.raises(UsageError, match=rf"the last one here was at \S+:{gone[10:]}: .*refused"):
        check_reachable(auto)

    with socket.create_server(("0.0.0.0", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        alone.write_text(there, encoding="utf-8")
        check_reachable(auto)
        monkeypatch.setenv("RAY_ADDRESS", gone)
        with pytest.raises(UsageError, match=f"RAY_ADDRESS={gone}: .*refused"):
            check_reachable(auto)
        alone.write_text(gone, encoding="utf-8")
        monkeypatch.setenv("RAY_ADDRESS", there)
        check_reachable(auto)


def test_a_ray_that_does_not_tell_where_it_looks_is_no_reason_to_refuse(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version; joining it will tell."""
    monkeypatch.delattr("ray._private.services.canonicalize_bootstrap_address")

    check_reachable(profile(address="auto"))


def test_without_ray_a_plan_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdgen.builders.reach.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "ray", None)

    found = fleet(profile(address="auto", workers={"max": 2}), HERE, 12)

    assert (found.num_workers, found.gpus, found.same_device) == (2, None, None)
    assert "pip install 'cdgen[ray]'" in found.why_not


def test_ray_on_this_machine_is_reckoned_from_its_cores_and_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(fleets, "_num_gpus", lambda: 0)
    cores = os.cpu_count() or 1

    assert fleet(profile(workers={"cpus": 0.5}), HERE, 1000).num_fit == 2 * cores
    assert fleet(profile(workers={"cpus": 0.5, "memory_gib": 1e6}), HERE, 9).num_fit == 0
    assert fleet(profile(workers={"gpus": 1.0}), HERE, 9).num_fit == 0
    monkeypatch.setattr(fleets, "_num_gpus", lambda: 2)
    found = fleet(profile(workers={"cpus": 0.1}), ON_A_GPU, 1000)
    assert (found.num_fit, found.gpus) == (2, 1.0)
    assert fleet(profile(workers={"cpus": 0.1, "gpus": 0.5}), ON_A_GPU, 9).num_fit == 4


def test_the_local_engine_is_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "_num_gpus", lambda: 0)
    local = profile(engine="local")

    found = fleet(local, HERE, 7)

    assert (found.num_workers, found.most_jobs, found.decoding_s) == (1, 7, 3600.0)
    assert found.address is None and found.gpu_hours is None
    assert "this process" in text(local, HERE, 7)


@pytest.mark.parametrize(
    ("fields", "room", "needs", "warning"),
    [
        ({"address": "auto", "workers": {"memory_gib": 1.0}}, Room(2, 0.0), HERE, "raise workers.memory_gib"),
        ({"address": "auto", "workers": {"memory_gib": 2.0}}, Room(2, 0.0), HERE, ""),
        ({"address": "auto", "workers": {"memory_gib": 1.0}}, Room(2, 1.0), ON_A_GPU, ""),
        ({"address": "local"}, Room(4, 0.0), HERE, ""),
        ({"address": "local"}, Room(5, 0.0), HERE, "lower workers.max"),
        ({"address": "auto", "workers": {"min": 3}}, Room(2, 0.0), HERE, "decoding begins with 3"),
        ({"address": "auto"}, Room(0, 0.0), HERE, "no worker fits"),
        ({"address": "auto"}, Room(2, 1.0), HERE, "measured without a GPU"),
        ({"address": "auto"}, Room(2, 0.0), ON_A_GPU, "measured with a GPU"),
    ],
    indirect=["room"],
)  # fmt: skip
@pytest.mark.usefixtures("room")
def test_every_warning_has_its_reason(fields: dict[str, Any], needs: Needs, warning: str) -> None:
    told = text(profile(**fields), needs, 20)

    assert warning in told and ("warning" in told) == bool(warning)


@pytest.mark.parametrize("room", [Room(2, 1.0)], indirect=True)
@pytest.mark.usefixtures("room")
def test_a_speed_measured_without_a_gpu_makes_no_gpu_hours() -> None:
    assert fleet(profile(address="auto"), HERE, 20).gpu_hours is None


@pytest.mark.parametrize("room", [Room(2, 0.0)], indirect=True)
@pytest.mark.usefixtures("room")
def test_a_driver_needs_no_memory_for_decoding() -> None:
    """It trains at most: what decoding takes is the workers' affair."""
    small = dataclasses.replace(HERE, memory_bytes=10**9)

    assert "too small" not in text(profile(address="auto"), small, 4)
    assert "too small" in text(
        profile(address="auto"), dataclasses.replace(small, training_memory_bytes=2 * 10**9), 4
    )
