"""Tokens that the workers of a build have drawn: counted once for each job, logged from time to time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from cdgen.builders.jobs import Job
from cdgen.progress import Advance

_EVERY_S = 2.0
"""Between two events `drawn`, at least."""
_WORKERS_PER_S = 30
"""Workers whose tokens are logged in a second, at most: a kilobyte, whatever the number of workers."""


@dataclass(slots=True)
class DrawnTokens:
    """A job's tokens count once, however often it is begun.

    What a lost attempt had drawn stays counted; the next attempt is heard only beyond it.

    Args:
        advance: told of tokens.
        size: how many a job has.
    """

    advance: Advance
    size: Callable[[Job], int]
    _best: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of_nothing(cls) -> Self:
        """Heard by nobody."""
        return cls(_unheard, lambda _: 0)

    def drawn(self, number: int, tokens: int) -> None:
        """A worker has drawn so many tokens of a job."""
        new = tokens - self._best.get(number, 0)
        if new > 0:
            self._best[number] = tokens
            self.advance(new)

    def done(self, job: Job) -> None:
        """A job is delivered: all of its tokens count."""
        self.drawn(job.number, self.size(job))
        self._best.pop(job.number, None)


def drawn_every_s(num_workers: int) -> float:
    """How long to wait before the tokens of so many workers are logged again: with many of them, longer."""
    return max(_EVERY_S, num_workers / _WORKERS_PER_S)


def _unheard(amount: int = 1, *, note: str = "") -> None:
    """Nobody listens (`cdgen.progress.Advance`)."""
