"""Which samples two sets of shards share, by key and by the hashes in their indexes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from cdgen.shards.index import read_index

ROWS_PER_PASS = 1 << 21
"""Rows of each side that are in memory at once, 24 bytes each and as much again to sort them."""
_COLUMNS = ("key", "ids_xxh64", "text_xxh64")

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCounts:
    """How many samples are the same, and how many are not."""

    equal: int = 0
    """The same key, ids and text."""
    changed: int = 0
    """The same key with other ids or another text."""
    only_a: int = 0
    only_b: int = 0
    example: str = ""
    """The key of a changed sample."""


def compare_samples(
    a: Sequence[Path], b: Sequence[Path], *, num_rows: int, num_equal: int = 0
) -> SampleCounts:
    """Count equal and changed samples of two lists of indexes.

    Keys are compared by a hash of 64 bits: between 10^8 samples and 10^8 others the chance that two different keys are
    taken for one is 1 in 2,000. Above two million rows the indexes are read several times, a part of the keys each
    time, so that memory stays as it is.

    Args:
        a, b: index files of one kind and split.
        num_rows: of the longer side.
        num_equal: samples that are known to be equal and are in neither list.
    """
    parts = max(1, -(-num_rows // ROWS_PER_PASS))
    counts = SampleCounts(equal=num_equal)
    for part in range(parts):
        counts = _added(counts, _rows(a, part, parts), _rows(b, part, parts), a)
    return counts


def _rows(paths: Sequence[Path], part: int, parts: int) -> Hashes:
    """[rows, 3]: hash of the key, of the ids, of the text; of one part of the keys."""
    kept = [np.empty((0, 3), np.uint64)]
    for path in paths:
        table = read_index(path, _COLUMNS)
        keys = _key_hashes(table["key"].to_pylist())
        columns = [keys, *(table[name].to_numpy() for name in _COLUMNS[1:])]
        kept.append(np.stack(columns, axis=1)[keys % np.uint64(parts) == part])
    return np.concatenate(kept)


def _key_hashes(keys: Sequence[str]) -> Hashes:
    return np.array([xxhash.xxh3_64_intdigest(key.encode()) for key in keys], np.uint64)


def _added(counts: SampleCounts, a: Hashes, b: Hashes, paths: Sequence[Path]) -> SampleCounts:
    _, in_a, in_b = np.intersect1d(a[:, 0], b[:, 0], return_indices=True)
    changed = (a[in_a, 1:] != b[in_b, 1:]).any(axis=1)
    num_changed = int(changed.sum())
    if num_changed and not counts.example:
        counts = replace(counts, example=_key_of(paths, a[in_a[changed][0], 0]))
    return replace(
        counts,
        equal=counts.equal + len(in_a) - num_changed,
        changed=counts.changed + num_changed,
        only_a=counts.only_a + len(a) - len(in_a),
        only_b=counts.only_b + len(b) - len(in_b),
    )


def _key_of(paths: Sequence[Path], hashed: np.uint64) -> str:
    for path in paths:
        keys: list[str] = read_index(path, ("key",))["key"].to_pylist()
        found = np.flatnonzero(_key_hashes(keys) == hashed)
        if len(found):
            return keys[int(found[0])]
    return ""
