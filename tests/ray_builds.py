"""Builds on a Ray cluster whose workers decode with `pretend_engine`; as a script it is a driver that can be killed."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from corpora import events
from pretend_engine import Opener, mark
from small import SMALL_RECIPE

from cdgen.builders.jobs import jobs
from cdgen.builders.prefixes import read_prefixes
from cdgen.builders.profile import Profile
from cdgen.builders.ray import crew, decoding, head
from cdgen.builders.report import Report
from cdgen.builders.run import build, open_build
from cdgen.builders.stages import prefix_table
from cdgen.recipes.load import load_recipe

RECIPE = SMALL_RECIPE.replace(
    "rows_per_batch: 24, batches_per_shard: 3", "rows_per_batch: 12, batches_per_shard: 1"
)
"""14 jobs of one batch."""
PATIENCE_S = 120.0


def profile(address: str = "auto", **changes: Any) -> Profile:
    """Half a core for a worker, and nothing done twice unless it is said."""
    said = {
        "workers": {"max": 2, "cpus": 0.5},
        "stragglers": None,
        "patience_s": PATIENCE_S,
    }
    fields = {"version": 1, "name": "here", "engine": "ray", "address": address, **said, **changes}
    return Profile.model_validate(fields)


@dataclass(frozen=True)
class Mortal:
    """As `cdgen.builders.engines.open_engine`, but whoever finds a file decodes nothing: it deletes it and dies."""

    file: Path

    def __call__(self, *arguments: Any, **rest: Any) -> Any:
        from cdgen.builders.engines import open_engine

        engine: Any = open_engine(*arguments, **rest)
        decode = engine.decode

        def decode_or_die(*arguments: Any, **rest: Any) -> Any:
            with suppress(FileNotFoundError):
                self.file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return decode(*arguments, **rest)

        engine.decode = decode_or_die
        return engine


@contextmanager
def opening_by(opener: Any) -> Iterator[None]:
    """Workers open their models by something else."""
    honest: Any = decoding.order_of

    def order_of(*arguments: Any) -> Any:
        return replace(honest(*arguments), open_engine=opener)

    with patch.object(decoding, "order_of", order_of):
        yield


class Home:
    """A recipe with its text, a warm cache, a folder of orders for the engine, and where the corpus goes."""

    def __init__(self, recipe: Path, cache: Path, folder: Path) -> None:
        self.recipe, self.cache, self.folder = recipe, cache, folder
        self.out, self.orders = folder / "out", folder / "orders"
        self.orders.mkdir(exist_ok=True)

    def build(self, profile: Profile) -> Report:
        """Build, or finish the build."""
        with self._pretending():
            return build(self.recipe, self.out, cache=self.cache, profile=profile)

    @contextmanager
    def _pretending(self) -> Iterator[None]:
        with (
            opening_by(Opener(self.orders)),
            patch.object(crew, "REPORT_EVERY_S", 0.1),
            patch.object(head, "HEAD_GONE_S", 3.0),
        ):
            yield

    def order(self, name: str) -> Path:
        """Give the engines an order."""
        path = self.orders / name
        path.touch()
        return path

    def marks(self, out: Path) -> list[str]:
        """What the batches of the jobs are called, read from a finished build of the same text."""
        work = open_build(load_recipe(self.recipe), out, self.cache)
        generate = work.recipe.generate
        prefixes = read_prefixes(prefix_table(out, work.digests), generate).kept
        every = jobs(len(prefixes), generate, decode_digest=work.digests.decode)
        return [mark(prefixes[job.first].ids) for job in every]

    def began(self) -> list[tuple[str, int]]:
        """(mark, process) of every batch that was begun."""
        names = [path.name.split("-") for path in self.orders.glob("began-*")]
        return [(name[1], int(name[2])) for name in names]

    def events(self, name: str, **facts: object) -> list[dict[str, Any]]:
        """The events of a kind that say so."""
        found: list[dict[str, Any]] = events(self.out, name)
        return [one for one in found if facts.items() <= one.items()]


def until(done: Callable[[], object]) -> None:
    """Wait for something; an AssertionError if it never happens."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@contextmanager
def meanwhile(*steps: Callable[[], object]) -> Iterator[None]:
    """Do steps, one after the other, beside what the block does, the last one in any case; an error is the block's."""

    def run() -> None:
        *before, last = steps
        try:
            for step in before:
                step()
        finally:
            last()

    with ThreadPoolExecutor(max_workers=1) as thread:
        done = thread.submit(run)
        yield
        done.result()


def kill(pid: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """End a process, if it is there."""
    with suppress(ProcessLookupError):
        os.kill(pid, sig)


def patiently(start: Callable[[], Any]) -> Any:
    """Start a node. Ray gives it 30 s, which is not always enough beside a busy suite.

    Its agent is the small one: the other has modules to load for a dashboard, and 15 s in which to load them.
    """
    absent = patch("ray._private.utils.get_dashboard_dependency_error", ImportError)
    for tries in range(4):
        try:
            with absent:
                return start()
        except Exception as error:  # Ray raises nothing narrower
            if "timed out during startup" not in str(error) or tries == 3:
                raise
    raise AssertionError


def main(arguments: Sequence[str]) -> None:
    """recipe cache folder profile-as-JSON: a driver in a process of its own, where nobody catches anything."""
    recipe, cache, folder, fields = arguments
    home = Home(Path(recipe), Path(cache), Path(folder))
    home.build(Profile.model_validate(json.loads(fields)))


if __name__ == "__main__":
    main(sys.argv[1:])
