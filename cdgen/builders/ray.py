"""Workers as Ray actors: the only file that imports ray.

One named actor is one worker, in a process of its own with its own models. Actors are never restarted by Ray and calls
are never retried by it: the scheduler decides, and a new worker has a new name. Answers come through callbacks into one
queue, so the driver never asks Ray which of many calls are done.
"""

import logging
import os
import queue
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.metrics import Counter, Gauge

from cdgen import __version__
from cdgen.builders.crew import Delivered, Event, Facts, Failed, Hello, Lost, Ready, Report
from cdgen.builders.drive import Driver, Tally
from cdgen.builders.fetch import pieces, source_of
from cdgen.builders.hand import Excuse, Hand, Order
from cdgen.builders.jobs import Job
from cdgen.builders.profile import Profile
from cdgen.errors import BuildError, UsageError
from cdgen.storage import Receipt
from cdgen.storage.places import Folder

if TYPE_CHECKING:
    from cdgen.builders.decoding import Decoding

NAMESPACE = "cdgen"
REPORT_EVERY_S = 1.0
HEAD_GONE_S = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60")) / 2  # noqa: SIM112 - Ray's name
"""How long the head of a cluster may not answer: half of Ray's patience, after which it ends the process wordlessly."""
_LOOK_EVERY_S = 2.0
_GIB = 1 << 30
_NO_JOB = -1
# What Ray says of an actor's end is a text for people, with these words in it.
_LOW_MEMORY = ("NODE_OUT_OF_MEMORY", "running low on memory")
_EXPECTED = ("terminated expectedly", "drain", "preempt")
_IN_CREATION = "raised in its creation task"


def decode_on_ray(decoding: "Decoding", profile: Profile) -> None:
    """Do the jobs of a build on the workers of a Ray cluster.

    Raises:
        UsageError: there is no Ray at the profile's address.
        HeadLostError: the cluster's head is gone.
        BuildError: not every job could be done.
    """
    if decoding.before is not None:
        from cdgen.builders.decoding import open_models

        decoding.before(open_models(decoding))
    with session(profile), decoding.counted() as advance:
        crew = RayCrew(profile, order_of(decoding, profile), _name(decoding), clock=decoding.clock)
        metrics = Metrics(decoding.work.recipe.name)
        with decoding.log.also(metrics.heard), closing(crew), _Bringing(decoding) as bring:
            driver = Driver(
                iter(decoding.todo),
                crew,
                profile,
                numeric_class=decoding.numeric_class,
                log=decoding.log,
                clock=decoding.clock,
                tally=Tally(advance, decoding.size),
                on_shard=bring,
            )
            driver.run()


def order_of(decoding: "Decoding", profile: Profile) -> Order:
    """What the workers of a build are told."""
    work, models = decoding.work, decoding.models
    place = work.place
    if isinstance(place, Folder):
        place = Folder(place.root.absolute())  # a worker's folder is not the driver's
    return Order(
        recipe=work.recipe,
        context=decoding.context,
        expert=source_of(models.expert.folder),
        amateur=source_of(models.amateur.folder) if models.amateur else None,
        further=tuple(source_of(model.folder) for model in models.further),
        place=place,
        cache=profile.cache,
    )


def _name(decoding: "Decoding") -> str:
    return f"cdgen-{decoding.work.recipe.name}"


class _Bringing:
    """Brings delivered shards to the driver's own folder, where the mix reads them; beside the decoding."""

    def __init__(self, decoding: "Decoding") -> None:
        self._decoding = decoding
        self._here = Folder(decoding.work.out) == decoding.work.place
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="cdgen-bring")
        self._coming: deque[Future[None]] = deque()

    def __enter__(self) -> "_Bringing":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._coming:
                future.result()

    def __call__(self, receipt: Receipt, worker: str) -> None:
        self._decoding.finished(receipt, worker=worker)
        if self._here:
            return
        work = self._decoding.work
        self._coming.append(self._pool.submit(work.place.fetch, work.out, receipt))
        while self._coming and self._coming[0].done():
            self._coming.popleft().result()


class Actor(Hand):
    """A worker whose reports have a thread of their own, and whose models may come out of Ray's object store."""

    def hello_from(self) -> tuple[Facts, str]:
        """As `Hand.hello`, and the node."""
        return self.hello(), ray.get_runtime_context().get_node_id()

    def load_sent(self, order: Order, sent: Mapping[str, Sequence[tuple[str, Any]]]) -> str:
        """As `Hand.load`; the pieces are object references, of which one is held at a time."""
        return self.load(order, {sha256: _unpacked(parts) for sha256, parts in sent.items()})

    @ray.method(concurrency_group="reports")
    def report_beside(self) -> tuple[dict[int, int], int, bool]:
        """As `Hand.report`."""
        return self.report()


def _unpacked(parts: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, bytes]]:
    for name, reference in parts:
        yield name, ray.get(reference)


class HeadLostError(BuildError):
    """The head of the cluster does not answer any more; every question to Ray would wait for it."""


class _Head:
    """Whether the head of a cluster answers, asked beside Ray.

    Args:
        address: of the head, HOST:PORT; None where only Ray's client reaches it, which says itself that it is gone.
        clock: seconds, from any fixed moment.
    """

    def __init__(self, address: str | None, clock: Callable[[], float]) -> None:
        self._address, self._clock = address, clock
        self._next_look_s = self._gone_since_s = clock()
        self.answers = True

    def look(self) -> None:
        """Ask now and then. Raises: as `ask`."""
        if self._clock() >= self._next_look_s:
            self.ask()

    def ask(self) -> None:
        """Ask at once, as before everything that would wait for the head.

        Raises:
            HeadLostError: it has not answered for `HEAD_GONE_S`.
        """
        now = self._clock()
        self._next_look_s = now + _LOOK_EVERY_S / 2
        if self._address is None:
            return
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except OSError as error:
            if self.answers:
                self.answers, self._gone_since_s = False, now
            if now - self._gone_since_s < HEAD_GONE_S:
                return
            raise HeadLostError(
                f"the head of the Ray cluster, {self._address}, has not answered for {HEAD_GONE_S:.0f} s "
                f"({error}); finished shards are kept: start a cluster, and then the same command again"
            ) from None
        self.answers = True


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
        self._needs = _needs(profile)
        remote: Any = ray.remote  # its types know only what it is given most often
        self._actor = remote(concurrency_groups={"reports": 1})(Actor)
        self._most, self._looked_s = 0, float("-inf")
        outside = profile.address.startswith("ray://")
        self._head = _Head(None if outside else ray.get_runtime_context().gcs_address, clock)

    @property
    def grows(self) -> bool:
        """A Ray that was started for this build has all of its nodes."""
        return self._profile.address != "local"

    def most(self) -> int:
        """The profile's `max`, or how many fit into the nodes that are there now."""
        if self._profile.workers.max is not None:
            return self._profile.workers.max
        now = self._clock()
        if now - self._looked_s >= _LOOK_EVERY_S:
            self._head.ask()
            if self._head.answers:
                self._looked_s, self._most = now, sum(self._fit(node) for node in ray.nodes())
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
            f"a worker needs {_amounts(self._needs)}; the nodes have {_amounts(there) or 'nothing'} together; "
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
            self._events.append(Failed(name, number, "error", _line(error.cause)))
        else:
            self._end(name)
            self._events.append(_lost(name, error))

    def _answered(self, name: str, worker: _Worker, method: str, number: int, value: Any) -> None:
        match method, value:
            case "hello_from", (facts, node):
                worker.node, worker.reports = node, True
                self._events.append(Hello(name, node, facts))
            case "missing", shas:
                sent = {sha256: self._pieces(sha256) for sha256 in shas}
                self._call(name, "load_sent", _NO_JOB, self._order_there, sent)
            case "load_sent", path:
                worker.ready = True
                self._events.append(Ready(name, path))
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

    def _fit(self, node: Mapping[str, Any]) -> int:
        """How many workers fit into a node."""
        labels = self._profile.workers.labels.items()
        plain = {key: value for key, value in labels if value[:1] != "!" and "(" not in value}
        if not node["Alive"] or any(node["Labels"].get(key) != plain[key] for key in plain):
            return 0
        rooms = [node["Resources"].get(key, 0) // need for key, need in self._needs.items() if need]
        return int(min(rooms, default=1))


def _needs(profile: Profile) -> dict[str, float]:
    """Ray's resources for one worker."""
    workers = profile.workers
    gpus = workers.gpus
    if gpus is None:
        gpus = 1.0 if any(node["Resources"].get("GPU") for node in ray.nodes()) else 0.0
    needs = {"CPU": workers.cpus}
    if gpus:
        needs["GPU"] = gpus
    if workers.memory_gib is not None:
        needs["memory"] = workers.memory_gib * _GIB
    return needs


def _amounts(resources: Mapping[str, float]) -> str:
    """2 CPU, 0.5 GPU, 16 GiB memory."""
    words = []
    for key in ("CPU", "GPU", "memory"):
        if resources.get(key):
            value = resources[key] / _GIB if key == "memory" else resources[key]
            words.append(f"{value:g} {'GiB memory' if key == 'memory' else key}")
    return ", ".join(words)


def _lost(name: str, error: BaseException) -> Lost:
    text = str(error)
    raised = isinstance(error, RayTaskError) or _IN_CREATION in text
    cause = error.cause if isinstance(error, RayTaskError) else error
    return Lost(
        name,
        _line(cause),
        expected=any(word in text for word in _EXPECTED),
        out_of_memory=isinstance(error, OutOfMemoryError) or any(w in text for w in _LOW_MEMORY),
        failed=raised,
    )


def _line(error: BaseException) -> str:
    """One line of a text of many; of an actor's death what Ray says after its particulars."""
    text = " ".join(str(error).split())
    for mark in ("The actor is dead because ", "The actor died because "):
        text = text[text.index(mark) + len(mark) :] if mark in text else text
    for mark in (" Some common causes", " traceback: "):
        text = text.partition(mark)[0]
    return text[:300] or type(error).__name__


# ---- a session ----


@contextmanager
def session(profile: Profile) -> Iterator[None]:
    """Be connected to the profile's Ray while the block runs; one that this process uses already is used, and stays.

    Raises:
        UsageError: there is none at the profile's address, or it cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    # Ray reports its use to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker without a GPU must not see any: otherwise it would be of another numeric class than it says.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False}
    if not profile.address.startswith("ray://"):
        options["logging_level"] = logging.ERROR
    if (
        profile.address == "local"
    ):  # by that name: without one, ray joins whatever cluster runs here
        options["include_dashboard"] = None
        os.environ.pop("RAY_ADDRESS", None)  # which would join that cluster instead
    try:
        ray.init(address=profile.address, **options)
    except Exception as error:  # noqa: BLE001 - what Ray raises when it does not come up in time
        raise UsageError(
            f"no Ray at address {profile.address} (profile {profile.name}): {_line(error)}; start one with "
            "`ray start --head` (one that has a token wants RAY_AUTH_MODE=token and the token here too), "
            "or build with --builder ray-local"
        ) from None
    try:
        yield
    except HeadLostError:
        raise  # to take one's leave of a head that is gone would wait for it
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


class Metrics:
    """Counts for Ray's Prometheus endpoint, taken from a build's events."""

    def __init__(self, build: str) -> None:
        tags = {"default_tags": {"build": build}}
        self._counters = {
            name: self._made(Counter, f"cdgen_{name}", text, tags)
            for name, text in (
                ("shards", "Shards delivered."),
                ("tokens", "Tokens of delivered shards."),
                ("retries", "Jobs given out again."),
                ("deaths", "Workers that died."),
                ("quarantined", "Jobs set aside."),
            )
        }
        self._workers = self._made(Gauge, "cdgen_workers", "Workers that have joined.", tags)
        self._there: set[str] = set()

    @staticmethod
    def _made(kind: Any, name: str, text: str, tags: Mapping[str, Mapping[str, str]]) -> Any:
        metric = kind(name, description=text, tag_keys=("build",))
        metric.set_default_tags(dict(tags["default_tags"]))
        return metric

    def heard(self, event: Mapping[str, Any]) -> None:
        """Count an event."""
        match event["event"]:
            case "shard":
                self._counters["shards"].inc(1)
                if event["tokens"]:  # nothing is no increment to Ray
                    self._counters["tokens"].inc(event["tokens"])
            case "retry":
                self._counters["retries"].inc(1)
            case "quarantined":
                self._counters["quarantined"].inc(1)
            case "worker":
                state, name = event["state"], event["worker"]
                (self._there.add if state == "joined" else self._there.discard)(name)
                self._workers.set(len(self._there))
                if state == "dead":
                    self._counters["deaths"].inc(1)
