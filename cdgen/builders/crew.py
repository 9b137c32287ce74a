"""The workers of a build as its driver sees them: what can be asked of them, and what they tell.

`cdgen.builders.ray` has the one whose workers are Ray actors. Nothing here knows ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from cdgen.builders.jobs import Job
from cdgen.storage import Receipt

if TYPE_CHECKING:
    from cdgen.builders.preflight import Look, Measured

Failure = Literal["error", "storage", "memory", "fault", "handed back"]
"""Why a worker did not deliver a job: an error of the job; its shard could not be written or delivered; too little
memory; other bytes than another copy's; the worker leaves and had not begun it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a worker says of itself before it loads anything."""

    cdgen: str
    """The version of its cdgen."""
    numeric_class: Mapping[str, str]
    """Empty where its cdgen is another version."""
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker's process is there, on a node."""

    worker: str
    node: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has its models; `path` says how it decodes."""

    worker: str
    path: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A worker's machine could not have a model from its object store, says why, and is sent it by the driver."""

    worker: str
    why: str


@dataclass(frozen=True, slots=True)
class Looked:
    """A worker looked at its models (`Crew.look`), or says why it could not."""

    worker: str
    seen: "Measured | None"
    why: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone."""

    worker: str
    why: str
    expected: bool = False
    """Its machine said that it would go."""
    out_of_memory: bool = False
    failed: bool = False
    """It did not die: it raised an error while it got ready."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A worker delivered a job."""

    worker: str
    number: int
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker did not deliver a job."""

    worker: str
    number: int
    kind: Failure
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker does: tokens drawn so far of the jobs that it decodes, and in all; whether it leaves."""

    worker: str
    drawn: Mapping[int, int]
    num_tokens: int
    leaving: bool


Event = Hello | Sent | Ready | Looked | Lost | Delivered | Failed | Report


class Crew(Protocol):
    """The workers. Their names are unique in a build and are never used again."""

    @property
    def grows(self) -> bool:
        """Whether workers may come that are not there yet."""
        ...

    def most(self) -> int:
        """How many workers to ask for, at most: the profile's number, or as many as fit."""
        ...

    def want(self, number: int) -> None:
        """Ask for workers until so many are there or asked for; those that were refused do not count."""
        ...

    def events(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; waits for the first event, but no longer than the timeout."""
        ...

    def prepare(self, worker: str) -> None:
        """Let a worker load its models; Ready or Lost follows, before Ready perhaps Sent."""
        ...

    def look(self, worker: str, look: "Look") -> None:
        """Let a worker that is ready look at its models (the preflight); Looked follows, or Lost."""
        ...

    def submit(self, worker: str, job: Job) -> None:
        """Give a worker a job; Delivered or Failed follows, or Lost."""
        ...

    def refuse(self, worker: str) -> None:
        """Give a worker nothing, ever. It keeps its place, so that the next one is not put there."""
        ...

    def dismiss(self, worker: str) -> None:
        """End a worker that leaves and has nothing to do."""
        ...

    def shortage(self) -> str:
        """What a worker needs and what there is, for the message when none comes."""
        ...
