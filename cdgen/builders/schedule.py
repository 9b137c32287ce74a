"""What to do next in a build on many workers: a state machine of jobs and workers. No ray, no clock, no files.

It is told what happened (a worker joined or was lost, a job was delivered, failed, ran out of memory) and asked what to
do. Jobs come out of an iterator one by one and are forgotten when they are delivered, so memory grows with the workers,
not with the jobs. A job ends exactly once: delivered, or set aside by name.

Two counts are kept apart. A worker's death says little about the jobs that it had, so they are tried often; but a job
that was there twice is run alone from then on, last of all, so that one that kills its workers takes no other along. An
error of the job's own comes again when it is tried again, so it is tried once more, in case the machine was at fault.

Cost of a step: the jobs of one worker, and the workers that have room.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from cdgen.builders.jobs import Job
from cdgen.builders.profile import Retries, Stragglers

ALONE_AFTER = 2
"""Deaths after which a job is run alone."""
STORAGE_IN_A_ROW = 3
"""Failures to write, nothing delivered between them, that stop the build: the next job would fail as well."""
ASIDE_IN_A_ROW = 20
"""Jobs set aside, nothing delivered between them, that stop the build: not the jobs are at fault."""
_REMEMBERED = 101
"""Durations of finished jobs, of which the middle one is asked for."""


Cause = Literal["death", "error", "memory"]


@dataclass(frozen=True, slots=True)
class Submit:
    """Give a job to a worker; `copy`: it runs elsewhere too, and takes too long there."""

    worker: str
    job: Job
    copy: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """A job will be given out again; `attempt`: how often that has happened to it for this cause."""

    job: Job
    worker: str
    cause: Cause
    attempt: int
    why: str


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A job is set aside: it failed as often as the profile allows."""

    job: Job
    why: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Halve:
    """A node's workers have fewer jobs at once from now on: one of them ran out of memory."""

    node: str
    in_flight: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more is given out: to go on would do harm, or nothing."""

    why: str
    determinism: bool = False
    """One job gave different bytes twice."""


Action = Submit | Retry | Quarantine | Halve | Stop


@dataclass(slots=True)
class _Open:
    """A job that was given out and has not ended."""

    job: Job
    copies: dict[str, float] = field(default_factory=dict)
    """When each worker that has it was given it."""
    deaths: int = 0
    errors: int = 0
    shortages: int = 0
    """Of memory."""
    sha256: str = ""
    """Of the shard, once one copy of the job is delivered."""

    @property
    def alone(self) -> bool:
        return self.deaths >= ALONE_AFTER


@dataclass(slots=True)
class _Worker:
    node: str
    jobs: set[int] = field(default_factory=set)
    leaving: bool = False
    alone: bool = False
    """It has one job that must be its only one."""


class Scheduler:
    """The state of one build's decoding.

    Args:
        jobs: what is left to do; taken one by one.
        in_flight: jobs that a worker has at once.
        retries: how often a job is done again.
        stragglers: when a job is done a second time; None = never.
    """

    def __init__(
        self,
        jobs: Iterator[Job],
        *,
        in_flight: int,
        retries: Retries,
        stragglers: Stragglers | None,
    ) -> None:
        self._source, self._in_flight = jobs, in_flight
        self._retries, self._stragglers = retries, stragglers
        self._ahead: Job | None = None
        self._again: deque[_Open] = deque()
        self._alone: deque[_Open] = deque()
        self._open: dict[int, _Open] = {}
        self._workers: dict[str, _Worker] = {}
        self._room: set[str] = set()
        self._limits: dict[str, int] = {}
        self._took_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._told: list[Action] = []
        self._num_undelivered = 0
        self._storage_in_a_row = self._aside_in_a_row = 0
        self._stopped = False
        self.quarantined: list[Quarantine] = []
        self.num_delivered = 0
        self._look_ahead()

    # ---- what is asked ----

    @property
    def finished(self) -> bool:
        """Whether every job is delivered or set aside, or the build was stopped."""
        return self._stopped or not (self._ahead or self._num_undelivered)

    @property
    def num_known(self) -> int | None:
        """How many jobs are still to be delivered; None while the iterator has more than are given out."""
        return None if self._ahead else self._num_undelivered

    def idle(self, worker: str) -> bool:
        """Whether a worker has nothing to do."""
        return not self._workers[worker].jobs

    def decide(self, now: float) -> list[Action]:
        """What is to be done now, after all that was told; `now` in seconds, from any fixed moment."""
        if not self._stopped:
            self._fill(now)
        told, self._told = self._told, []
        return told

    # ---- what is told ----

    def joined(self, worker: str, node: str) -> None:
        """A worker can take jobs."""
        assert worker not in self._workers
        self._workers[worker] = _Worker(node)
        self._note_room(worker)

    def leaving(self, worker: str) -> None:
        """A worker takes no more jobs; its death is expected, and held against nobody."""
        self._workers[worker].leaving = True
        self._note_room(worker)

    def lost(self, worker: str, why: str, *, out_of_memory: bool = False) -> None:
        """A worker is dead, or cannot be reached; what it had is given to others."""
        gone = self._workers.pop(worker)
        self._room.discard(worker)
        halved = out_of_memory and self._halve(gone.node)
        for number in sorted(gone.jobs):
            state = self._open[number]
            del state.copies[worker]
            if halved:
                state.shortages += 1
            elif not gone.leaving and not state.sha256:
                state.deaths += 1
            cause: Cause = "memory" if halved else "death"
            attempt = state.shortages if halved else state.deaths
            self._settle(state, Retry(state.job, worker, cause, attempt, why))

    def delivered(self, worker: str, number: int, sha256: str, now: float) -> bool:
        """A worker delivered a job; whether it is the first to deliver it."""
        state, since = self._take_back(worker, number)
        first = not state.sha256
        if first:
            state.sha256 = sha256
            self.num_delivered += 1
            self._num_undelivered -= 1
            self._storage_in_a_row = self._aside_in_a_row = 0
            self._took_s.append(now - since)
        elif state.sha256 != sha256:
            self.fault(
                f"{state.job.shard}: was made twice, and not with the same bytes "
                f"(SHA-256 {state.sha256[:12]}… and {sha256[:12]}…)"
            )
        if not state.copies:
            del self._open[number]
        return first

    def failed(self, worker: str, number: int, why: str, *, storage: bool = False) -> None:
        """A job raised an error, of its own or when its shard was put into its place."""
        state, _ = self._take_back(worker, number)
        state.errors += 1
        if storage:
            self._storage_in_a_row += 1
            if self._storage_in_a_row >= STORAGE_IN_A_ROW:
                self._stop(Stop(why))
        self._settle(state, Retry(state.job, worker, "error", state.errors, why))

    def ran_out_of_memory(self, worker: str, number: int, why: str) -> None:
        """A job found too little memory: fewer at once there, and it is given out again; with one at once, an error."""
        node = self._workers[worker].node
        state, _ = self._take_back(worker, number)
        state.shortages += 1
        if not self._halve(node):
            state.errors += 1
        self._settle(state, Retry(state.job, worker, "memory", state.shortages, why))

    def handed_back(self, worker: str, number: int) -> None:
        """A worker that leaves had not begun a job."""
        state, _ = self._take_back(worker, number)
        self._settle(state, None)

    def fault(self, why: str) -> None:
        """A job gave different bytes twice: stop."""
        self._stop(Stop(why, determinism=True))

    # ---- jobs ----

    def _take_back(self, worker: str, number: int) -> tuple[_Open, float]:
        """(a job, when the worker that no longer has it was given it)."""
        holder, state = self._workers[worker], self._open[number]
        holder.jobs.discard(number)
        holder.alone = False
        self._note_room(worker)
        return state, state.copies.pop(worker)

    def _settle(self, state: _Open, retry: Retry | None) -> None:
        """After a copy of a job ended without being delivered: wait for the other one, try again, or set aside.

        Args:
            state: the job.
            retry: what is told if it is tried again; None where nothing went wrong.
        """
        if state.copies:
            return
        if state.sha256:
            del self._open[state.job.number]
        elif state.deaths > self._retries.death or state.errors > self._retries.error:
            assert retry is not None
            del self._open[state.job.number]
            self._num_undelivered -= 1
            attempts = state.deaths + state.errors
            self._set_aside(Quarantine(state.job, retry.why, attempts))
        else:
            (self._alone if state.alone else self._again).append(state)
            if retry is not None:
                self._told.append(retry)

    def _set_aside(self, job: Quarantine) -> None:
        self.quarantined.append(job)
        self._told.append(job)
        self._aside_in_a_row += 1
        if self._aside_in_a_row >= ASIDE_IN_A_ROW:
            self._stop(Stop(f"{ASIDE_IN_A_ROW} jobs in a row failed, the last one with: {job.why}"))

    def _stop(self, stop: Stop) -> None:
        if not self._stopped:
            self._stopped = True
            self._told.append(stop)

    def _look_ahead(self) -> None:
        self._ahead = next(self._source, None)

    # ---- workers ----

    def _limit(self, node: str) -> int:
        return self._limits.get(node, self._in_flight)

    def _halve(self, node: str) -> bool:
        """Whether a node's workers could be given fewer jobs at once."""
        limit = self._limit(node)
        if limit == 1:
            return False
        self._limits[node] = limit // 2
        self._told.append(Halve(node, limit // 2))
        for name in [name for name in self._room if self._workers[name].node == node]:
            self._note_room(name)
        return True

    def _note_room(self, name: str) -> None:
        worker = self._workers[name]
        full = len(worker.jobs) >= self._limit(worker.node)
        if worker.leaving or worker.alone or full:
            self._room.discard(name)
        else:
            self._room.add(name)

    def _fill(self, now: float) -> None:
        """Give out jobs, to the worker that has the fewest first, until there is no room or no job."""
        while self._room:
            name = min(self._room, key=lambda name: (len(self._workers[name].jobs), name))
            idle = not self._workers[name].jobs
            state = self._next(alone=idle)
            copy = state is None and idle
            if copy:
                state = self._straggler(name, now)
            if state is None:
                return
            self._give(name, state, now, copy=copy)

    def _next(self, *, alone: bool) -> _Open | None:
        """The job to give out next; one that must run alone only to an idle worker."""
        if alone and self._alone:
            return self._alone.popleft()
        if self._again:
            return self._again.popleft()
        if self._ahead is None:
            return None
        state = self._open[self._ahead.number] = _Open(self._ahead)
        self._num_undelivered += 1
        self._look_ahead()
        return state

    def _give(self, name: str, state: _Open, now: float, *, copy: bool) -> None:
        worker = self._workers[name]
        worker.jobs.add(state.job.number)
        worker.alone = state.alone
        state.copies[name] = now
        self._note_room(name)
        self._told.append(Submit(name, state.job, copy))

    def _straggler(self, name: str, now: float) -> _Open | None:
        """The job that has taken too long for longest, if it runs once, and not on this worker."""
        if self._stragglers is None or not self._took_s:
            return None
        limit_s = max(self._stragglers.at_least_s, self._stragglers.times * median(self._took_s))
        late = [
            (min(state.copies.values()), number)
            for number, state in self._open.items()
            if len(state.copies) == 1
            and name not in state.copies
            and not state.sha256
            and not state.alone
            and now - min(state.copies.values()) >= limit_s
        ]
        return self._open[min(late)[1]] if late else None
