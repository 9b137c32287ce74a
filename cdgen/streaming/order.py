"""In which order documents are read: a pure function of the shards' sizes, a seed and the epoch.

Shards are permuted, and documents are permuted inside windows of shards. The raw words of Philox are used
(their sequence is part of NumPy's promise; that of `Generator.permutation` is not), so the order lasts.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

WINDOW_SHARDS = 16


def philox(*parts: str | int) -> np.random.Philox:
    """A counter-based generator keyed by `parts`, independent for different parts."""
    key = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return np.random.Philox(key=int.from_bytes(key[:16], "big"))


def permutation(n: int, *parts: str | int) -> np.ndarray:
    """A permutation of `range(n)`, int64 `[n]`, keyed by `parts`: the places of n words in the words' order.

    Of two equal words the first comes first.
    """
    words = philox(*parts).random_raw(n)
    # Numbers are sorted several times as fast as places by them: a word's low bits make room for its place.
    low = np.uint64((1 << max(n - 1, 1).bit_length()) - 1)
    packed = (words & ~low) | np.arange(n, dtype=np.uint64)
    packed.sort()
    if ((packed[1:] ^ packed[:-1]) <= low).any():  # the bits that were given up may decide
        return np.argsort(words, kind="stable")
    packed &= low
    return packed.view(np.int64)


def document_order(
    num_documents: Sequence[int],
    *,
    source: str,
    seed: int,
    epoch: int,
    window_shards: int = WINDOW_SHARDS,
) -> np.ndarray:
    """The order of one source's documents in one epoch.

    Args:
        num_documents: documents of each shard.
        source: a name that sets this source's order apart from the others'.
        seed, epoch: the order's key.
        window_shards: shards whose documents are shuffled together.

    Returns:
        int64 `[documents, 2]`: (shard, document in the shard).
    """
    shards = permutation(len(num_documents), "shards", source, seed, epoch)
    windows = []
    for number, first in enumerate(range(0, len(shards), window_shards)):
        window = shards[first : first + window_shards]
        pairs = np.concatenate([_pairs(shard, num_documents[shard]) for shard in window])
        windows.append(pairs[permutation(len(pairs), "documents", source, seed, epoch, number)])
    return np.concatenate(windows) if windows else np.empty((0, 2), np.int64)


def _pairs(shard: int, n: int) -> np.ndarray:
    return np.stack([np.full(n, shard, np.int64), np.arange(n, dtype=np.int64)], axis=1)
