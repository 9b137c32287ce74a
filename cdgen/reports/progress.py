"""Progress on stderr: a bar with the time left on a terminal, a plain line now and then otherwise.

A build on a cluster has a table of its workers under the bar, and lines of what happened to them.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from cdgen.builders.tally import Stand, Tally
from cdgen.progress import Advance
from cdgen.reports.workers import headline, noted, worker_table

LINE_EVERY_S = 10.0


def listener(stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> "Bar | Lines":
    """Bars for a terminal, lines for anything else."""
    return Bar(stream) if stream.isatty() else Lines(stream, clock=clock)


class Bar:
    """One bar a stage, kept when the stage is done."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._tally = Tally()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, markup=False)

    def heard(self, event: Mapping[str, Any]) -> None:
        """Keep the table of workers up to date; what went wrong stays above it as a line."""
        self._tally.add(event)
        line = noted(event)
        if line is not None:
            self.say(line)

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
        with _BarsAndWorkers(*columns, console=self._console, stand=self._tally.stand) as bars:
            task = bars.add_task(name, total=total, unit=_plural(unit), note="")

            def advance(amount: int = 1, *, note: str = "") -> None:
                if note:
                    bars.update(task, advance=amount, note=note)
                else:
                    bars.advance(task, amount)

            yield advance
            bars.update(task, total=bars.tasks[0].completed)


class _BarsAndWorkers(Bars):
    """Bars, and under them the workers, if there are any."""

    def __init__(self, *columns: Any, console: Console, stand: Callable[[], Stand]) -> None:
        self._stand = stand
        super().__init__(*columns, console=console, refresh_per_second=4)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn, four times a second."""
        yield self.make_tasks_table(self.tasks)
        stand = self._stand()
        if stand.workers and stand.stage == "decode":
            yield headline(stand)
            size = self.console.size
            yield worker_table(stand, width=size.width, most_rows=max(3, size.height - 8))


class Lines:
    """A line when a stage begins and ends, and every ten seconds between."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._tally = Tally()

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=self._stream, flush=True)

    def heard(self, event: Mapping[str, Any]) -> None:
        """Print what happened to workers and jobs."""
        self._tally.add(event)
        line = noted(event)
        if line is not None:
            self.say(line)

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
                stand = self._tally.stand()
                if stand.workers and name == "decode":
                    self.say(f"{name}: {headline(stand)}")
                    return
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
