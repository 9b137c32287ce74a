"""The files of a corpus that is somewhere else: brought into the cache when they are asked for, or a little before."""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Condition, Thread

from cdgen.errors import CdgenError
from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.manifest import ManifestShard
from cdgen.storage import FileStamp
from cdgen.storage.cache import Cache, NoRoomError, Pin
from cdgen.storage.remote import PATIENT, PassingError, Remote, Retries, download

AHEAD_BYTES = 2 << 30
THREADS = 2
KEPT_INDEXES = 64
KEPT_WHEN_FULL = 4
"""Files handed out last, which their reader may be about to open: they stay when all others must give way."""
_HERE = Path()
_log = logging.getLogger("cdgen")

_Wanted = tuple[str, FileStamp]
"""(path in the corpus, what the manifest says of the file)."""


class CachedFiles:
    """`ShardFiles` of a remote corpus: every file whole, with the size and SHA-256 of the manifest, in a shared cache.

    What was handed out, or was brought ahead, stays in the cache until it is released, or until this process needs its
    room for another file: who opens a file at once, as a map, keeps it whatever happens to its name. Neither the state
    of the cache nor the threads change what a reader gets: they change when. A pickled copy, and a forked process,
    begin with nothing pinned and threads of their own.

    Args:
        remote: the corpus folder.
        cache: where its files are kept.
        threads: how many files are brought ahead at a time.
        ahead_bytes: how much is brought ahead at most; one file more than that may be under way.
        retries: what is done about faults that may pass.
    """

    def __init__(
        self,
        remote: Remote,
        cache: Cache,
        *,
        threads: int = THREADS,
        ahead_bytes: int = AHEAD_BYTES,
        retries: Retries = PATIENT,
    ) -> None:
        self.remote, self.cache = remote, cache
        self._threads, self._ahead_bytes, self._retries = threads, ahead_bytes, retries
        self._kept_state = _State()

    def __reduce__(self) -> tuple[object, ...]:
        again = partial(
            CachedFiles,
            threads=self._threads,
            ahead_bytes=self._ahead_bytes,
            retries=self._retries,
        )
        return again, (self.remote, self.cache)

    def shard(self, entry: ManifestShard) -> Path:
        """A shard's file; waits for it. BuildError if it cannot be had."""
        return self._handed_out(_shard(entry))

    def index(self, entry: ManifestShard) -> Path:
        """Its index, likewise; to be read at once: only the last few that were asked for are sure to stay."""
        path = self._handed_out(_index(entry))
        self._state.keep_indexes(entry.index.name)
        return path

    def ahead(self, entries: Sequence[ManifestShard]) -> None:
        """Bring these next, in this order, in place of what was to come; returns at once."""
        state = self._state
        with state.lock:
            due = list(_bounded(entries, self._ahead_bytes))
            stale = state.brought.keys() - {stamp.name for _, stamp in due}
            for name in stale:
                state.brought.pop(name).close()
            here = state.brought.keys() | state.used.keys() | state.under_way
            state.unwanted -= {stamp.name for _, stamp in due}
            state.due = deque(wanted for wanted in due if wanted[1].name not in here)
            missing = min(self._threads, len(state.due)) - state.num_threads
            state.num_threads += max(0, missing)
        for _ in range(missing):
            Thread(target=self._bring, args=(state,), name="cdgen-ahead", daemon=True).start()

    def release(self, entries: Iterable[ManifestShard]) -> None:
        """These are not needed any more: the cache may delete them to make room. A map that is open stays valid."""
        state = self._state
        names = {name for entry in entries for name in (entry.name, entry.index.name)}
        with state.lock:
            for pins in (state.used, state.brought):
                for name in names & pins.keys():
                    pins.pop(name).close()
            state.due = deque(wanted for wanted in state.due if wanted[1].name not in names)
            state.unwanted |= names & state.under_way

    @property
    def _state(self) -> "_State":
        if self._kept_state.owner != os.getpid():
            self._kept_state = (
                _State()
            )  # after a fork: the parent's pins, lock and threads are not ours
        return self._kept_state

    def _handed_out(self, wanted: _Wanted) -> Path:
        state, name = self._state, wanted[1].name
        with state.lock:
            pin = state.used.get(name) or state.brought.pop(name, None)
            if pin is not None:
                state.used.pop(name, None)
                state.used[name] = pin  # the one handed out last is at the end
                return pin.path
        try:
            pin = self._pinned(wanted)
        except NoRoomError:
            state.forget_ahead()  # what is needed now goes before what may be needed later,
            state.give_way()  # and before what was read already: its maps stay valid, and it can be had again
            pin = self._retries.run(partial(self._pinned_in_turn, state, wanted), name)
        return state.keep(pin, name, state.used)

    def _pinned(self, wanted: _Wanted) -> Pin:
        path, stamp = wanted
        fetch = partial(download, self.remote, path, stamp, retries=self._retries)
        return self.cache.get(stamp, fetch)

    def _pinned_in_turn(self, state: "_State", wanted: _Wanted) -> Pin:
        """The file; PassingError while only what other processes use is in the way: they go on, and release it."""
        try:
            return self._pinned(wanted)
        except NoRoomError as error:
            if not self.cache.may_hold(state.num_used_bytes() + wanted[1].num_bytes):
                raise
            raise PassingError(str(error)) from None

    def _bring(self, state: "_State") -> None:
        """A thread: bring what is due, until nothing is. Who asks for a file that failed here meets the fault."""
        while True:
            with state.lock:
                if not state.due:
                    state.num_threads -= 1
                    state.lock.notify_all()
                    return
                wanted = state.due.popleft()
                state.under_way.add(wanted[1].name)
            try:
                pin = self._pinned(wanted)
            except CdgenError as error:
                _log.debug("not brought ahead: %s", error)
                state.failed(wanted[1].name, is_full=isinstance(error, NoRoomError))
            else:
                state.arrived(pin, wanted[1].name)


class _State:
    """What one process holds. `lock` guards all of it, and is never held while a file is brought."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.lock = Condition()
        self.used: dict[str, Pin] = {}
        """By file name: handed out, and not released."""
        self.brought: dict[str, Pin] = {}
        """Brought ahead, and not yet asked for."""
        self.indexes: dict[str, None] = {}
        """Names of the indexes in `used`, the one asked for last at the end."""
        self.due: deque[_Wanted] = deque()
        self.under_way: set[str] = set()
        """Names of what threads bring."""
        self.unwanted: set[str] = set()
        """Of those: released before they arrived."""
        self.num_threads = 0

    def keep(self, pin: Pin, name: str, pins: dict[str, Pin]) -> Path:
        """Note a new pin, or let it go where the file is pinned already."""
        with self.lock:
            if name in self.used:
                pin.close()
                return self.used[name].path
            pins[name] = pin
            return pin.path

    def arrived(self, pin: Pin, name: str) -> None:
        """Note what was brought ahead, unless it was released meanwhile."""
        with self.lock:
            self.under_way.discard(name)
            if name in self.unwanted:
                self.unwanted.discard(name)
                pin.close()
            else:
                self.keep(pin, name, self.brought)

    def failed(self, name: str, *, is_full: bool) -> None:
        """Note that a file was not brought; nothing more is, where there is no room."""
        with self.lock:
            self.under_way.discard(name)
            self.unwanted.discard(name)
            if is_full:
                self.due.clear()

    def keep_indexes(self, name: str) -> None:
        """Note that an index was handed out, and let the oldest go: a look into every one must not pin them all."""
        with self.lock:
            self.indexes.pop(name, None)
            self.indexes[name] = None
            while len(self.indexes) > KEPT_INDEXES:
                oldest = next(iter(self.indexes))
                del self.indexes[oldest]
                if oldest in self.used:
                    self.used.pop(oldest).close()

    def give_way(self) -> None:
        """Let go of all but the last few handed out: a reader that keeps its windows must not fill the cache."""
        with self.lock:
            for name in list(self.used)[:-KEPT_WHEN_FULL]:
                self.used.pop(name).close()

    def num_used_bytes(self) -> int:
        """Of what was handed out and not released."""
        with self.lock:
            return sum(pin.num_bytes for pin in self.used.values())

    def forget_ahead(self) -> None:
        """Give up what was brought, or is due, and not asked for; waits for what is under way."""
        with self.lock:
            self.due.clear()
            self.lock.wait_for(lambda: self.num_threads == 0)
            while self.brought:
                self.brought.popitem()[1].close()


def _shard(entry: ManifestShard) -> _Wanted:
    stamp = FileStamp(name=entry.name, sha256=entry.sha256, num_bytes=entry.num_bytes)
    return shard_path(_HERE, entry.name).as_posix(), stamp


def _index(entry: ManifestShard) -> _Wanted:
    return index_path(_HERE, entry.name).as_posix(), entry.index


def _bounded(entries: Iterable[ManifestShard], most_bytes: int) -> Iterator[_Wanted]:
    """The files of the entries, indexes first, up to the first that passes the bound."""
    total = 0
    for entry in entries:
        for wanted in (_index(entry), _shard(entry)):
            total += wanted[1].num_bytes
            if total > most_bytes:
                return
            yield wanted
