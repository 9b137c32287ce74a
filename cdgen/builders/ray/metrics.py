"""A build's counts where Ray shows its own."""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge


class Metrics:
    """Counts for Ray's Prometheus endpoint, taken from a build's events."""

    def __init__(self, build: str) -> None:
        tags = {"default_tags": {"build": build}}
        self._counters = {
            name: self._made(Counter, f"cdgen_{name}", text, tags)
            for name, text in (
                ("shards", "Shards delivered."),
                ("tokens", "Tokens of delivered shards."),
                ("retries", "Jobs given out again."),
                ("deaths", "Workers that died."),
                ("quarantined", "Jobs set aside."),
            )
        }
        self._workers = self._made(Gauge, "cdgen_workers", "Workers that have joined.", tags)
        self._there: set[str] = set()

    @staticmethod
    def _made(kind: Any, name: str, text: str, tags: Mapping[str, Mapping[str, str]]) -> Any:
        metric = kind(name, description=text, tag_keys=("build",))
        metric.set_default_tags(dict(tags["default_tags"]))
        return metric

    def heard(self, event: Mapping[str, Any]) -> None:
        """Count an event."""
        match event["event"]:
            case "shard":
                self._counters["shards"].inc(1)
                if event["tokens"]:  # nothing is no increment to Ray
                    self._counters["tokens"].inc(event["tokens"])
            case "retry":
                self._counters["retries"].inc(1)
            case "quarantined":
                self._counters["quarantined"].inc(1)
            case "worker":
                state, name = event["state"], event["worker"]
                (self._there.add if state == "joined" else self._there.discard)(name)
                self._workers.set(len(self._there))
                if state == "dead":
                    self._counters["deaths"].inc(1)
