"""Mixing sources exactly in tokens (or documents): start-time fair queueing with whole numbers.

A document's tag is the number of units before it in its source, divided by the source's weight; the mixed order is
the order of tags. Source i has weight w_i (its share) and its longest document has L_i units. While no source has
ended, at every document boundary the units of source i differ from w_i T, T being all units so far, by at most
w_i * (sum of the other sources' L_j) below, and (1 - w_i) * L_i above.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np

MAX_DENOMINATOR = 1_000_000
"""Shares are whole numbers of this, at the finest: weights stay below 2^20."""

_FRACTION_BITS = 43
"""Of a tag: remainders below 2^20 stay below 2^63, and two tags of weights below 2^20 differ by more than 2^-40."""


def share_weights(*synthetic: float) -> tuple[int, ...]:
    """(real, then one for each share) as small whole numbers: 0.3 is 7 to 3, not its binary neighbour.

    A share that is no decimal of six digits, such as a third, becomes the nearest fraction with a denominator of at
    most a million. Shares that have no common denominator that small are rounded to millionths.

    Raises:
        ValueError: the shares leave less than a millionth for real text.
    """
    shares = [Fraction(str(share)).limit_denominator(MAX_DENOMINATOR) for share in synthetic]
    whole = min(lcm(*(share.denominator for share in shares)), MAX_DENOMINATOR)
    weights = [round(share * whole) for share in shares]
    if sum(weights) >= whole:
        raise ValueError(f"synthetic shares must leave some real text, found {list(synthetic)}")
    return whole - sum(weights), *weights


def merge(
    num_units: Sequence[np.ndarray], source_weights: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Merge several sources' documents into one order.

    Args:
        num_units: per source, tokens (or ones) of its documents in its own order, int64 `[documents]`.
        source_weights: whole numbers above zero, below 2^20.

    Returns:
        (source, position): int64 `[all documents]` each; position counts in the source's own order. Ties go to the
        source named first. Past the end of a source that runs out, the others go on alone.
    """
    return merge_starts([_starts(units) for units in num_units], source_weights)


def merge_starts(
    starts: Sequence[np.ndarray], source_weights: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """`merge`, of documents anywhere in their sources.

    Args:
        starts: per source, units before each of its documents, rising, int64 `[documents]`.
        source_weights: as in `merge`.
    """
    check_weights(source_weights)
    source = np.repeat(np.arange(len(starts)), [len(start) for start in starts])
    position = np.concatenate([np.arange(len(start), dtype=np.int64) for start in starts])
    keys = _one_key(starts, source_weights)
    if keys is not None:  # runs that are in order already: merging them is fast
        order = np.argsort(keys, kind="stable")
    else:
        whole, rest = (
            np.concatenate(
                [part(start, w) for start, w in zip(starts, source_weights, strict=True)]
            )
            for part in (_whole, _rest)
        )
        order = np.lexsort((position, source, rest, whole))
    return source[order], position[order]


def check_weights(weights: Sequence[int]) -> None:
    """Raise ValueError unless all lie between 0 and 2^20."""
    if any(not 0 < weight < 2**20 for weight in weights):
        raise ValueError(f"weights must lie between 0 and 2^20, found {list(weights)}")


def _one_key(starts: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray | None:
    """The tags times the weights' common denominator, from a whole number on; None where 64 bits cannot hold them."""
    common = lcm(*weights)
    pairs = [(start, w) for start, w in zip(starts, weights, strict=True) if len(start)]
    base = min((int(start[0]) // w for start, w in pairs), default=0)
    if any((int(start[-1]) - base * w) * (common // w) >= 2**63 for start, w in pairs):
        return None
    scaled = [(start - base * w) * (common // w) for start, w in zip(starts, weights, strict=True)]
    return np.concatenate(scaled)


def _whole(start: np.ndarray, weight: int) -> np.ndarray:
    """The whole part of the tags."""
    return start // weight


def _rest(start: np.ndarray, weight: int) -> np.ndarray:
    """The tags' fractions in units of 2^-43, rounded down.

    Equal fractions stay equal. Different ones are a / b and c / d with b and d below 2^20, so they are more than
    2^-40 apart and stay in order. A common denominator of all weights would not fit into 64 bits.
    """
    return ((start % weight) << _FRACTION_BITS) // weight


def bounds(share: float, own_longest: int, others_longest: int) -> tuple[float, float]:
    """(lowest, highest) of a source's units minus share * all units, at every document boundary.

    Args:
        share: the source's.
        own_longest: units of its longest document.
        others_longest: the sum of the other sources' longest documents, in units.
    """
    return -share * others_longest, (1 - share) * own_longest


def _starts(units: np.ndarray) -> np.ndarray:
    """Units before each document, int64."""
    starts: np.ndarray = np.cumsum(units, dtype=np.int64) - units
    return starts
