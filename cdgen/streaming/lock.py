"""A lock that a forked process has anew."""

import os
from threading import RLock
from typing import Any
from weakref import WeakSet


class Lock:
    """An RLock. In a forked process nobody holds it: a thread that held it stayed in the parent.

    Without that, workers that are forked while a loader's thread reads would wait for ever. What the thread was about
    to change are caches, a step of Python at a time. A pickled copy is a lock of its own.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return Lock, ()

    def renew(self) -> None:
        """Nobody holds it from now on."""
        self._lock = RLock()


_LOCKS: WeakSet[Lock] = WeakSet()


def _renew_all() -> None:
    for lock in _LOCKS:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
