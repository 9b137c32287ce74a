"""From a build's events to where it stands: one pass, in memory that grows with the workers and never with the shards.

What a runner with workers writes, beside what every build does (`build`, `start`, `progress`, `end`, `plan`, `shard`,
`built`):

    worker       {worker, node, state, why}          state: one of STATES; one event a change
    job          {shard, worker, speculative}        a worker began it
    sent         {worker, node, why}                 a model that its bucket did not give that node; once a node
    drawn        {workers: {worker: tokens}}         tokens that each has drawn since it joined, from time to time
    shard        {name, tokens, worker}              finished; the first copy only
    retry        {shard, worker, cause, attempt, why}    cause: death, error or memory; the job is done again
    quarantined  {shard, attempts, why}              the job is set aside, and the build will fail
    failed       {why}                               the build gave up
    stand        {state}                             all that the events before it come to: a reader may begin here

A log is believed no further than it can be read: lines may be cut or missing, and clocks jump. An event or a field
that makes no sense is left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cdgen.errors import BuildError
from cdgen.storage import typed

STATES = ("joined", "draining", "left", "dead", "refused")
"""Of a worker. It works while joined; draining, it finishes what it began."""
_ALIVE = ("joined", "draining")
WINDOW_S = 60.0
"""Over which speeds are taken."""

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStand:
    """One worker.

    Attributes:
        name, node: what it is called, and where it runs.
        state: one of STATES.
        shard: what it works on, "" when it works on nothing.
        num_shards, num_tokens: finished, drawn.
        tokens_per_s: over the last minute; 0 for one that does not work.
        num_retries: jobs that were begun here and had to be done again.
        why: what is known of its end.
    """

    name: str
    node: str = ""
    state: str = "joined"
    shard: str = ""
    num_shards: int = 0
    num_tokens: int = 0
    tokens_per_s: float = 0.0
    num_retries: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A job that was set aside."""

    shard: str
    attempts: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where a build stands.

    Attributes:
        recipe: its name.
        begun: whether a build was ever begun.
        finished: whether it wrote its manifest.
        failed: why it gave up, "" if it did not.
        stage, done, total, unit: the newest stage; the total may be unknown.
        shards_done, shards_total: of the synthetic shards; 0 before they are planned.
        tokens_per_s: of all workers, or of the one process.
        seconds_left: of decoding, None where it cannot be told.
        retries: by cause.
        workers: every one that ever joined, the working ones first.
        sent: by node, why the driver sent it a model that comes from a bucket.
        last_event_time: seconds since 1970.
    """

    recipe: str = ""
    begun: bool = False
    finished: bool = False
    failed: str = ""
    stage: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""
    shards_done: int = 0
    shards_total: int = 0
    tokens_per_s: float = 0.0
    seconds_left: float | None = None
    retries: dict[str, int] = field(default_factory=dict)
    quarantined: tuple[Quarantined, ...] = ()
    workers: tuple[WorkerStand, ...] = ()
    sent: dict[str, str] = field(default_factory=dict)
    last_event_time: float = 0.0

    @property
    def num_working(self) -> int:
        """Workers that are there."""
        return sum(worker.state in _ALIVE for worker in self.workers)

    @property
    def num_dead(self) -> int:
        """Workers that died."""
        return sum(worker.state == "dead" for worker in self.workers)


@dataclass(slots=True)
class Speed:
    """Units per second over the last minute, from running totals. A clock that goes back starts it anew."""

    times: tuple[float, ...] = ()
    totals: tuple[int, ...] = ()

    def add(self, time_s: float, total: int) -> None:
        """So much at that time."""
        if self.times and (time_s < self.times[-1] or total < self.totals[-1]):
            self.times = self.totals = ()
        self.times, self.totals = (*self.times, time_s), (*self.totals, total)
        while len(self.times) > 2 and time_s - self.times[1] >= WINDOW_S:
            self.times, self.totals = self.times[1:], self.totals[1:]

    def per_s(self) -> float:
        """0 until there are two times to compare."""
        if len(self.times) < 2 or self.times[-1] <= self.times[0]:
            return 0.0
        return (self.totals[-1] - self.totals[0]) / (self.times[-1] - self.times[0])


@dataclass(slots=True)
class _Worker:
    node: str = ""
    state: str = "joined"
    shard: str = ""
    num_shards: int = 0
    num_tokens: int = 0
    num_retries: int = 0
    why: str = ""
    speed: Speed = field(default_factory=Speed)


@dataclass(slots=True)
class _Stage:
    name: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""
    speed: Speed = field(default_factory=Speed)


@dataclass(slots=True)
class _State:
    """All that is kept of a build's events; as JSON, an event of its own."""

    recipe: str = ""
    begun: bool = False
    finished: bool = False
    failed: str = ""
    stage: _Stage = field(default_factory=_Stage)
    shards_done: int = 0
    shards_total: int = 0
    workers: dict[str, _Worker] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, Quarantined] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    time: float = 0.0


class Tally:
    """Adds events up, oldest first. A new build in the same log begins it anew."""

    def __init__(self) -> None:
        self._state = _State()

    @property
    def begun(self) -> bool:
        """Whether a build was begun."""
        return self._state.begun

    def add(self, event: Event) -> None:
        """Take one event into account."""
        name, state = event.get("event"), self._state
        if name == "build":
            state = self._state = _State(recipe=_text(event, "recipe"), begun=True)
        elif name == "stand":
            self._state = _restored(event) or state
            return
        elif not state.begun:
            return
        state.time = _number(event, "time", state.time)
        act = getattr(self, f"_on_{name}", None) if isinstance(name, str) else None
        if act is not None:
            act(event)

    def kept(self) -> dict[str, Any]:
        """What an event `stand` says of all that was added: added to a new tally, it gives this one."""
        return {"state": asdict(self._state)}

    def stand(self) -> Stand:
        """Where the build stands by what was added."""
        stage, working = (
            self._state.stage,
            [w for w in self._state.workers.values() if w.state in _ALIVE],
        )
        speed = sum(worker.speed.per_s() for worker in working) if working else 0.0
        if not self._state.workers and stage.name == "decode":
            speed = stage.speed.per_s()
        return Stand(
            recipe=self._state.recipe,
            begun=self._state.begun,
            finished=self._state.finished,
            failed=self._state.failed,
            stage=stage.name,
            done=stage.done,
            total=stage.total,
            unit=stage.unit,
            shards_done=self._state.shards_done,
            shards_total=self._state.shards_total,
            tokens_per_s=0.0 if self._state.finished else speed,
            seconds_left=self._seconds_left(speed),
            retries=dict(sorted(self._state.retries.items())),
            quarantined=tuple(self._state.quarantined.values()),
            workers=tuple(sorted(map(_stand, self._state.workers.items()), key=_working_first)),
            sent=dict(self._state.sent),
            last_event_time=self._state.time,
        )

    def _seconds_left(self, speed: float) -> float | None:
        stage = self._state.stage
        if stage.name != "decode" or stage.total is None or speed <= 0 or self._state.finished:
            return None
        return max(0, stage.total - stage.done) / speed

    def _worker(self, event: Event) -> _Worker | None:
        name = _text(event, "worker")
        return self._state.workers.setdefault(name, _Worker()) if name else None

    # ---- one method an event ----

    def _on_start(self, event: Event) -> None:
        self._state.stage = _Stage(_text(event, "stage"), 0, _total(event), _text(event, "unit"))

    def _on_progress(self, event: Event) -> None:
        name, stage = _text(event, "stage"), self._state.stage
        if name != stage.name:  # its beginning is not in the log
            stage = self._state.stage = _Stage(name, 0, _total(event), _text(event, "unit"))
        stage.done = _count(event, "done", stage.done)
        stage.speed.add(self._state.time, stage.done)

    _on_end = _on_progress

    def _on_plan(self, event: Event) -> None:
        self._state.shards_total, self._state.shards_done = (
            _count(event, "shards"),
            _count(event, "done"),
        )

    def _on_shard(self, event: Event) -> None:
        self._state.shards_done += 1
        worker = self._worker(event)
        if worker is not None:
            worker.num_shards += 1
            if worker.shard == _text(event, "name"):
                worker.shard = ""

    def _on_worker(self, event: Event) -> None:
        worker, state = self._worker(event), _text(event, "state")
        if worker is None or state not in STATES:
            return
        worker.state = state
        worker.node = _text(event, "node") or worker.node
        worker.why = _text(event, "why")
        if state not in _ALIVE:
            worker.shard, worker.speed = "", Speed()

    def _on_job(self, event: Event) -> None:
        worker = self._worker(event)
        if worker is not None:
            worker.shard = _text(event, "shard")

    def _on_sent(self, event: Event) -> None:
        self._state.sent[_text(event, "node")] = _text(event, "why")

    def _on_drawn(self, event: Event) -> None:
        totals = event.get("workers")
        if not isinstance(totals, dict):
            return
        for name in totals:
            worker = self._state.workers.setdefault(str(name), _Worker())
            worker.num_tokens = _count(totals, name, worker.num_tokens)
            if worker.state in _ALIVE:
                worker.speed.add(self._state.time, worker.num_tokens)

    def _on_retry(self, event: Event) -> None:
        retries, cause = self._state.retries, _text(event, "cause") or "error"
        retries[cause] = retries.get(cause, 0) + 1
        worker = self._worker(event)
        if worker is not None:
            worker.num_retries += 1
            worker.shard = ""

    def _on_quarantined(self, event: Event) -> None:
        shard = _text(event, "shard")
        self._state.quarantined[shard] = Quarantined(
            shard=shard, attempts=_count(event, "attempts"), why=_text(event, "why")
        )

    def _on_failed(self, event: Event) -> None:
        self._state.failed = _text(event, "why") or "no reason was noted"

    def _on_built(self, _: Event) -> None:
        self._state.finished = True


def tally(events: Iterable[Event]) -> Stand:
    """Where the last build in these events, oldest first, stands."""
    counted = Tally()
    for event in events:
        counted.add(event)
    return counted.stand()


def can_begin(event: Event) -> bool:
    """Whether nothing that was logged before this event matters to a tally."""
    return event.get("event") == "build" or _restored(event) is not None


def _restored(event: Event) -> _State | None:
    """What an event `stand` says; None of anything else, or if it makes no sense."""
    if event.get("event") != "stand":
        return None
    try:
        found: _State = typed(_State, event.get("state"), "stand")
    except BuildError:
        return None
    speeds = (found.stage.speed, *(worker.speed for worker in found.workers.values()))
    return found if all(len(speed.times) == len(speed.totals) for speed in speeds) else None


def _stand(item: tuple[str, _Worker]) -> WorkerStand:
    name, worker = item
    return WorkerStand(
        name=name,
        node=worker.node,
        state=worker.state,
        shard=worker.shard,
        num_shards=worker.num_shards,
        num_tokens=worker.num_tokens,
        tokens_per_s=worker.speed.per_s(),
        num_retries=worker.num_retries,
        why=worker.why,
    )


def _working_first(worker: WorkerStand) -> tuple[bool, tuple[str, int, str]]:
    """By name, w-10 after w-9."""
    stem = worker.name.rstrip("0123456789")
    number = worker.name[len(stem) :]
    return worker.state not in _ALIVE, (stem, int(number[:18] or 0), worker.name)


def _text(event: Event, name: str) -> str:
    value = event.get(name)
    return value if isinstance(value, str) else ""


def _count(event: Event, name: str, otherwise: int = 0) -> int:
    value = event.get(name)
    return value if type(value) is int and value >= 0 else otherwise


def _total(event: Event) -> int | None:
    value = event.get("total")
    return value if type(value) is int and value >= 0 else None


def _number(event: Event, name: str, otherwise: float) -> float:
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        return otherwise
    return float(value)
