"""How much of the drawn text stands word for word, that is token for token, in the real train text.

A window of L tokens is copied if the very same tokens stand in a row in one real train document. The measure follows
Lee et al. 2022 (arXiv 2107.06499, section 6: the share of tokens in copied windows of 50). Windows do not cross from
one document into another, and those of a kept prefix are left out: it is real text, of another split.

Windows are compared by 64-bit hashes, made for each length from those of the length before; only windows whose two
ends were copied at that length are looked at again. At 10^8 tokens a side, a chance agreement of any two has odds of
about one in two thousand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdgen.mixing.word_grams import scrambled
from cdgen.shards.index import read_index
from cdgen.shards.reader import MappedShard

LENGTHS = (8, 16, 32, 50, 100, 200, 400)
"""Tokens; each at most twice the one before."""

Codes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What is copied in windows of one length.

    Attributes:
        length: tokens of a window.
        num_documents: synthetic documents that hold a copied window: those whose longest copy is at least so long.
        num_tokens: drawn tokens that lie in one.
        num_windows: windows there are.
        num_copied_windows: of those, the copied ones.
    """

    length: int
    num_documents: int
    num_tokens: int
    num_windows: int
    num_copied_windows: int


def copying(synthetic: Sequence[MappedShard], real: Sequence[MappedShard]) -> tuple[Copied, ...]:
    """Copied windows of every length in LENGTHS.

    Args:
        synthetic: shards of drawn text.
        real: shards of the real train text.

    Memory: a hash, a place and a flag for each token of both.
    """
    drawn = [_Windows.of(shard) for shard in synthetic]
    source = [_Windows.of(shard) for shard in real]
    found = []
    for length in LENGTHS:
        for windows in (*drawn, *source):
            windows.lengthen(length)
        there = _sorted(windows.candidates() for windows in drawn)
        copied = _sorted(windows.keep(there) for windows in source)
        for windows in drawn:
            windows.keep(copied)
        found.append(_counted(length, drawn))
    return tuple(found)


class _Windows:
    """The windows of one length over a shard's ids.

    Attributes:
        code: hash of the window that begins at each id, uint64 `[ids]`.
        is_copied: whether it was found on the other side, at the length so far.
        room: ids from here to the end of the document, 0 in a prefix.
    """

    def __init__(self, ids: np.ndarray, num_tokens: np.ndarray, num_prefix: np.ndarray) -> None:
        ends = np.cumsum(num_tokens)
        begins = np.repeat(ends - num_tokens, num_tokens)
        place = np.arange(len(ids))
        self.room = np.repeat(ends, num_tokens) - place
        self.room[place - begins < np.repeat(num_prefix, num_tokens)] = 0
        self.ends = ends
        self.code = scrambled(ids.astype(np.uint64) + np.uint64(1))
        self.is_copied = np.ones(len(ids), np.bool_)
        self.length = 1

    @classmethod
    def of(cls, shard: MappedShard) -> "_Windows":
        """Windows of one token over a whole shard."""
        index = read_index(shard.index_path, ("prefix_tokens",))
        ids = [np.empty(0, shard.dtype), *(shard.ids(row) for row in range(len(shard)))]
        return cls(np.concatenate(ids), shard.num_tokens, index["prefix_tokens"].to_numpy())

    def lengthen(self, length: int) -> None:
        """Go over to windows of `length`; those remain candidates whose two ends were copied."""
        while self.length < length:
            longer = min(length, 2 * self.length)
            step = longer - self.length
            whole = np.zeros(len(self.code), np.bool_)
            # An end further on lies in the same document: only windows with room for it are looked at.
            whole[: -step or None] = self.is_copied[:-step] & self.is_copied[step:]
            whole &= self.room >= longer
            self.code[:-step] = scrambled(self.code[:-step] * _FACTOR + self.code[step:])
            self.is_copied, self.length = whole, longer

    def candidates(self) -> Codes:
        """Hashes of the windows that may be copied."""
        return self.code[self.is_copied]

    def keep(self, others: Codes) -> Codes:
        """Of the candidates keep those that are among `others` (ascending); returns their hashes."""
        begins = np.flatnonzero(self.is_copied)
        is_there = _is_among(self.code[begins], others)
        self.is_copied[begins[~is_there]] = False
        return self.code[begins[is_there]]


def _sorted(parts: Iterator[Codes]) -> Codes:
    return np.unique(np.concatenate([np.empty(0, np.uint64), *parts]))


def _is_among(codes: Codes, others: Codes) -> Mask:
    if not len(others):
        return np.zeros(len(codes), np.bool_)
    at = np.searchsorted(others, codes)
    at[at == len(others)] = 0
    found: Mask = others[at] == codes
    return found


def _counted(length: int, drawn: Sequence[_Windows]) -> Copied:
    documents = tokens = there = copied = 0
    for windows in drawn:
        begins = np.flatnonzero(windows.is_copied)
        covered = np.zeros(len(windows.code) + 1, np.int64)
        np.add.at(covered, begins, 1)
        np.add.at(covered, begins + length, -1)
        tokens += int((np.cumsum(covered) > 0).sum())
        documents += len(np.unique(np.searchsorted(windows.ends, begins, side="right")))
        there += int((windows.room >= length).sum())
        copied += len(begins)
    return Copied(
        length=length,
        num_documents=documents,
        num_tokens=tokens,
        num_windows=there,
        num_copied_windows=copied,
    )
