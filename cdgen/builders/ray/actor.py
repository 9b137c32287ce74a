"""What runs on a worker."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from cdgen.builders.crew import Facts
from cdgen.builders.hand import Hand, Order


class Actor(Hand):
    """A worker whose reports have a thread of their own, and whose models may come out of Ray's object store."""

    def hello_from(self) -> tuple[Facts, str]:
        """As `Hand.hello`, and the node."""
        return self.hello(), ray.get_runtime_context().get_node_id()

    def load_sent(self, order: Order, sent: Mapping[str, Sequence[tuple[str, Any]]]) -> str:
        """As `Hand.load`; the pieces are object references, of which one is held at a time."""
        return self.load(order, {sha256: _unpacked(parts) for sha256, parts in sent.items()})

    @ray.method(concurrency_group="reports")
    def report_beside(self) -> tuple[dict[int, int], int, bool]:
        """As `Hand.report`."""
        return self.report()


def _unpacked(parts: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, bytes]]:
    for name, reference in parts:
        yield name, ray.get(reference)
