"""Mixing sources exactly in tokens: start-time fair queueing with whole numbers.

A document's tag is the number of tokens before it in its source, divided by the source's weight; the mixed order is
the order of tags. At every document boundary the tokens of source i differ from w_i T by at most
w_i * (sum of the other sources' longest documents) below, and (1 - w_i) * (its own longest document) above.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np

MAX_DENOMINATOR = 1_000_000


def share_weights(synthetic: float) -> tuple[int, int]:
    """(real, synthetic) as small whole numbers: 0.3 is 7 to 3, not its binary neighbour.

    A share that is no decimal of six digits, such as a third, becomes the nearest fraction with a denominator of at
    most a million: tags stay below 2^63 up to 9 10^12 tokens a source.
    """
    share = Fraction(str(synthetic)).limit_denominator(MAX_DENOMINATOR)
    return share.denominator - share.numerator, share.numerator


def merge(
    num_tokens: Sequence[np.ndarray], source_weights: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Merge several sources' documents into one order.

    Args:
        num_tokens: per source, tokens of its documents in its own order, int64 `[documents]`.
        source_weights: whole numbers above zero.

    Returns:
        (source, position): int64 `[all documents]` each; position counts in the source's own order. Ties go to the
        source named first. Past the end of a source that runs out, the others go on alone.
    """
    if any(weight <= 0 for weight in source_weights):
        raise ValueError(f"weights must be above zero, found {list(source_weights)}")
    tags = [_starts(tokens) for tokens in num_tokens]
    scale = lcm(*source_weights)
    limit = max((int(tag[-1]) for tag in tags if len(tag)), default=0) * scale
    if limit >= 2**63:
        raise ValueError(f"too many tokens for weights {list(source_weights)}; use rounder shares")
    tag = np.concatenate(
        [start * (scale // weight) for start, weight in zip(tags, source_weights, strict=True)]
    )
    source = np.concatenate([np.full(len(t), i, np.int64) for i, t in enumerate(tags)])
    position = np.concatenate([np.arange(len(t), dtype=np.int64) for t in tags])
    order = np.lexsort((position, source, tag))
    return source[order], position[order]


def bounds(share: float, own_longest: int, others_longest: int) -> tuple[float, float]:
    """(lowest, highest) of tokens minus share * total, at every document boundary (both in tokens)."""
    return -share * others_longest, (1 - share) * own_longest


def _starts(tokens: np.ndarray) -> np.ndarray:
    """Tokens before each document, int64."""
    starts: np.ndarray = np.cumsum(tokens, dtype=np.int64) - tokens
    return starts
