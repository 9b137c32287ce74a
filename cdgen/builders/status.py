"""How far a build is, read from outside: by another shell, or after a crash."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdgen.builders.events import Event, EventLog
from cdgen.builders.tally import Quarantined, Stand, Tally, WorkerStand, can_begin
from cdgen.errors import UsageError
from cdgen.storage import Holder, holder, parse_json, typed
from cdgen.storage.conditional import Objects
from cdgen.storage.lease import lease_holder
from cdgen.storage.remote import is_remote

STATUS = "work/status.json"
"""Of a build into an object store, written beside it from time to time: its events are on the builder's machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A build folder's state.

    Attributes:
        state: complete, running, failed (it gave up, and said why) or interrupted.
        holder: who builds in it now, or None.
        why: of a build that gave up, "" otherwise.
        stage: the last stage that was begun.
        done, total, unit: how far that stage is; total may be unknown.
        shards_done, shards_total: of the synthetic shards; 0 before they are planned.
        tokens_per_s, seconds_left: of decoding; 0 and None where it does not run.
        retries: jobs that were done again, by cause.
        quarantined: jobs that were set aside.
        workers: of a build on a cluster; as they were last seen.
        sent: by node, why the driver sent it a model that comes from a bucket.
        last_event_time: seconds since 1970, UTC.
    """

    folder: str
    recipe: str
    state: str
    holder: Holder | None
    why: str
    stage: str
    done: int
    total: int | None
    unit: str
    shards_done: int
    shards_total: int
    tokens_per_s: float
    seconds_left: float | None
    retries: dict[str, int]
    quarantined: tuple[Quarantined, ...]
    workers: tuple[WorkerStand, ...]
    last_event_time: float
    sent: dict[str, str] = field(default_factory=dict)


class Watch:
    """Reads a status again and again: first the end of a folder's log, then each time only what was added to it."""

    def __init__(self, folder: str | Path) -> None:
        remote = isinstance(folder, str) and is_remote(folder)
        self._objects = Objects(str(folder)) if remote else None
        self._out, self._events, self._tally = Path(folder), EventLog(Path(folder)), Tally()
        if self._objects is None:
            self._events.skip_to_last(can_begin, "build", "stand")

    def look(self) -> Status:
        """The status now; disturbs nobody.

        Raises:
            UsageError: no build was ever begun there.
        """
        if self._objects is not None:
            return _of_bucket(self._objects)
        self._add(self._events.new())
        stand = self._tally.stand()
        if not stand.begun:
            raise UsageError(
                f"{self._out}: no build was begun here; cdgen build RECIPE --out {self._out} begins one"
            )
        return status_of(str(self._out), stand, holder(self._out))

    def _add(self, events: Iterable[Event]) -> None:
        for event in events:
            self._tally.add(event)


def status(folder: str | Path) -> Status:
    """Read a folder's status; disturbs nobody. Raises: as `Watch.look`."""
    return Watch(folder).look()


def _of_bucket(objects: Objects) -> Status:
    """What the builder wrote there last, and whether it still holds the folder."""
    data, held = objects.read(STATUS), lease_holder(objects)
    where = f"{objects.where}/{STATUS}"
    if data is None:
        raise UsageError(
            f"{objects.where}: no build was begun here; cdgen build RECIPE --out {objects.where} begins one"
        )
    state: Status = typed(Status, parse_json(data, where), where)
    if state.state != "interrupted":  # it is over, and said so
        return replace(state, holder=held)
    return replace(state, holder=held, state="running" if held else "interrupted")


def status_of(where: str, stand: Stand, held: Holder | None) -> Status:
    """A build's state, of where it stands by its events and who holds its place."""
    state = (
        "complete"
        if stand.finished
        else "running"
        if held
        else "failed"
        if stand.failed
        else "interrupted"
    )
    running = state == "running"
    return Status(
        folder=where,
        recipe=stand.recipe,
        state=state,
        holder=held,
        why=stand.failed,
        stage=stand.stage,
        done=stand.done,
        total=stand.total,
        unit=stand.unit,
        shards_done=stand.shards_done,
        shards_total=stand.shards_total,
        tokens_per_s=stand.tokens_per_s if running else 0.0,
        seconds_left=stand.seconds_left if running else None,
        retries=stand.retries,
        quarantined=stand.quarantined,
        workers=stand.workers,
        sent=stand.sent,
        last_event_time=stand.last_event_time,
    )
