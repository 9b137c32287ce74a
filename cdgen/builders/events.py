"""What a build did and when, one JSON object a line in work/events.jsonl; read by `cdgen status`.

What the events are called, and what they say: `cdgen.builders.tally`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cdgen.builders.tally import Tally
from cdgen.errors import CdgenError
from cdgen.progress import Advance, Progress
from cdgen.storage import reading
from cdgen.storage.places import writing

EVENTS = Path("work/events.jsonl")
_TICK_S = 2.0
_STAND_EVERY = 1 << 20
"""Bytes of log between two events `stand`, at least."""
_STAND_SHARE = 10
"""How many times as long as a `stand` the log before the next one is, at least."""
_BLOCK = 1 << 20
"""Bytes that are read at a time from the log's end."""

Event = dict[str, Any]


class Recorded:
    """A progress listener that also writes events, and now and then what they come to. The clock is an argument."""

    def __init__(
        self, inner: Progress, out: Path, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._inner, self._path, self._clock = inner, out / EVENTS, clock
        self._also: list[Callable[[Event], object]] = []
        self._tally, self._since_stand, self._stand_every = Tally(), 0, _STAND_EVERY
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(self._path)

    def event(self, name: str, /, **facts: Any) -> None:
        """Append one event, and pass it on."""
        event = {"time": round(self._clock(), 3), "event": name, **facts}
        self._since_stand += self._write(event)
        self._tally.add(event)
        if self._since_stand >= self._stand_every and self._tally.begun:
            size = self._write({"time": event["time"], "event": "stand", **self._tally.kept()})
            self._since_stand, self._stand_every = 0, max(_STAND_EVERY, _STAND_SHARE * size)
        self._inner.heard(event)
        for listener in self._also:
            listener(event)

    def _write(self, event: Event) -> int:
        """Append a line; returns its length."""
        line = (json.dumps(event, ensure_ascii=False) + "\n").encode()
        with writing(self._path), self._path.open("ab") as file:
            return file.write(line)

    @contextmanager
    def also(self, listener: Callable[[Event], object]) -> Iterator[None]:
        """Tell somebody else of every event too, while the block runs."""
        self._also.append(listener)
        try:
            yield
        finally:
            self._also.remove(listener)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Record why the block gives up. An interrupt is recorded nowhere: a log without an end says as much."""
        try:
            yield
        except Exception as error:
            with suppress(CdgenError):  # a full disk, a lost lease: what is raised matters more
                self.event("failed", why=_reason(error))
            raise

    def heard(self, event: Mapping[str, Any]) -> None:
        """Pass on an event that somebody else recorded."""
        self._inner.heard(event)

    def say(self, line: str) -> None:
        """Pass on a line."""
        self._inner.say(line)

    @contextmanager
    def stage(self, name: str, *, total: int | None, unit: str) -> Iterator[Advance]:
        """Pass on a stage, and record its beginning, its progress every two seconds and its end."""
        self.event("start", stage=name, total=total, unit=unit)
        done, last = 0, self._clock()
        with self._inner.stage(name, total=total, unit=unit) as advance:

            def both(amount: int = 1, *, note: str = "") -> None:
                nonlocal done, last
                advance(amount, note=note)
                done += amount
                now = self._clock()
                if (
                    now - last >= _TICK_S or now < last
                ):  # a clock that jumps back must not silence the log
                    last = now
                    self.event("progress", stage=name, done=done, total=total, unit=unit, note=note)

            yield both
        self.event("end", stage=name, done=done, unit=unit)


class EventLog:
    """The events of a folder's builds, oldest first, while more may be added."""

    def __init__(self, out: Path) -> None:
        self._path, self._offset = out / EVENTS, 0

    def skip_to_last(self, wanted: Callable[[Event], bool], *names: str) -> None:
        """Begin at the last event that is wanted, of those with one of the names; from the start if there is none."""
        marks = _marks(names)
        with suppress(FileNotFoundError), self._path.open("rb") as file, reading(self._path):
            self._offset = _last(file, wanted, marks)

    def new(self, *names: str) -> Iterator[Event]:
        """What was added since the last time. A line that is not whole yet waits; one that a crash cut is left out.

        Only events with one of the names, if any is given: other lines are not parsed.
        """
        marks = _marks(names)
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with reading(self._path), file:
            if os.fstat(file.fileno()).st_size < self._offset:  # another file by that name
                self._offset = 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                if marks and not any(mark in line for mark in marks):
                    continue
                event = _event(line)
                if event is not None and (not names or event.get("event") in names):
                    yield event


def read_events(out: Path) -> list[Event]:
    """All events of a folder's builds, oldest first; a line cut by a crash is left out."""
    return list(EventLog(out).new())


def _reason(error: Exception) -> str:
    """One line; of a bug also its kind."""
    why = str(error) if isinstance(error, CdgenError) else f"{type(error).__name__}: {error}"
    return " ".join(why.split())


def _end_last_line(path: Path) -> None:
    """So that the first event of this build does not become the end of a line that a crash has cut."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _marks(names: Sequence[str]) -> list[bytes]:
    """What a line with such an event has in it; another may have it in one of its texts."""
    return [f'"event": "{name}"'.encode() for name in names]


def _last(file: BinaryIO, wanted: Callable[[Event], bool], marks: Sequence[bytes]) -> int:
    """Where the last line begins that has one of the marks and a wanted event; 0 if there is none."""
    start, rest = file.seek(0, os.SEEK_END), b""
    while start:
        size = min(_BLOCK, start)
        start = file.seek(start - size)
        block = file.read(size) + rest
        begin = block.find(b"\n") + 1 if start else 0  # the first line may begin before the block
        if start and not begin:
            rest = block
            continue
        rest = block[:begin]
        *lines, cut = block[begin:].split(b"\n")
        end = start + len(block) - len(cut)
        for line in reversed(lines):
            end -= len(line) + 1
            if any(mark in line for mark in marks):
                event = _event(line)
                if event is not None and wanted(event):
                    return end
    return 0


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None
