"""The actors of one build, as its driver sees them."""

import queue
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cdgen import __version__
from cdgen.builders.crew import (
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
from cdgen.builders.fetch import pieces
from cdgen.builders.hand import Excuse, Order
from cdgen.builders.jobs import Job
from cdgen.builders.preflight import Look
from cdgen.builders.profile import Profile
from cdgen.builders.ray.actor import Actor
from cdgen.builders.ray.ends import line_of, lost
from cdgen.builders.ray.head import LOOK_EVERY_S, Head
from cdgen.builders.ray.nodes import amounts, fit, needs_of
from cdgen.builders.ray.session import NAMESPACE

REPORT_EVERY_S = 1.0
_NO_JOB = -1


@dataclass(slots=True)
class _Worker:
    actor: Any
    node: str = ""
    """Empty until its process is there."""
    refused: bool = False
    ready: bool = False
    reports: bool = True
    """Whether it may be asked for a report: not while it answers, or was never heard of."""
    next_report_s: float = 0.0
    jobs: set[int] = field(default_factory=set)


class RayCrew:
    """The workers of one build (`cdgen.builders.crew.Crew`).

    Args:
        profile: what a worker needs, and how many there may be.
        order: what every worker is told; its context has the prefixes of all jobs, which go with the jobs.
        name: of the build; the workers' names begin with it.
        clock: seconds, from any fixed moment.
    """

    def __init__(
        self, profile: Profile, order: Order, name: str, *, clock: Callable[[], float]
    ) -> None:
        self._profile, self._clock = profile, clock
        self._prefixes = order.context.prefixes
        self._order = replace(order, context=replace(order.context, prefixes=()))
        self._order_there = ray.put(self._order)
        self._sent: dict[str, list[tuple[str, Any]]] = {}
        self._answers: queue.SimpleQueue[tuple[str, str, int, Future[Any]]] = queue.SimpleQueue()
        self._events: list[Event] = []
        self._workers: dict[str, _Worker] = {}
        token = secrets.token_hex(
            2
        )  # the actors of a driver that was killed may still have their names
        self._names = (f"{name}-{token}-w{number:03d}" for number in count())
        self._needs = needs_of(profile)
        remote: Any = ray.remote  # its types know only what it is given most often
        self._actor = remote(concurrency_groups={"reports": 1})(Actor)
        self._most, self._looked_s = 0, float("-inf")
        outside = profile.address.startswith("ray://")
        self._head = Head(None if outside else ray.get_runtime_context().gcs_address, clock)

    @property
    def grows(self) -> bool:
        """A Ray that was started for this build has all of its nodes."""
        return self._profile.address != "local"

    def most(self) -> int:
        """The profile's `max`, or how many fit into the nodes that are there now."""
        if self._profile.workers.max is not None:
            return self._profile.workers.max
        now = self._clock()
        if now - self._looked_s >= LOOK_EVERY_S:
            self._head.ask()
            if self._head.answers:
                self._looked_s, self._most = (
                    now,
                    sum(fit(node, self._profile, self._needs) for node in ray.nodes()),
                )
        return self._most

    def want(self, number: int) -> None:
        """Start actors, which Ray places when there is room; take back those that wait for room and are too many."""
        mine = [name for name, worker in self._workers.items() if not worker.refused]
        if number > len(mine):
            self._head.ask()
        else:
            self._head.look()
        if not self._head.answers:
            return
        for _ in range(number - len(mine)):
            self._start()
        waiting = [name for name in reversed(mine) if not self._workers[name].node]
        for name in waiting[: max(0, len(mine) - number)]:
            self._end(name)

    def events(self, timeout_s: float) -> list[Event]:
        """What Ray's callbacks brought, and what was done here."""
        self._ask_for_reports()
        with suppress(queue.Empty):
            answer = self._answers.get(timeout=0 if self._events else timeout_s)
            while True:
                self._take(*answer)
                answer = self._answers.get_nowait()
        found, self._events = self._events, []
        return found

    def prepare(self, worker: str) -> None:
        """Ask which models it has to be sent; then it loads them."""
        self._call(worker, "missing", _NO_JOB, self._order.sources, self._order.cache)

    def look(self, worker: str, look: Look) -> None:
        """Call the actor."""
        self._call(worker, "look", _NO_JOB, look)

    def submit(self, worker: str, job: Job) -> None:
        """Call the actor, with the job's prefixes."""
        self._workers[worker].jobs.add(job.number)
        self._call(worker, "do", job.number, job, self._prefixes[job.first : job.last])

    def refuse(self, worker: str) -> None:
        """Its actor stays, idle."""
        self._workers[worker].refused = True

    def dismiss(self, worker: str) -> None:
        """End its actor."""
        if worker in self._workers:
            self._end(worker)
            self._events.append(Lost(worker, "left", expected=True))

    def close(self) -> None:
        """End all actors."""
        for name in list(self._workers):
            self._end(name)

    def shortage(self) -> str:
        """Resources asked for, and those of the cluster."""
        there = {key: value for key, value in ray.cluster_resources().items() if ":" not in key}
        return (
            f"a worker needs {amounts(self._needs)}; the nodes have {amounts(there) or 'nothing'} together; "
            "change workers of the profile, or add machines"
        )

    # ---- actors ----

    def _start(self) -> None:
        name = next(self._names)
        needs, workers = self._needs, self._profile.workers
        options: dict[str, Any] = {
            "name": name,
            "namespace": NAMESPACE,
            "num_cpus": needs["CPU"],
            "num_gpus": needs.get("GPU", 0),
            "max_concurrency": self._profile.in_flight,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        if "memory" in needs:
            options["memory"] = int(needs["memory"])
        if workers.labels:
            options["label_selector"] = dict(workers.labels)
            del options["scheduling_strategy"]  # Ray takes one or the other
        actor = self._actor.options(**options).remote(__version__, self._order.recipe)
        self._workers[name] = _Worker(actor, reports=False)
        self._call(name, "hello_from", _NO_JOB)

    def _end(self, name: str) -> None:
        worker = self._workers.pop(name)
        if not self._head.answers:
            return
        with suppress(RayError):
            ray.kill(worker.actor)

    def _call(self, name: str, method: str, number: int, *arguments: Any) -> None:
        reference = getattr(self._workers[name].actor, method).remote(*arguments)
        reference.future().add_done_callback(
            lambda future: self._answers.put((name, method, number, future))
        )

    def _ask_for_reports(self) -> None:
        """Also of idle workers: it is how the death of one is noticed."""
        now = self._clock()
        for name, worker in self._workers.items():
            if worker.reports and now >= worker.next_report_s:
                worker.reports, worker.next_report_s = False, now + REPORT_EVERY_S
                self._call(name, "report_beside", _NO_JOB)

    # ---- answers ----

    def _take(self, name: str, method: str, number: int, future: "Future[Any]") -> None:
        """Turn an answer into an event, or into the next call."""
        worker = self._workers.get(name)
        if worker is None:
            return  # of one that is gone
        worker.jobs.discard(number)
        error = future.exception()
        if error is None:
            self._answered(name, worker, method, number, future.result())
        elif isinstance(error, RayTaskError) and method == "do":
            self._events.append(Failed(name, number, "error", line_of(error.cause)))
        else:
            self._end(name)
            self._events.append(lost(name, error))

    def _answered(self, name: str, worker: _Worker, method: str, number: int, value: Any) -> None:
        match method, value:
            case "hello_from", (facts, node):
                worker.node, worker.reports = node, True
                self._events.append(Hello(name, node, facts))
            case "missing", missing:
                self._events += [Sent(name, why) for why in missing.values() if why]
                sent = {sha256: self._pieces(sha256) for sha256 in missing}
                self._call(name, "load_sent", _NO_JOB, self._order_there, sent)
            case "load_sent", path:
                worker.ready = True
                self._events.append(Ready(name, path))
            case "look", Excuse(_, why):
                self._events.append(Looked(name, None, why))
            case "look", seen:
                self._events.append(Looked(name, seen))
            case "report_beside", (drawn, num_tokens, leaving):
                worker.reports = True
                if worker.ready:
                    self._events.append(Report(name, drawn, num_tokens, leaving))
            case "do", Excuse(kind, why):
                self._events.append(Failed(name, number, kind, why))
            case "do", receipt:
                self._events.append(Delivered(name, number, receipt))

    def _pieces(self, sha256: str) -> list[tuple[str, Any]]:
        """A model in Ray's object store, put there once, when a node has no other way to it."""
        if sha256 not in self._sent:
            source = next(one for one in self._order.sources if one.sha256 == sha256)
            self._sent[sha256] = [(name, ray.put(data)) for name, data in pieces(source)]
        return self._sent[sha256]
