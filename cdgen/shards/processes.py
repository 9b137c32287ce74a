"""Shards are checked in several processes. They are spawned: a fork would copy the locks of Arrow's threads."""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait

from cdgen.errors import BuildError
from cdgen.shards.check_shard import Checked, Paths, Rules, check_shard

_AHEAD = 2
"""Shards for each process that are given out before the first of them is taken in: memory does not grow with all."""

_rules: Rules
"""Of a process that checks shards."""


def in_processes(todo: Iterable[Paths], rules: Rules, workers: int) -> Iterator[Checked]:
    """What is found in each shard, in the order in which they are given.

    After an interrupt the processes finish the shards that they check.

    Raises:
        BuildError: a process died.
    """
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(rules,)
    )
    given: deque[Future[Checked]] = deque()
    try:
        for paths in todo:
            with _no_interrupt():
                given.append(pool.submit(_check, paths))
            if len(given) > _AHEAD * workers:
                yield given.popleft().result()
        while given:
            yield given.popleft().result()
    except BrokenProcessPool:
        raise BuildError(
            "a process that checked shards died; if memory is short, use fewer: --workers 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """A process that starts now is never interrupted: it would print where, before it can say that it does not care."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(rules: Rules) -> None:
    global _rules  # noqa: PLW0603 - what a process is started with has nowhere else to be
    _rules = rules
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A process whose parent was killed would wait for its next shard for ever."""
    wait([parent])
    os._exit(1)


def _check(paths: Paths) -> Checked:
    return check_shard(paths, _rules)
