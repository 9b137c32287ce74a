"""Blocks shuffled among their neighbours: block j of a run is another block of the global order, of the same span.

Neighbouring blocks of the global order are often parts of one long document, and a batch of them says the same thing
several times (decision 29). Which block comes j-th is still arithmetic.
"""

import numpy as np

from cdgen.streaming.kept import Kept
from cdgen.streaming.order import permutation


class Spans:
    """The order in which the blocks of the global order are read.

    Args:
        span_blocks: blocks that are shuffled together; below 2 nothing is shuffled.
        seed: key of the order.
        num_blocks: of the run, whose last span may be short; None for an endless one.
    """

    def __init__(self, span_blocks: int, seed: int, num_blocks: int | None) -> None:
        self.span_blocks, self.seed, self.num_blocks = span_blocks, seed, num_blocks
        self._orders: Kept[np.ndarray] = Kept(4)

    @property
    def is_shuffled(self) -> bool:
        """Whether any block comes elsewhere than in the global order."""
        return self.span_blocks > 1

    def begin(self, number: int) -> int:
        """The first block of the span that holds block `number`: the same blocks come before it in both orders."""
        return number - number % max(self.span_blocks, 1)

    def blocks(self, numbers: np.ndarray) -> np.ndarray:
        """Blocks of the global order that come as `numbers`, both int64 `[blocks]`."""
        if not self.is_shuffled:
            return numbers
        found = np.empty_like(numbers)
        spans, places = np.divmod(numbers, self.span_blocks)
        for span in np.unique(spans).tolist():
            chosen = spans == span
            found[chosen] = span * self.span_blocks + self._order(span)[places[chosen]]
        return found

    def _order(self, span: int) -> np.ndarray:
        size = self.span_blocks
        if self.num_blocks is not None:
            size = min(size, self.num_blocks - span * size)
        return self._orders.get(span, lambda: permutation(size, "blocks", self.seed, span))
