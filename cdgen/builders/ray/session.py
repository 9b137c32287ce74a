"""A connection to Ray, for as long as a build needs one."""

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from cdgen.builders.profile import Profile
from cdgen.builders.ray.ends import line_of
from cdgen.builders.ray.head import HeadLostError
from cdgen.builders.reach import check_reachable, no_ray
from cdgen.errors import UsageError

NAMESPACE = "cdgen"
LEAVE_S = 15.0
"""How long to take one's leave of a head that is gone: where the machine refuses, Ray needs 5 s; where nothing comes
back, it waits for ever."""
LONGEST_S = 60.0
"""The same of a head that may be there: Ray that was started here ends its processes, on a machine that may be busy."""
END_S = 5.0
"""What is left for that when the process ends."""


@contextmanager
def session(profile: Profile) -> Iterator[None]:
    """Be connected to the profile's Ray while the block runs; one that this process uses already is used, and stays.

    Raises:
        UsageError: there is none at the profile's address, or it cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    # Ray reports its use to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker without a GPU must not see any: otherwise it would be of another numeric class than it says.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False}
    if not profile.address.startswith("ray://"):
        options["logging_level"] = logging.ERROR
    if (
        profile.address == "local"
    ):  # by that name: without one, ray joins whatever cluster runs here
        options["include_dashboard"] = None
        os.environ.pop("RAY_ADDRESS", None)  # which would join that cluster instead
    check_reachable(profile)
    try:
        ray.init(address=profile.address, **options)
    except Exception as error:  # noqa: BLE001 - what Ray raises when it does not come up in time
        raise UsageError(no_ray(profile, line_of(error))) from None
    _end_in_order()
    try:
        yield
    except BaseException as error:
        # Whoever interrupts a build whose head says nothing must not wait for it either.
        _leave(LEAVE_S if isinstance(error, HeadLostError) else LONGEST_S)
        raise
    ray.shutdown()


def _end_in_order() -> None:
    """Let SIGTERM mean `sys.exit`, as Ray's Python has it, and no more.

    Before that its C part prints a stack, and aborts the process 3 s later: leaving Ray can take longer.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # in place of both


_leaving: list[threading.Thread] = []
"""Those that take leave of a Ray, while they do."""


def _leave(wait_s: float) -> None:
    """Be rid of a Ray whose head is gone, or may be.

    Connected, Ray would ask that head about every exception that nobody caught, and end the process a minute later. If
    it cannot be left, the process goes on, and does not wait for Ray at its end.
    """
    leaving = threading.Thread(target=ray.shutdown, name="cdgen-leave", daemon=True)
    _leaving.append(leaving)
    leaving.start()
    leaving.join(wait_s)
    if not leaving.is_alive():
        _leaving.remove(leaving)
        return
    atexit.unregister(ray.shutdown)
    own: Any = ray._private.worker  # noqa: SLF001 - nothing public gives the hook back
    if sys.excepthook is own.custom_excepthook:
        sys.excepthook = own.normal_excepthook


@atexit.register  # when this is imported, so that whoever registered later has been asked before
def _end() -> None:
    """End a process that has a Ray it could not leave: its threads would crash the interpreter."""
    for leaving in _leaving:
        # Of who interrupted the leaving itself; the processes of a Ray here want to be ended.
        leaving.join(END_S)
    if any(leaving.is_alive() for leaving in _leaving):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)
