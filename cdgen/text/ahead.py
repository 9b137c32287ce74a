"""Work done ahead of its use: an iterator runs in a thread, a few items in front of the one who reads it."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
_WAIT_S = 0.1


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T]:
    """The same items in the same order, made in a thread of their own, at most `depth` of them waiting.

    An error in `items` is raised where it would have been without the thread. When the reader stops early, the thread
    ends before the generator is closed, and a generator that it ran is closed too.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None, bool]] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_work, args=(items, waiting, stop), daemon=True)
    thread.start()
    try:
        while True:
            item, error, more = waiting.get()
            if error is not None:
                raise error
            if not more:
                return
            yield item
    finally:
        stop.set()
        thread.join()


def _work(
    items: Iterable[T],
    waiting: "queue.Queue[tuple[Any, BaseException | None, bool]]",
    stop: threading.Event,
) -> None:
    def put(entry: tuple[Any, BaseException | None, bool]) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                waiting.put(entry, timeout=_WAIT_S)
                return

    try:
        _drain(items, put, stop)
    except BaseException as error:  # noqa: BLE001 - raised again in the thread that reads
        put((None, error, False))
    else:
        put((None, None, False))


def _drain(items: Iterable[T], put: Callable[[Any], None], stop: threading.Event) -> None:
    iterator = iter(items)
    try:
        for item in iterator:
            put((item, None, True))
            if stop.is_set():
                return
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
