"""What a build did and when, one JSON object a line in work/events.jsonl; read by `cdgen status`."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdgen.progress import Advance, Progress

EVENTS = Path("work/events.jsonl")
_TICK_S = 2.0


class Recorded:
    """A progress listener that also writes events. The clock is an argument."""

    def __init__(
        self, inner: Progress, out: Path, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._inner, self._path, self._clock = inner, out / EVENTS, clock
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def event(self, name: str, /, **facts: Any) -> None:
        """Append one event."""
        line = json.dumps(
            {"time": round(self._clock(), 3), "event": name, **facts}, ensure_ascii=False
        )
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

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


def read_events(out: Path) -> list[dict[str, Any]]:
    """All events of a folder's builds, oldest first; a line cut by a crash is left out."""
    try:
        lines = (out / EVENTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
