"""How a build went, from its events: when tokens were decoded, how long each stage took, how often it was begun."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EVENTS_OF_A_BUILD = ("build", "start", "shard", "end")
"""The events that say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A synthetic shard that was finished."""

    seconds: float
    """Since the first event."""
    num_tokens: int
    """Of all shards so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A build.

    Attributes:
        num_begun: how often it was begun: once, and again after every interruption or change.
        stages: seconds that each stage took, in the order of their first beginning; of all times it ran to its end.
        decoded: the synthetic shards in the order in which they were finished.
        tokens_per_s: of the decode stage, counted in the tokens of finished shards; None where none was timed.
    """

    num_begun: int
    stages: dict[str, float]
    decoded: tuple[Decoded, ...]
    tokens_per_s: float | None


def how_built(events: Iterable[Mapping[str, Any]]) -> Built | None:
    """Read a build's events, oldest first; None where there are none. Of its events EVENTS_OF_A_BUILD are enough."""
    origin: float | None = None
    begun: dict[str, float] = {}
    stages: dict[str, float] = {}
    decoded: list[Decoded] = []
    num_begun = all_tokens = timed_tokens = open_tokens = 0
    for event in events:
        if origin is None:
            origin = float(event.get("time", 0.0))
        now, stage = float(event.get("time", origin)), str(event.get("stage", ""))
        match event.get("event"):
            case "build":  # what was interrupted has no end: it is not timed
                num_begun, open_tokens = num_begun + 1, 0
                begun.clear()
            case "start":
                begun[stage] = now
            case "shard":
                open_tokens += int(event.get("tokens", 0))
                all_tokens += int(event.get("tokens", 0))
                decoded.append(Decoded(seconds=round(now - origin, 3), num_tokens=all_tokens))
            case "end" if stage in begun:
                stages[stage] = stages.get(stage, 0.0) + max(now - begun.pop(stage), 0.0)
                if stage == "decode":
                    timed_tokens, open_tokens = timed_tokens + open_tokens, 0
    if origin is None:
        return None
    seconds = stages.get("decode", 0.0)
    return Built(
        num_begun=num_begun,
        stages={name: round(value, 3) for name, value in stages.items()},
        decoded=tuple(decoded),
        tokens_per_s=timed_tokens / seconds if timed_tokens and seconds else None,
    )
