"""How far a build is, read from outside: by another shell, or after a crash."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.builders.events import read_events
from cdgen.errors import UsageError
from cdgen.storage import Holder, holder


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A build folder's state.

    Attributes:
        state: complete, running or interrupted.
        holder: who builds in it now, or None.
        stage: the last stage that was begun.
        done, total, unit: how far that stage is; total may be unknown.
        shards_done, shards_total: of the synthetic shards; 0 before they are planned.
        last_event_time: seconds since 1970, UTC.
    """

    folder: str
    recipe: str
    state: str
    holder: Holder | None
    stage: str
    done: int
    total: int | None
    unit: str
    shards_done: int
    shards_total: int
    last_event_time: float


def status(folder: str | Path) -> Status:
    """Read a folder's status; disturbs nobody.

    Raises:
        UsageError: no build was ever begun there.
    """
    out = Path(folder)
    events = _last_build(read_events(out))
    if not events:
        raise UsageError(
            f"{out}: no build was begun here; cdgen build RECIPE --out {out} begins one"
        )
    held = holder(out)
    finished = events[-1]["event"] == "built"
    stage = _stage(events)
    planned: dict[str, Any] = next(
        (event for event in reversed(events) if event["event"] == "plan"), {}
    )
    return Status(
        folder=str(out),
        recipe=str(events[0].get("recipe", "")),
        state="complete" if finished else "running" if held else "interrupted",
        holder=held,
        stage=str(stage.get("stage", "")),
        done=int(stage.get("done", 0)),
        total=stage.get("total"),
        unit=str(stage.get("unit", "")),
        shards_done=int(planned.get("done", 0))
        + sum(event["event"] == "shard" for event in events),
        shards_total=int(planned.get("shards", 0)),
        last_event_time=float(events[-1].get("time", 0.0)),
    )


def _last_build(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events since the last build began."""
    starts = [number for number, event in enumerate(events) if event.get("event") == "build"]
    return events[starts[-1] :] if starts else []


def _stage(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest word on the newest stage, with its total."""
    mine = [event for event in events if "stage" in event]
    if not mine:
        return {}
    begun = next(
        event
        for event in reversed(mine)
        if event["event"] == "start" and event["stage"] == mine[-1]["stage"]
    )
    return {**begun, **mine[-1]}
