"""Near-duplicates: documents that resemble an earlier one, found without comparing all pairs.

Broder's MinHash: under a random order of all shingles, two documents have the same first shingle with a probability
that equals their resemblance. 128 orders make a signature; signatures are cut into bands, and documents that agree in
a whole band are candidates (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4). Every candidate
is then compared exactly, so chance decides only what is overlooked: less than one pair in a thousand at the threshold,
fewer above it.

The orders are computed here and not by a library: theirs are not promised to stay the same, and the corpus hangs on
them.
"""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from cdgen.shards.similarity import Shingles, resemblance
from cdgen.streaming.order import philox

NUM_ORDERS = 128
OVERLOOKED = 1e-3
"""The largest share of pairs exactly at the threshold that may be overlooked."""

_SHINGLES_AT_ONCE = 1 << 12

Signatures = npt.NDArray[np.uint32]


def near_duplicates(
    shingles_of: Callable[[int], Shingles],
    signatures_NK: Signatures,
    *,
    threshold: float,
    num_fixed: int,
) -> npt.NDArray[np.int64]:
    """For each document the earlier one that makes it superfluous, or -1.

    A document goes if it resembles an earlier one that stays by at least `threshold`; it is compared with them in
    their order, and the first such one is named.

    Args:
        shingles_of: the shingles of a document, by its number in the order of precedence.
        signatures_NK: `signatures` of all documents in that order.
        threshold: the smallest resemblance of a near-duplicate, above 0.
        num_fixed: of documents at the beginning that stay whatever they resemble.

    Returns:
        int64 `[documents]`.
    """
    count = len(signatures_NK)
    found = np.full(count, -1, np.int64)
    shared = _shared_bands(signatures_NK, rows_per_band(threshold))
    stays: dict[int, list[int]] = {}
    for number in range(count):
        bands = shared.get(number, ())
        if number >= num_fixed and bands:
            mine = shingles_of(number)
            earlier = sorted({other for band in bands for other in stays.get(band, ())})
            alike = (i for i in earlier if resemblance(mine, shingles_of(i)) >= threshold)
            found[number] = next(alike, -1)
        if found[number] < 0:
            for band in bands:
                stays.setdefault(band, []).append(number)
    return found


def rows_per_band(threshold: float) -> int:
    """The longest bands that overlook few enough pairs at the threshold: they give the fewest false candidates."""
    for rows in range(NUM_ORDERS, 1, -1):
        if (1 - threshold**rows) ** (NUM_ORDERS // rows) <= OVERLOOKED:
            return rows
    return 1


def signatures(of: Iterable[Shingles]) -> Signatures:
    """The signature of each document, uint32 `[documents, orders]`."""
    return np.array([signature(each) for each in of], np.uint32).reshape(-1, NUM_ORDERS)


def signature(of: Shingles) -> Signatures:
    """The smallest value of any of the shingles under each order, uint32 `[orders]`."""
    smallest = np.full(NUM_ORDERS, np.iinfo(np.uint32).max, np.uint32)
    for first in range(0, len(of), _SHINGLES_AT_ONCE):
        part_S1 = of[first : first + _SHINGLES_AT_ONCE, None]
        values_SK = ((part_S1 * _FACTORS + _OFFSETS) >> np.uint64(32)).astype(np.uint32)
        np.minimum(smallest, values_SK.min(axis=0), out=smallest)
    return smallest


def _orders() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Multiply-shift hashing (Dietzfelbinger et al. 1997): odd factors, any offsets, the upper half counts."""
    raw = philox("minhash", NUM_ORDERS).random_raw(2 * NUM_ORDERS)
    return raw[:NUM_ORDERS] | np.uint64(1), raw[NUM_ORDERS:]


_FACTORS, _OFFSETS = _orders()


def _shared_bands(signatures_NK: Signatures, rows: int) -> dict[int, list[int]]:
    """By document the bands' values that another one has too, as numbers of their own."""
    shared: dict[int, list[int]] = {}
    next_value = 0
    for first in range(0, NUM_ORDERS - rows + 1, rows):
        band = np.ascontiguousarray(signatures_NK[:, first : first + rows])
        whole = band.view(np.dtype((np.void, band.dtype.itemsize * rows))).reshape(-1)
        _, value, count = np.unique(whole, return_inverse=True, return_counts=True)
        for number in np.flatnonzero(count[value] > 1).tolist():
            shared.setdefault(number, []).append(next_value + int(value[number]))
        next_value += len(count)
    return shared
