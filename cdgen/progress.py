"""How long work reports what it does, without knowing who listens."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Advance(Protocol):
    """Called as work is done: by how much, and a short note to show beside the bar."""

    def __call__(self, amount: int = 1, *, note: str = "") -> None:
        """Count `amount` more units as done."""
        ...


class Progress(Protocol):
    """A listener: a terminal bar, plain lines, an event log, a test."""

    def stage(self, name: str, *, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """A long step of `total` units (None = unknown), finished when the context ends without an error."""
        ...

    def say(self, line: str) -> None:
        """One line that stays."""
        ...

    def heard(self, event: Mapping[str, Any]) -> None:
        """Something that a build noted of itself, such as a finished shard: see `cdgen.builders.tally`."""
        ...


class Quiet:
    """Listens to nothing."""

    @contextmanager
    def stage(self, name: str, *, total: int | None, unit: str) -> Iterator[Advance]:
        """Ignore the stage."""
        yield _ignore

    def say(self, line: str) -> None:
        """Ignore the line."""

    def heard(self, event: Mapping[str, Any]) -> None:
        """Ignore the event."""


def _ignore(amount: int = 1, *, note: str = "") -> None:
    pass
