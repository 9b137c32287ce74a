"""Jobs that tests have other processes do; light to import, since each of these does it anew."""

import os
import signal
import sys
import time
from pathlib import Path

from cdgen.errors import BuildError

WAIT_S = 30.0


def whose(number: int) -> tuple[int, int]:
    """The number, and the process that was asked for it."""
    return number, os.getpid()


def die_once(file: Path) -> int:
    """Kill the process that first does this; then the process's number."""
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def fail(what: str) -> None:
    """Raise what a damaged shard raises."""
    raise BuildError(what)


class OddError(Exception):
    """An error that cannot be sent."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)
        self.two = two


def fail_oddly() -> None:
    """Raise an error that another process cannot read."""
    raise OddError("one", "two")


def chatter() -> str:
    """Print, and read what is not there."""
    print("a library that talks")
    os.write(1, b"to the descriptor too\n")
    return sys.stdin.read()


def asleep(file: Path) -> None:
    """Say that it begins, and take for ever."""
    file.write_text(str(os.getpid()))
    time.sleep(WAIT_S)
