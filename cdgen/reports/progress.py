"""Progress on stderr: a bar with the time left on a terminal, a plain line now and then otherwise."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from cdgen.progress import Advance

LINE_EVERY_S = 10.0


def listener(stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> "Bar | Lines":
    """Bars for a terminal, lines for anything else."""
    return Bar(stream) if stream.isatty() else Lines(stream, clock=clock)


class Bar:
    """One bar a stage, kept when the stage is done."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, markup=False)

    @contextmanager
    def stage(self, name: str, *, total: int | None, unit: str) -> Iterator[Advance]:
        """Show a bar while the stage runs."""
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        with Bars(*columns, console=self._console) as bars:
            task = bars.add_task(name, total=total, unit=_plural(unit), note="")

            def advance(amount: int = 1, *, note: str = "") -> None:
                if note:
                    bars.update(task, advance=amount, note=note)
                else:
                    bars.advance(task, amount)

            yield advance
            bars.update(task, total=bars.tasks[0].completed)


class Lines:
    """A line when a stage begins and ends, and every ten seconds between."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=self._stream, flush=True)

    @contextmanager
    def stage(self, name: str, *, total: int | None, unit: str) -> Iterator[Advance]:
        """Print lines while the stage runs."""
        started = last = self._clock()
        done = 0
        of = f" of {total:,}" if total is not None else ""
        self.say(f"{name}: begun")

        def advance(amount: int = 1, *, note: str = "") -> None:
            nonlocal done, last
            done += amount
            now = self._clock()
            if now - last >= LINE_EVERY_S:
                last = now
                left = (
                    f", {(now - started) * (total - done) / done:.0f} s left"
                    if total and done
                    else ""
                )
                self.say(f"{name}: {done:,}{of} {_plural(unit)}{left}{', ' + note if note else ''}")

        yield advance
        self.say(f"{name}: done, {done:,} {_plural(unit)} in {self._clock() - started:.1f} s")


def _plural(unit: str) -> str:
    return unit if unit.endswith("s") else unit + "s"
