"""Jobs in processes beside this one: plain children that are asked and answer through their pipes.

Not `multiprocessing`: its children begin with the caller's own script once more, which a script must be written for,
and outlive a caller that is killed. A child here imports what its jobs need and nothing else, and ends when its pipe
does, however its parent went.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self, TypeVar

T = TypeVar("T")

_PACKAGE = Path(__file__).resolve().parent
BESIDE = 19
"""The niceness of a child whose parent works too: the processor is its parent's first."""
_WAITING = 2
"""Jobs of a `map` that are handed out beyond those in work."""


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Processes:
    """Some processes that do jobs, begun when they are needed; a context manager, which ends them.

    A job is a function of a module and its arguments, both of which can be pickled, and gives the same whenever and
    wherever it is done: one whose process dies is done in this one.

    Args:
        number: of processes; 0 does each job here, when it is asked for.
        niceness: of the processes; 0 where this one only waits for them.
    """

    def __init__(self, number: int, *, niceness: int = BESIDE) -> None:
        self.number, self._niceness = number, niceness
        self._threads = (
            ThreadPoolExecutor(number, thread_name_prefix="cdgen-beside") if number else None
        )
        self._mine = threading.local()
        self._children: list[_Child] = []
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def submit(self, job: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Have a job done; what it raises is raised by the future."""
        if self._threads is not None:
            return self._threads.submit(self._do, job, *arguments)
        done: Future[T] = Future()
        try:
            done.set_result(job(*arguments))
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            done.set_exception(error)
        return done

    def map(self, job: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """The results in order; few jobs more than there are processes wait or are done at a time."""
        todo, doing = iter(arguments), deque[Future[T]]()
        while True:
            while len(doing) < self.number + _WAITING:
                some = next(todo, None)
                if some is None:
                    break
                doing.append(self.submit(job, *some))
                if not self.number:
                    break  # done already: its result first
            if not doing:
                return
            yield doing.popleft().result()

    def close(self) -> None:
        """End the processes, whatever they do; jobs that were not begun are not done."""
        self._ended = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.kill()
        if self._threads is not None:
            self._threads.shutdown()

    def _do(self, job: Callable[..., T], *arguments: Any) -> T:
        """In a thread: have the thread's own child do a job."""
        child: _Child | None = getattr(self._mine, "child", None)
        try:
            if child is None:
                child = self._mine.child = _Child(self._niceness)
                self._children.append(child)
            if self._ended:  # begun while the others were ended
                child.kill()
            done: T = child.ask(job, arguments)
        except _DiedError:
            self._mine.child = None
            if self._ended:
                raise
            return job(*arguments)
        return done


class _DiedError(Exception):
    """A child is gone."""


class _Child:
    """One process. What it says goes where this process's errors go."""

    def __init__(self, niceness: int) -> None:
        # Its own group: Ctrl-C is its parent's business. Not -m from the folder of whoever calls: that may hold a
        # numpy.py (-P), and this very package is to be found (PYTHONPATH).
        path = os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH"))))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(niceness)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                process_group=0,
            )
        except OSError as error:
            raise _DiedError(str(error)) from None

    def ask(self, job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What a job returns, or raises. Raises _DiedError."""
        question = pickle.dumps((job, arguments), pickle.HIGHEST_PROTOCOL)
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(question)
            self._process.stdin.flush()
            result, error = pickle.load(self._process.stdout)  # noqa: S301 - our own child's
        except Exception as lost:  # noqa: BLE001 - its end, or an answer that cannot be read
            self.kill()
            raise _DiedError(str(lost)) from None
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        """End it now; its pipes are closed by whoever reads them."""
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """In a child: do jobs until there are no more."""
    while True:
        try:
            job, arguments = pickle.load(questions)  # noqa: S301 - our own parent's
        except EOFError:
            return
        answers.write(_answer(job, arguments))
        answers.flush()


def _answer(job: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    try:
        return pickle.dumps((job(*arguments), None), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 - raised by the parent
        return pickle.dumps((None, error), pickle.HIGHEST_PROTOCOL)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(int(sys.argv[1]))
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:  # a job that reads must not eat the questions
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what libraries print is no answer
    with suppress(BrokenPipeError, KeyboardInterrupt):
        _serve(questions, answers)


if __name__ == "__main__":
    _main()
