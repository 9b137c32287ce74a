"""A cache of downloaded files that processes share: every file under its SHA-256, complete or not there.

What a process uses it pins: an open descriptor with a shared flock on the file itself, which the system takes back when
the process dies, however it dies. Who downloads holds the temporary file exclusively, and the others wait for it; what
a killed one left is begun anew. Who makes room deletes the files unused for longest, none that is pinned.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import RawIOBase
from pathlib import Path
from typing import Self

from cdgen.errors import BuildError, UsageError
from cdgen.storage.files import TEMPORARY_PREFIX
from cdgen.storage.receipts import FileStamp

LIMIT_VARIABLE = "CDGEN_CACHE_LIMIT"
ENTRY = re.compile(r"([0-9a-f]{64})-([A-Za-z0-9][A-Za-z0-9._-]{0,160})")
"""The name of a cached file: its SHA-256, then the name it had."""

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kMGT]?)(i?)B?\s*")
_held: set[int] = set()
"""Descriptors with locks: a forked child closes its copies, or they would hold on after the parent let go."""


class NoRoomError(BuildError):
    """What is in use leaves no room under the limit."""


@dataclass(eq=False, slots=True)
class Pin:
    """A file of the cache that no process deletes until `close`, or until this process ends."""

    path: Path
    num_bytes: int
    _descriptor: int
    _owner: int

    def close(self) -> None:
        """Let it go; a map of the file that is open stays valid."""
        if self._descriptor >= 0 and self._owner == os.getpid():
            _release(self._descriptor)
        self._descriptor = -1


@dataclass(frozen=True, slots=True)
class Cache:
    """The files in `folder`.

    Attributes:
        folder: made when the first file is wanted.
        limit_bytes: what all files together may take, those being downloaded included. None: $CDGEN_CACHE_LIMIT, or
            half of what the disk would have free without them.
    """

    folder: Path
    limit_bytes: int | None = None

    @classmethod
    def default(cls) -> Self:
        """The one of this user: `shards` in `default_cache()`."""
        return cls(default_cache() / "shards", limit_from_environment())

    def get(self, stamp: FileStamp, fetch: Callable[[RawIOBase], None]) -> Pin:
        """The file, pinned; where it is not cached, `fetch` writes it first.

        Args:
            stamp: the file.
            fetch: writes exactly its bytes, from the first one, or raises.

        Raises:
            NoRoomError: the limit is too small for what is in use.
            BuildError: the disk is full or cannot be locked; and what `fetch` raises.
        """
        _close_in_children()
        path = self.folder / f"{stamp.sha256}-{stamp.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                pin = _pinned(path, stamp.num_bytes) or self._downloaded(path, stamp, fetch)
                if pin is not None:
                    return pin
        except OSError as error:
            raise BuildError(
                f"cannot cache {stamp.name} in {self.folder}: {error.strerror or type(error).__name__}; "
                f"free some space, lower ${LIMIT_VARIABLE}, or name another disk with $CDGEN_CACHE"
            ) from error

    def may_hold(self, num_bytes: int) -> bool:
        """Whether files of so many bytes in all fit under the limit, if nothing else is in use."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return False  # whoever asks for a file is told why
        return num_bytes <= self._limit(sum(size for _, size, _ in self._files()))

    def delete(self, path: Path) -> bool:
        """Delete one of its files; False if a process uses it."""
        with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as descriptor:
            if descriptor is None:
                return False
            if _is_at(descriptor, path):
                path.unlink()
            return True

    def _downloaded(
        self, path: Path, stamp: FileStamp, fetch: Callable[[RawIOBase], None]
    ) -> Pin | None:
        """The file, downloaded by this process; None if another did it meanwhile: look again."""
        temporary = path.with_name(TEMPORARY_PREFIX + path.name)
        descriptor = _opened(temporary, os.O_RDWR | os.O_CREAT)
        kept = False
        try:
            if not _first(descriptor) or not _is_at(descriptor, temporary):
                return None
            try:
                if path.exists():  # made between our look and our lock
                    temporary.unlink()
                    return None
                self._reserve(descriptor, stamp.num_bytes, temporary)
                with os.fdopen(descriptor, "r+b", buffering=0, closefd=False) as file:
                    fetch(file)
                os.fsync(descriptor)
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            kept = _is_at(descriptor, path)  # a lock is changed by giving it up for an instant
            return Pin(path, stamp.num_bytes, descriptor, os.getpid()) if kept else None
        finally:
            if not kept:
                _release(descriptor)

    def _reserve(self, descriptor: int, num_bytes: int, temporary: Path) -> None:
        """Make room, and take it: from now on the empty file counts with its whole size."""
        with _locked(self.folder, fcntl.LOCK_EX):
            os.ftruncate(descriptor, 0)  # what a killed process had reserved
            self._make_room(num_bytes, besides=temporary)
            os.ftruncate(descriptor, num_bytes)

    def _make_room(self, num_bytes: int, besides: Path) -> None:
        """Delete what was unused for longest until `num_bytes` more fit; NoRoomError if they cannot."""
        files = sorted(self._files(besides), key=lambda file: file[0])
        used = sum(size for _, size, _ in files)
        limit = self._limit(used)
        for _, size, path in files:
            if used + num_bytes <= limit:
                break
            if self.delete(path):
                used -= size
        if used + num_bytes > limit:
            raise NoRoomError(
                f"the cache {self.folder} may hold {limit:,} bytes, {used:,} of them are in use, and {num_bytes:,} "
                f"more are needed at once: raise ${LIMIT_VARIABLE} (such as 200GB), or use windows of fewer shards"
            )

    def _limit(self, used: int) -> int:
        if self.limit_bytes is not None:
            return self.limit_bytes
        return (shutil.disk_usage(self.folder).free + used) // 2

    def _files(self, besides: Path | None = None) -> Iterator[tuple[int, int, Path]]:
        """(last use in ns, bytes, path) of every file but one, those being downloaded included."""
        for path in self.folder.iterdir():
            if path != besides:
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    yield stat.st_mtime_ns, stat.st_size, path


def default_cache() -> Path:
    """$CDGEN_CACHE, or the user's cache folder."""
    named = os.environ.get("CDGEN_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdgen"


def limit_from_environment() -> int | None:
    """$CDGEN_CACHE_LIMIT in bytes, None where it is not set; UsageError for what is no size."""
    named = os.environ.get(LIMIT_VARIABLE)
    if not named:
        return None
    found = _SIZE.fullmatch(named)
    if not found:
        raise UsageError(f"${LIMIT_VARIABLE} is {named[:40]!r}; a size such as 200GB is expected")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kMGT".index(found[2] or " "))


def _pinned(path: Path, num_bytes: int) -> Pin | None:
    """The file, pinned and marked as used now; None if it is not there, or not as long as it must be."""
    try:
        descriptor = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    kept = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_at(descriptor, path):
            return None
        if os.fstat(descriptor).st_size != num_bytes:  # not by us: we write to another name
            path.unlink(missing_ok=True)
            return None
        os.utime(descriptor)
        kept = True
        return Pin(path, num_bytes, descriptor, os.getpid())
    finally:
        if not kept:
            _release(descriptor)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[int | None]:
    """A descriptor with a lock on a file or folder; None if it is not there, or another has it (LOCK_NB)."""
    try:
        descriptor = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        _release(descriptor)


def _first(descriptor: int) -> bool:
    """Whether the lock of a download is ours now. If not, its holder is waited for: he ends, or shares what he made."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _opened(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    _held.add(descriptor)
    return descriptor


def _release(descriptor: int) -> None:
    """Unlock, for a copy in a child too, and close."""
    _held.discard(descriptor)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@cache
def _close_in_children() -> None:
    """Once per process."""
    os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    while _held:
        with suppress(OSError):
            os.close(_held.pop())
