"""One builder per folder: a lock that the system frees when its holder dies, however it dies."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cdgen.errors import BuildError
from cdgen.storage.files import reading
from cdgen.storage.jsons import canonical_json, parse_json, typed

LOCK = Path("work/lock")

_TRIES = 10
_WAIT_S = 0.03
_held: set[int] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that builds in a folder now."""

    pid: int = 0
    host: str = "unknown"
    since: str = "unknown"
    """UTC, ISO 8601."""
    purpose: str = "unknown"


@contextmanager
def hold(folder: Path, purpose: str) -> Iterator[None]:
    """Be the only holder of `folder` while the block runs; the system frees it when this process dies.

    Raises:
        BuildError: another process holds it, or the folder or its file system cannot be locked.
    """
    pid = os.getpid()
    descriptor = _lock(folder)
    _held.add(descriptor)
    _close_in_children()
    try:
        record = Holder(pid=pid, host=socket.gethostname(), since=_now(), purpose=purpose)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, canonical_json(asdict(record)) + b"\n", 0)
        yield
    finally:
        if os.getpid() == pid:  # a forked child that gets here must not free its parent's lock
            _held.discard(descriptor)
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)


def holder(folder: Path) -> Holder | None:
    """Who holds `folder` now, or None."""
    path = folder / LOCK
    if not path.is_file():
        return None
    with reading(path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read_holder(path)
    else:
        return None
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """The descriptor of the folder's lock, taken."""
    path = folder / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise BuildError(f"cannot lock {folder}: {error.strerror}") from error
    try:
        if _taken(descriptor):
            return descriptor
        who = _read_holder(path)
        message = (
            f"{folder} is held by process {who.pid} on {who.host} since {who.since} ({who.purpose}): "
            f"wait for it, stop it (kill {who.pid}), or choose another folder with --out"
        )
    except OSError as error:
        message = (
            f"cannot lock {folder}: {error.strerror}: choose a folder on a local disk with --out"
        )
    os.close(descriptor)
    raise BuildError(message)


def _taken(descriptor: int) -> bool:
    """Try for a moment to take the lock: a `holder` that looks has it for an instant."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_WAIT_S)
        else:
            return True
    return False


@cache
def _close_in_children() -> None:
    """Let no forked worker that outlives the builder keep its lock. Once per process."""
    os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    while _held:
        with suppress(OSError):
            os.close(_held.pop())


def _read_holder(path: Path) -> Holder:
    try:
        holder: Holder = typed(Holder, parse_json(path.read_bytes(), path), str(path))
    except (BuildError, OSError):
        return Holder()  # it has only just taken the lock
    return holder


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
