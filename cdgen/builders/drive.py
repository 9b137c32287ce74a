"""The driver of a build on many workers: hears what they tell, asks the scheduler, does what it says.

One thread, one loop. It computes nothing itself, so its cost is one event and one action per job.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cdgen import __version__
from cdgen.builders.crew import (
    Crew,
    Delivered,
    Event,
    Failed,
    Hello,
    Looked,
    Lost,
    Ready,
    Report,
    Sent,
)
from cdgen.builders.drawn import DrawnTokens, drawn_every_s
from cdgen.builders.events import Recorded
from cdgen.builders.jobs import Job
from cdgen.builders.numeric_class import refusal
from cdgen.builders.preflight import Look, Measured
from cdgen.builders.profile import Profile
from cdgen.builders.schedule import Halve, Quarantine, Retry, Scheduler, Stop, Submit
from cdgen.errors import BuildError, DeterminismError
from cdgen.storage import Receipt

TICK_S = 0.5
"""How long the driver waits for an event before it looks at the clock again."""
_LONGEST_PAUSE_S = 60.0
_NAMED = 5
"""Shards that an error names; events.jsonl has all of them."""


@dataclass(slots=True)
class _Member:
    """A worker, from its first word on."""

    node: str
    host: str
    ready: bool = False
    path: str = ""
    """How it decodes, once it is ready."""
    leaving: bool = False
    num_tokens: int = 0
    told_tokens: int = 0
    doing: int = -1
    """The number of the job that it was last seen decoding."""


class Driver:
    """Does jobs on a crew until each one is delivered or set aside; before that, if it is asked to, one worker looks.

    Args:
        jobs: what is left to do.
        crew: the workers.
        profile: limits and numbers.
        numeric_class: what workers must be; None = what the first one is.
        log: told of everything.
        clock: seconds, from any fixed moment.
        on_shard: told of every delivered shard, once, and by whom.
    """

    def __init__(
        self,
        jobs: Iterator[Job],
        crew: Crew,
        profile: Profile,
        *,
        numeric_class: Mapping[str, str] | None,
        log: Recorded,
        clock: Callable[[], float],
        on_shard: Callable[[Receipt, str], None],
    ) -> None:
        self._crew, self._profile, self._log, self._clock = crew, profile, log, clock
        self._class = numeric_class
        self._on_shard = on_shard
        self._tokens = DrawnTokens.of_nothing()  # until there are jobs to count
        self._scheduler = Scheduler(
            jobs,
            in_flight=profile.in_flight,
            retries=profile.retries,
            stragglers=profile.stragglers,
        )
        self._jobs: dict[int, Job] = {}
        self._members: dict[str, _Member] = {}
        self._refused: dict[str, str] = {}
        self._sent: set[tuple[str, str]] = set()
        self._begun = self._waits = False
        self._looker = ""
        self._seen: Measured | None = None
        self._lost_looks = 0
        self._failed_starts = self._lost_starts = 0
        self._alone_since = self._next_start = self._told_drawn = clock()

    def look(self, look: Look) -> Measured:
        """Have the models looked at by the first worker that is ready; if that one is lost, by another.

        Raises:
            BuildError: they cannot be looked at, or no worker came.
        """
        self._waits = True
        while True:
            self._turn()
            if self._seen is not None:
                self._waits = False
                return self._seen
            if not self._looker:
                ready = (n for n, one in self._members.items() if one.ready and not one.leaving)
                self._looker = next(ready, "")
                if self._looker:
                    self._crew.look(self._looker, look)

    def run(self, tokens: DrawnTokens) -> None:
        """Do the jobs.

        Args:
            tokens: counts those that are drawn.

        Raises:
            DeterminismError: a job gave different bytes twice.
            BuildError: jobs failed for good (the others are delivered), no worker came, or nothing can be written.
        """
        self._tokens = tokens
        self._begin()
        self._act()
        while not self._scheduler.finished:
            self._turn()
            self._act()
            self._tell_drawn()
        self._act()
        if self._scheduler.quarantined:
            raise BuildError(_failed(self._scheduler.quarantined))

    def _turn(self) -> None:
        self._ask_for_workers()
        for event in self._crew.events(TICK_S):
            self._hear(event)

    # ---- workers ----

    def _ask_for_workers(self) -> None:
        now = self._clock()
        if self._members:
            self._alone_since = now
        elif now - self._alone_since > self._profile.patience_s or self._nobody_can_come():
            raise BuildError(self._nobody())
        if now < self._next_start:
            return
        count = max(self._profile.workers.min, self._crew.most())
        known = self._scheduler.num_known
        self._crew.want(count if known is None else max(1, min(count, known)))

    def _nobody_can_come(self) -> bool:
        return bool(self._refused) and not self._crew.grows

    def _nobody(self) -> str:
        if self._refused:
            return next(iter(self._refused.values()))
        return (
            f"no worker in {self._profile.patience_s:.0f} s (patience_s of the profile {self._profile.name}): "
            f"{self._crew.shortage()}"
        )

    def _hear(self, event: Event) -> None:
        now = self._clock()
        match event:
            case Hello():
                self._greet(event)
            case Sent(worker, why):
                self._send(worker, why)
            case Ready(worker, path):
                self._welcome(worker, path)
            case Looked(worker, seen, why):
                if seen is None:
                    raise BuildError(why)
                self._looker, self._seen = "", seen
            case Lost():
                self._mourn(event)
            case Delivered(worker, number, receipt):
                if self._scheduler.delivered(worker, number, receipt.sha256, now):
                    self._tokens.done(self._jobs.pop(number))
                    self._on_shard(receipt, worker)
            case Failed(worker, number, kind, why):
                self._failed(worker, number, kind, why)
            case Report():
                self._note(event)
        self._dismiss()

    def _greet(self, hello: Hello) -> None:
        """Take a worker that computes what the build's others do; refuse any other by name."""
        facts = hello.facts
        if facts.cdgen == __version__ and self._class is None:
            self._class = dict(facts.numeric_class)
        why = refusal(hello.worker, facts.host, facts.cdgen, facts.numeric_class, self._class or {})
        if why is None:
            self._members[hello.worker] = _Member(hello.node, facts.host)
            self._crew.prepare(hello.worker)
            return
        self._refused[hello.worker] = why
        self._crew.refuse(hello.worker)
        self._tell(hello.worker, facts.host, "refused", why)
        self._log.say(f"warning: {why}")

    def _send(self, worker: str, why: str) -> None:
        """Tell once for each machine, and not for each of its workers."""
        member = self._members[worker]
        if (member.node, why) not in self._sent:
            self._sent.add((member.node, why))
            self._log.event("sent", worker=worker, node=member.host, why=why)

    def _welcome(self, worker: str, path: str) -> None:
        member = self._members[worker]
        member.ready, member.path = True, path
        self._failed_starts = self._lost_starts = 0
        self._tell(worker, member.host, "joined")
        if self._begun:
            self._join(worker)
        else:
            self._begin()

    def _begin(self) -> None:
        """Let jobs be given out, once enough workers are ready and nobody has to look first."""
        ready = [name for name, one in self._members.items() if one.ready]
        if self._waits or len(ready) < self._profile.workers.min:
            return
        self._begun = True
        self._log.say(self._members[ready[-1]].path)
        for name in ready:
            self._join(name)

    def _join(self, worker: str) -> None:
        member = self._members[worker]
        self._scheduler.joined(worker, member.node)
        if member.leaving:
            self._scheduler.leaving(worker)

    def _mourn(self, lost: Lost) -> None:
        """A worker is gone. One that was not ready yet had no jobs, but may fail again: wait longer each time."""
        member = self._members.pop(lost.worker, None)
        self._refused.pop(lost.worker, None)
        host = member.host if member else ""
        self._tell(lost.worker, host, "left" if lost.expected else "dead", lost.why)
        if member is not None and member.ready:
            if self._begun:
                if lost.expected:
                    self._scheduler.leaving(lost.worker)
                self._scheduler.lost(lost.worker, lost.why, out_of_memory=lost.out_of_memory)
            elif lost.worker == self._looker:
                self._lose_look(lost)
            return
        self._failed_starts += lost.failed
        self._lost_starts += not lost.failed
        limits = self._profile.retries
        too_often = self._failed_starts > limits.error or self._lost_starts > limits.death
        if too_often and not any(one.ready for one in self._members.values()):
            raise BuildError(f"no worker could get ready; the last one, {lost.worker}: {lost.why}")
        tries = self._failed_starts + self._lost_starts
        self._next_start = self._clock() + min(_LONGEST_PAUSE_S, 0.5 * 2**tries)

    def _lose_look(self, lost: Lost) -> None:
        """Another worker looks, unless it is the look that kills them."""
        self._looker = ""
        self._lost_looks += not lost.expected
        if self._lost_looks > self._profile.retries.death:
            raise BuildError(
                f"the preflight killed {self._lost_looks} workers; the last one, {lost.worker}: {lost.why}"
            )

    def _leave(self, worker: str) -> None:
        member = self._members.get(worker)
        if member is None or member.leaving:
            return
        member.leaving = True
        self._tell(worker, member.host, "draining")
        if member.ready and self._begun:
            self._scheduler.leaving(worker)

    def _dismiss(self) -> None:
        """End workers that leave, once they have nothing to do; Lost follows."""
        for name, member in self._members.items():
            if not member.leaving or not member.ready:
                continue
            spare = self._waits and name != self._looker
            idle = self._scheduler.idle(name) if self._begun else spare
            if idle:
                self._crew.dismiss(name)

    # ---- jobs ----

    def _failed(self, worker: str, number: int, kind: str, why: str) -> None:
        match kind:
            case "memory":
                self._scheduler.ran_out_of_memory(worker, number, why)
            case "fault":
                self._scheduler.fault(why)
            case "handed back":
                self._leave(worker)
                self._scheduler.handed_back(worker, number)
            case _:
                self._scheduler.failed(worker, number, why, storage=kind == "storage")

    def _act(self) -> None:
        """Do what the scheduler says."""
        for action in self._scheduler.decide(self._clock()):
            match action:
                case Submit(worker, job, copy):
                    self._jobs[job.number] = job
                    if copy:
                        self._log.event("job", shard=job.shard, worker=worker, speculative=True)
                    self._crew.submit(worker, job)
                case Retry(job, worker, cause, attempt, why):
                    facts = {"cause": cause, "attempt": attempt, "why": why}
                    self._log.event("retry", shard=job.shard, worker=worker, **facts)
                case Quarantine(job, why, attempts):
                    self._jobs.pop(job.number, None)
                    self._log.event("quarantined", shard=job.shard, attempts=attempts, why=why)
                    self._log.say(f"warning: {job.shard} is set aside: {why}")
                case Halve(node, in_flight):
                    self._log.event("halve", node=node, in_flight=in_flight)
                case Stop(why, determinism):
                    raise DeterminismError(why) if determinism else BuildError(why)

    # ---- what is told ----

    def _note(self, report: Report) -> None:
        """What a worker decodes, and how far it is."""
        member = self._members[report.worker]
        member.num_tokens = report.num_tokens
        for number, tokens in report.drawn.items():
            job = self._jobs.get(number)
            if job is None:
                continue
            self._tokens.drawn(number, tokens)
            if member.doing != number:
                member.doing = number
                self._log.event("job", shard=job.shard, worker=report.worker)
        if report.leaving:
            self._leave(report.worker)

    def _tell(self, worker: str, host: str, state: str, why: str = "") -> None:
        self._log.event("worker", worker=worker, node=host, state=state, why=why)

    def _tell_drawn(self) -> None:
        """How many tokens each worker has drawn, of those that drew some since they were last told."""
        now = self._clock()
        if now - self._told_drawn < drawn_every_s(len(self._members)):
            return
        self._told_drawn = now
        new = {n: one for n, one in self._members.items() if one.num_tokens != one.told_tokens}
        for member in new.values():
            member.told_tokens = member.num_tokens
        if new:
            self._log.event("drawn", workers={name: one.num_tokens for name, one in new.items()})


def _failed(jobs: list[Quarantine]) -> str:
    named = "; ".join(f"{one.job.shard}: {one.why}" for one in jobs[:_NAMED])
    more = f"; and {len(jobs) - _NAMED} more, in work/events.jsonl" if len(jobs) > _NAMED else ""
    which = "1 shard" if len(jobs) == 1 else f"{len(jobs)} shards"
    return (
        f"{which} could not be made, all others are done: {named}{more}; "
        "the same command tries again what is missing"
    )
