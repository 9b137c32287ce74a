"""One builder per folder of an object store: a lease, an object that its holder renews and whose renewals end with it.

Every write of it is conditional: it is made only where there is none, and written over only as it was last seen. So of
two that try, the store lets one through. How old a lease is, is told by the store's own clock alone: those of the
machines need not agree.
"""

import contextlib
import hashlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cdgen.errors import BuildError
from cdgen.storage.conditional import IgnoredError, Objects, check_conditions
from cdgen.storage.drivers import Stored
from cdgen.storage.jsons import canonical_json, parse_json, typed
from cdgen.storage.locks import Holder
from cdgen.storage.remote import Retries

LEASE = "work/lease.json"
TERM_S = 60.0
"""A lease that was not renewed for so long is anybody's. Renewed three times in this time."""
_CLOCK_S = 1.0
"""Stores tell times in whole seconds, so an age may be told too high by almost this."""
LEAVE_S = 5.0
"""How long a builder that is done waits for a renewal that is under way."""


class LeaseLostError(BuildError):
    """Another builder may be in the folder by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the object says: who holds the folder, and which of their renewals this is."""

    token: str
    machine: str
    pid: int
    host: str
    since: str
    """UTC, ISO 8601."""
    purpose: str
    term_s: float
    number: int = 0
    released: bool = False

    def is_over(self, age_s: float) -> bool:
        """Whether nobody holds it any more: given back, not renewed, or of a process of this machine that is gone."""
        return self.released or age_s > self.term_s + _CLOCK_S or self._is_dead_here()

    def _is_dead_here(self) -> bool:
        if self.machine != this_machine() or self.pid == os.getpid():
            return False
        return not Path(f"/proc/{self.pid}").exists()

    @property
    def holder(self) -> Holder:
        """Who, for messages."""
        return Holder(pid=self.pid, host=self.host, since=self.since, purpose=self.purpose)


@dataclass(slots=True)
class Held:
    """A lease of ours, kept alive by a thread."""

    objects: Objects
    lease: Lease
    version: str
    clock: Callable[[], float]
    renewed_at: float = 0.0
    """When the last renewal that the store took was begun, by `clock`."""
    tried: int = 0
    """The number of the last renewal that was begun: one that seemed to fail may have been taken."""
    lost: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None
    """That renews it."""

    def check(self) -> None:
        """Raises LeaseLostError."""
        if not self.lost and self.clock() - self.renewed_at > self.lease.term_s:
            self.lost = f"it could not be renewed for {self.lease.term_s:.0f} s"
        if self.lost:
            raise LeaseLostError(
                f"{self.objects.where}: this build lost its lease: {self.lost}; it has stopped, and nothing is lost: "
                "the same command goes on once the folder is free"
            )

    def confirm(self) -> None:
        """Renew now, and `check`: before something is written over. Raises BuildError."""
        self.renew()
        self.check()

    def keep(self) -> None:
        """Renew until told to stop."""
        wait_s = self.lease.term_s / 3
        while not self.stop.wait(wait_s) and not self.lost:
            try:
                self.renew()
                wait_s = self.lease.term_s / 3
            except BuildError:  # `check` says so once the term is over
                wait_s = self.lease.term_s / 12

    def begin(self) -> None:
        """Have it kept."""
        self.objects = replace(self.objects, retries=self.objects.retries.until(self.stop))
        self.thread = threading.Thread(target=self.keep, name="cdgen-lease", daemon=True)
        self.thread.start()

    def leave(self, *, retries: Retries) -> None:
        """Give it back; where the store does not answer, it ends by itself."""
        self.stop.set()
        if self.thread is not None:
            self.thread.join(LEAVE_S)
            if self.thread.is_alive():
                return
        if not self.lost:
            self.objects = replace(self.objects, retries=retries)
            with contextlib.suppress(BuildError):
                self.renew(released=True)

    def renew(self, *, released: bool = False) -> None:
        """Write the next number; `lost` says why where that cannot be. Raises BuildError: the store does not answer."""
        with self.one_at_a_time:
            self._renew(released=released)

    def _renew(self, *, released: bool) -> None:
        begun = self.clock()
        self.tried += 1
        lease = replace(self.lease, number=self.tried, released=released)
        version = _written(self.objects, lease, self.version)
        if version is not None:
            self.lease, self.version, self.renewed_at = lease, version, begun
            return
        now = _read(self.objects)
        if now is not None and now[0].token == self.lease.token:
            # An earlier renewal, which we had given up: it says nothing of now, but it is what there is to write over.
            self.version = now[1].version
            self._renew(released=released)
            return
        who = "it is gone" if now is None else _who(now[0].holder)
        self.lost = f"another build has taken it: {who}"


@contextmanager
def leased(
    objects: Objects,
    purpose: str,
    *,
    term_s: float = TERM_S,
    clock: Callable[[], float] | None = None,
) -> Iterator[Held]:
    """Be the only builder in a folder of a store while the block runs.

    Args:
        objects: the folder.
        purpose: what is done, for whoever is refused.
        term_s: how long a holder that is not heard of keeps it.
        clock: seconds; goes on while the machine sleeps.

    Yields:
        What is held, whose `check` is to be called now and then: LeaseLostError once another one may be in.

    Raises:
        BuildError: somebody holds it, or the store does not keep to conditions.
    """
    held = _taken(objects, purpose, term_s, clock or _awake_or_not)
    try:
        check_conditions(objects, LEASE, held.version)
        held.begin()
        yield held
        held.check()
    except IgnoredError:
        raise  # and the object is gone
    except BaseException:
        # Somebody may be waiting for this process to end.
        held.leave(retries=replace(objects.retries, tries=1))
        raise
    held.leave(retries=objects.retries)


def lease_holder(objects: Objects) -> Holder | None:
    """Who builds there now, or None."""
    found = _read(objects)
    return None if found is None or found[0].is_over(found[1].age_s) else found[0].holder


def _taken(objects: Objects, purpose: str, term_s: float, clock: Callable[[], float]) -> Held:
    """The lease, taken: made, or written over one that is over."""
    begun, found = clock(), _read(objects)
    if found is not None and not found[0].is_over(found[1].age_s):
        raise BuildError(_refusal(objects, *found))
    lease = Lease(
        token=secrets.token_hex(16),
        machine=this_machine(),
        pid=os.getpid(),
        host=socket.gethostname(),
        since=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        purpose=purpose,
        term_s=term_s,
    )
    version = _written(objects, lease, found[1].version if found else None)
    if version is None:
        now = _read(objects)
        raise BuildError(_refusal(objects, *now) if now else f"{objects.where}: try again")
    return Held(objects, lease, version, clock, begun)


def _written(objects: Objects, lease: Lease, version: str | None) -> str | None:
    """Write a lease over the version that was seen; its new version, or None where another one was first."""
    note = canonical_json(asdict(lease)).decode()
    data = canonical_json({"format": 1, **asdict(lease)}) + b"\n"
    if version is None:
        objects.create(LEASE, data, note=note)
    else:
        objects.replace(LEASE, data, version, note=note)
    # Whether or not an answer was lost on the way: what is there now tells.
    now = _read(objects)
    return now[1].version if now is not None and now[0] == lease else None


def _read(objects: Objects) -> tuple[Lease, Stored] | None:
    """The lease, from what the store tells of its object: version, age and content are of one moment."""
    stored = objects.stat(LEASE)
    if stored is None:
        return None
    where = f"{objects.where}/{LEASE}"
    try:
        return typed(Lease, parse_json(stored.note.encode(), where), where), stored
    except BuildError:
        raise BuildError(
            f"{where}: is not a lease of this cdgen; if no build runs there, delete this object"
        ) from None


def _refusal(objects: Objects, lease: Lease, stored: Stored) -> str:
    left_s = max(1.0, lease.term_s - stored.age_s)
    return (
        f"{objects.where} is held by {_who(lease.holder)}: wait for it, stop it, or choose another folder with --out; "
        f"if it is dead, its lease ends in {left_s:.0f} s"
    )


def _who(who: Holder) -> str:
    return f"process {who.pid} on {who.host} since {who.since} ({who.purpose})"


def this_machine() -> str:
    """One name per set of process ids: of this boot, and of this container."""
    facts = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        known = f"{facts[0].read_text()}{facts[1].readlink()}"
    except OSError:
        return secrets.token_hex(8)  # none that another process would recognise
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def _awake_or_not() -> float:
    """Seconds, those included in which this machine slept and could not renew anything."""
    which = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(which)
