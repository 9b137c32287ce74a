"""How often each document came before: 12 bytes of memory for each different one, whatever their number.

Hashes are 64 bits. Two different documents that share one are numbered as if they were copies, which no result
depends on: their ids differ anyway. Among 5 million documents that happens with a probability of 7e-7.
"""

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


class Occurrences:
    """Counts hashes in batches. Sorted runs of growing length, merged so that few are searched."""

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, npt.NDArray[np.uint32]]] = []
        """(sorted hashes, how often each was seen), the longest run first."""

    @property
    def num_bytes(self) -> int:
        """Memory of what was counted so far."""
        return sum(known.nbytes + times.nbytes for known, times in self._runs)

    @property
    def num_runs(self) -> int:
        """How many runs are searched."""
        return len(self._runs)

    def number(self, hashes: Hashes) -> Counts:
        """Which occurrence each hash is, from 0, over all calls so far and within this one."""
        distinct, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        before = np.zeros(len(distinct), np.int64)
        new = np.ones(len(distinct), np.bool_)
        for known, times in self._runs:
            at = np.searchsorted(known, distinct)
            found = np.flatnonzero(known[np.minimum(at, len(known) - 1)] == distinct)
            before[found] = times[at[found]]
            times[at[found]] += counts[found].astype(np.uint32)
            new[found] = False
        if new.any():
            self._add(distinct[new], counts[new].astype(np.uint32))
        return before[inverse] + _rank(inverse, counts)

    def _add(self, hashes: Hashes, times: npt.NDArray[np.uint32]) -> None:
        while self._runs and len(self._runs[-1][0]) < 2 * len(hashes):
            known, known_times = self._runs.pop()
            hashes, times = np.concatenate([known, hashes]), np.concatenate([known_times, times])
            order = np.argsort(hashes)
            hashes, times = hashes[order], times[order]
        self._runs.append((hashes, times))


def _rank(inverse: npt.NDArray[np.intp], counts: npt.NDArray[np.intp]) -> Counts:
    """Which copy of its value each item is within the batch, from 0, in the batch's order."""
    order = np.argsort(inverse, kind="stable")
    firsts = np.cumsum(counts) - counts
    ranks = np.empty(len(inverse), np.int64)
    ranks[order] = np.arange(len(inverse)) - np.repeat(firsts, counts)
    return ranks
