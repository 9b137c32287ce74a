"""A worker of a build on many machines: its models loaded once, then one job after another. It knows no ray.

Two threads of its runner may be in `do`: one decodes while the other cuts rows, writes the tar and delivers it, so
decoding never waits for either. A worker that is told to leave (SIGTERM: a spot machine goes, a node is drained) ends
what it decodes and writes, and hands back what it has not begun.
"""

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from cdgen import __version__
from cdgen.builders.crew import Facts, Failure
from cdgen.builders.fetch import Source, fetched, unobtainable
from cdgen.builders.jobs import Job
from cdgen.builders.numeric_class import decoding_class
from cdgen.builders.prefixes import Prefix
from cdgen.builders.preflight import Look, Measured, measure
from cdgen.builders.process import prepare_process
from cdgen.builders.worker import Context, decode_job, write_job
from cdgen.errors import BuildError, DeterminismError
from cdgen.recipes.schema import Recipe
from cdgen.storage import Receipt
from cdgen.storage.cache import default_cache
from cdgen.storage.places import Folder, Place, staging

if TYPE_CHECKING:
    from cdgen.decode.engine import Engine

OpenEngine = Callable[..., "Engine"]
"""`cdgen.builders.engines.open_engine`, or what stands in for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker is told once.

    Attributes:
        recipe: the recipe.
        context: what jobs share; its prefixes come with each job.
        expert, amateur, further: the models; no amateur of its own = None.
        place: where shards go.
        cache: where this machine keeps models that it fetched; the user's cache folder = None.
        open_engine: loads the models; None = `cdgen.builders.engines.open_engine`, which imports torch.
    """

    recipe: Recipe
    context: Context
    expert: Source
    amateur: Source | None
    further: tuple[Source, ...]
    place: Place
    cache: Path | None
    open_engine: OpenEngine | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """All models."""
        return (self.expert, *(one for one in (self.amateur, *self.further) if one is not None))


@dataclass(frozen=True, slots=True)
class Excuse:
    """Why a job was not delivered, or the models not looked at."""

    kind: Failure
    why: str


class Hand:
    """One worker.

    Args:
        version: the driver's cdgen; of another one nothing is believed.
        recipe: for the numeric class, which is asked for before anything is loaded.
    """

    def __init__(self, version: str, recipe: Recipe) -> None:
        prepare_process()
        self._version, self._recipe = version, recipe
        self._order: Order | None = None
        self._engine: Engine | None = None
        self._decoding = threading.Lock()
        self._drawn: dict[int, int] = {}
        self._total = 0
        self._leaving = threading.Event()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: self._leaving.set())

    def hello(self) -> Facts:
        """Who this is."""
        same = self._version == __version__
        return Facts(
            cdgen=__version__,
            numeric_class=decoding_class(self._recipe) if same else {},
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def missing(self, sources: Sequence[Source], cache: Path | None) -> dict[str, str]:
        """The SHA-256 of the models that this machine neither sees nor has kept, nor can have from an object store.

        With each why its store did not give it; "" where it has none.
        """
        tried = {one.sha256: unobtainable(one, cache or default_cache()) for one in sources}
        return {sha256: why for sha256, why in tried.items() if why is not None}

    def load(self, order: Order, sent: dict[str, Iterator[tuple[str, bytes]]]) -> str:
        """Load the models; returns how they decode. BuildError: a model cannot be had."""
        cache = order.cache or default_cache()
        found = {one.sha256: fetched(one, cache, sent.get(one.sha256)) for one in order.sources}
        tokenizer = order.context.tokenizer
        self._engine = (order.open_engine or _open_engine())(
            order.recipe,
            expert=found[order.expert.sha256],
            amateur=found[order.amateur.sha256] if order.amateur else None,
            further=[found[one.sha256] for one in order.further],
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
        )
        self._order = order
        return self._engine.path

    def look(self, look: Look) -> Measured | Excuse:
        """Look at the models, as a build in one process does. Says why where it cannot; raises nothing."""
        assert self._engine is not None
        try:
            with self._decoding:
                return measure(self._engine, self._recipe, look)
        except Exception as error:  # noqa: BLE001 - it is told to the driver, which stops
            return _excuse(error)

    def do(self, job: Job, prefixes: Sequence[Prefix]) -> Receipt | Excuse:
        """Decode a job, write its shard and deliver it. Says why where it cannot; raises nothing."""
        assert self._order is not None
        context = replace(
            self._order.context,
            prefixes=_Window(job.first, prefixes),
            # Of the machine that decodes: the driver may be of another class, and decodes nothing.
            numeric_class=decoding_class(self._recipe),
        )
        try:
            with self._decoding:
                if self._leaving.is_set():
                    return Excuse("handed back", "the worker leaves")
                decoded = self._decode(job, context)
        except Exception as error:  # noqa: BLE001 - it is told to the driver, which decides
            return _excuse(error)
        finally:
            self._drawn.pop(job.number, None)
        try:
            with _scratch(self._order.place) as root:
                receipt = write_job(job, context, decoded, root)
                self._order.place.deliver(root, receipt)
        except Exception as error:  # noqa: BLE001 - the same
            return _excuse(error, storing=True)
        return receipt

    def report(self) -> tuple[dict[int, int], int, bool]:
        """Tokens drawn of the job that is decoded, by its number; of all jobs; whether this worker leaves."""
        return dict(self._drawn), self._total, self._leaving.is_set()

    def _decode(self, job: Job, context: Context) -> Any:
        assert self._engine is not None
        self._drawn[job.number] = 0

        def count(tokens: int) -> None:
            self._drawn[job.number] += tokens
            self._total += tokens

        return decode_job(job, context, self._engine, count)


def _open_engine() -> OpenEngine:
    from cdgen.builders.engines import open_engine

    return open_engine


class _Window(Sequence[Prefix]):
    """A job's prefixes under the numbers that they have in the build."""

    def __init__(self, first: int, prefixes: Sequence[Prefix]) -> None:
        self._first, self._prefixes = first, prefixes

    def __len__(self) -> int:
        return self._first + len(self._prefixes)

    @overload
    def __getitem__(self, number: int) -> Prefix: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Prefix]: ...
    def __getitem__(self, number: int | slice) -> Prefix | Sequence[Prefix]:
        assert not isinstance(number, slice)
        return self._prefixes[number - self._first]


@contextmanager
def _scratch(place: Place) -> Iterator[Path]:
    """A root of one's own: beside the corpus where that is a folder, on this machine's disk otherwise."""
    if isinstance(place, Folder):
        with staging(place.root) as root:
            yield root
        return
    root = Path(tempfile.mkdtemp(prefix="cdgen-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _excuse(error: Exception, *, storing: bool = False) -> Excuse:
    """What kind of failure an exception is, and one line about it."""
    why = str(error) if isinstance(error, BuildError) else f"{type(error).__name__}: {error}"
    why = " ".join(why.split())[:500]
    if isinstance(error, DeterminismError):
        return Excuse("fault", why)
    # torch has an error of this name, which is imported only where torch is.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Excuse("memory", why)
    if storing and isinstance(error, BuildError | OSError):
        return Excuse("storage", why)
    return Excuse("error", why)
