"""From a build's events to where it stands: one pass, in memory that grows with the workers and never with the shards.

What a runner with workers writes, beside what every build does (`build`, `start`, `progress`, `end`, `plan`, `shard`,
`built`):

    worker       {worker, node, state, why}          state: one of STATES; one event a change
    job          {shard, worker, speculative}        a worker began it
    drawn        {workers: {worker: tokens}}         tokens that each has drawn since it joined, about every two seconds
    shard        {name, tokens, worker}              finished; the first copy only
    retry        {shard, worker, cause, attempt, why}    cause: death, error or memory; the job is done again
    quarantined  {shard, attempts, why}              the job is set aside, and the build will fail
    failed       {why}                               the build gave up

A log is believed no further than it can be read: lines may be cut or missing, and clocks jump. An event or a field
that makes no sense is left out.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
    last_event_time: float = 0.0

    @property
    def num_working(self) -> int:
        """Workers that are there."""
        return sum(worker.state in _ALIVE for worker in self.workers)

    @property
    def num_dead(self) -> int:
        """Workers that died."""
        return sum(worker.state == "dead" for worker in self.workers)


class Speed:
    """Units per second over the last minute, from running totals. A clock that goes back starts it anew."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, time_s: float, total: int) -> None:
        """So much at that time."""
        seen = self._seen
        if seen and (time_s < seen[-1][0] or total < seen[-1][1]):
            seen.clear()
        seen.append((time_s, total))
        while len(seen) > 2 and time_s - seen[1][0] >= WINDOW_S:
            seen.popleft()

    def per_s(self) -> float:
        """0 until there are two times to compare."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s)


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


class Tally:
    """Adds events up, oldest first. A new build in the same log begins it anew."""

    def __init__(self) -> None:
        self._begin("")
        self._begun = False

    def _begin(self, recipe: str) -> None:
        self._recipe, self._begun, self._finished, self._failed = recipe, True, False, ""
        self._stage = _Stage()
        self._shards_done = self._shards_total = 0
        self._workers: dict[str, _Worker] = {}
        self._retries: Counter[str] = Counter()
        self._quarantined: dict[str, Quarantined] = {}
        self._time = 0.0

    def add(self, event: Event) -> None:
        """Take one event into account."""
        name = event.get("event")
        if name == "build":
            self._begin(_text(event, "recipe"))
        elif not self._begun:
            return
        self._time = _number(event, "time", self._time)
        act = getattr(self, f"_on_{name}", None) if isinstance(name, str) else None
        if act is not None:
            act(event)

    def stand(self) -> Stand:
        """Where the build stands by what was added."""
        stage, working = self._stage, [w for w in self._workers.values() if w.state in _ALIVE]
        speed = sum(worker.speed.per_s() for worker in working) if working else 0.0
        if not self._workers and stage.name == "decode":
            speed = stage.speed.per_s()
        return Stand(
            recipe=self._recipe,
            begun=self._begun,
            finished=self._finished,
            failed=self._failed,
            stage=stage.name,
            done=stage.done,
            total=stage.total,
            unit=stage.unit,
            shards_done=self._shards_done,
            shards_total=self._shards_total,
            tokens_per_s=0.0 if self._finished else speed,
            seconds_left=self._seconds_left(speed),
            retries=dict(sorted(self._retries.items())),
            quarantined=tuple(self._quarantined.values()),
            workers=tuple(sorted(map(_stand, self._workers.items()), key=_working_first)),
            last_event_time=self._time,
        )

    def _seconds_left(self, speed: float) -> float | None:
        stage = self._stage
        if stage.name != "decode" or stage.total is None or speed <= 0 or self._finished:
            return None
        return max(0, stage.total - stage.done) / speed

    def _worker(self, event: Event) -> _Worker | None:
        name = _text(event, "worker")
        return self._workers.setdefault(name, _Worker()) if name else None

    # ---- one method an event ----

    def _on_start(self, event: Event) -> None:
        self._stage = _Stage(_text(event, "stage"), 0, _total(event), _text(event, "unit"))

    def _on_progress(self, event: Event) -> None:
        name, stage = _text(event, "stage"), self._stage
        if name != stage.name:  # its beginning is not in the log
            stage = self._stage = _Stage(name, 0, _total(event), _text(event, "unit"))
        stage.done = _count(event, "done", stage.done)
        stage.speed.add(self._time, stage.done)

    _on_end = _on_progress

    def _on_plan(self, event: Event) -> None:
        self._shards_total, self._shards_done = _count(event, "shards"), _count(event, "done")

    def _on_shard(self, event: Event) -> None:
        self._shards_done += 1
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

    def _on_drawn(self, event: Event) -> None:
        totals = event.get("workers")
        if not isinstance(totals, dict):
            return
        for name in totals:
            worker = self._workers.setdefault(str(name), _Worker())
            worker.num_tokens = _count(totals, name, worker.num_tokens)
            if worker.state in _ALIVE:
                worker.speed.add(self._time, worker.num_tokens)

    def _on_retry(self, event: Event) -> None:
        self._retries[_text(event, "cause") or "error"] += 1
        worker = self._worker(event)
        if worker is not None:
            worker.num_retries += 1
            worker.shard = ""

    def _on_quarantined(self, event: Event) -> None:
        shard = _text(event, "shard")
        self._quarantined[shard] = Quarantined(
            shard=shard, attempts=_count(event, "attempts"), why=_text(event, "why")
        )

    def _on_failed(self, event: Event) -> None:
        self._failed = _text(event, "why") or "no reason was noted"

    def _on_built(self, _: Event) -> None:
        self._finished = True


def tally(events: Iterable[Event]) -> Stand:
    """Where the last build in these events, oldest first, stands."""
    counted = Tally()
    for event in events:
        counted.add(event)
    return counted.stand()


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
