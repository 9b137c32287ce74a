"""A head that is gone while a process uses its cluster. As a script: the process that loses it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import pytest

SAID = {"version": 1, "name": "here", "engine": "ray", "address": "local"}


@pytest.fixture
def lost(request: pytest.FixtureRequest) -> Iterator[tuple[int, list[str], str]]:
    """(exit code, what was printed, what was complained) of the script, and nothing of its Ray is left."""
    process = subprocess.Popen(
        [sys.executable, __file__, request.param],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        status = process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        yield status, process.stdout.read().split(), process.stderr.read()


@pytest.mark.parametrize("lost", ["SIGKILL"], indirect=True)
def test_a_process_whose_head_was_killed_is_free_of_ray(lost: tuple[int, list[str], str]) -> None:
    """Who catches the error goes on, with another Ray if need be; who catches nothing ends soon."""
    status, told, complaint = lost

    assert (status, told) == (1, ["free", "again", "other"]), complaint
    assert "HeadLostError: it does not answer" in complaint


@pytest.mark.parametrize("lost", ["SIGSTOP"], indirect=True)
def test_a_head_that_says_nothing_is_not_waited_for(lost: tuple[int, list[str], str]) -> None:
    """Its machine lost its power or its network: Ray cannot be left, and the process ends without it."""
    status, told, complaint = lost

    assert (status, told) == (1, ["kept", "other"]), complaint
    assert "HeadLostError: it does not answer" in complaint


def test_who_interrupts_a_build_does_not_wait_for_a_silent_head_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever sees a build stand still presses Ctrl-C before it has given the head up itself."""
    ray = pytest.importorskip("ray")
    from cdgen.builders.profile import Profile
    from cdgen.builders.ray import session

    leaving: list[threading.Thread] = []
    answer, asked = threading.Event(), threading.Event()

    def shutdown() -> None:
        asked.set()
        answer.wait()

    def interrupted() -> None:
        with session.session(Profile.model_validate(SAID)):
            raise KeyboardInterrupt

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, os.environ.get(name, "0"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    monkeypatch.setattr(session, "LONGEST_S", 0.05)
    monkeypatch.setattr(session, "_leaving", leaving)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert asked.is_set() and [one.is_alive() for one in leaving] == [True]
    answer.set()
    leaving[0].join()


def main(how: str) -> None:
    """Lose the head, go on where that is possible, and end with the error that nobody caught."""
    import atexit

    import ray

    from cdgen.builders.profile import Profile
    from cdgen.builders.ray import session
    from cdgen.builders.ray.head import HeadLostError

    atexit.register(print, "other")
    profile = Profile.model_validate(SAID)
    lost = HeadLostError("it does not answer")
    limit_s = session.LEAVE_S if how == "SIGKILL" else 2.0

    @ray.remote(num_cpus=1)
    def work() -> int:
        return os.getpid()

    # The agent of a node is the small one then, which starts sooner.
    absent = patch("ray._private.utils.get_dashboard_dependency_error", ImportError)
    with absent, patch.object(session, "LEAVE_S", limit_s):
        try:
            with session.session(profile):
                ray.get(work.remote())
                own: Any = ray._private.worker
                head = own._global_node.all_processes["gcs_server"][0].process
                head.send_signal(signal.Signals[how])
                raise lost
        except HeadLostError:
            print("kept" if ray.is_initialized() else "free")
        if not ray.is_initialized():
            with session.session(profile):
                assert ray.get(work.remote()) != os.getpid()
                print("again")
    raise lost


if __name__ == "__main__":
    main(sys.argv[1])
