"""Which n-grams of words of some items stand in a text, exactly, at the speed of a table.

Words are runs of letters, digits and underscores, without regard to case and width: "The dog." and "the dog" are the
same two. An item of at most n words is looked for whole, a longer one by every n words that follow one another in it
(Brown et al. 2020, arXiv 2005.14165, appendix C, with n = 13).

Only words of the items get numbers. So a window of a text is worth a look only where all of its words are known, and
of those only where its hash is an item's; what then is found is compared word by word.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdgen.shards.similarity import words

Codes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that its powers have inverses modulo 2^64."""
_TABLE_BITS = 22
_GAP = 0
"""The number of a word that no item has, and of the border between two texts."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An n-gram of an item, found in a text: of each text and group of items the first, and of those the longest."""

    text: int
    """Its place among the texts."""
    group: int
    item: int
    """The first item of the group that holds the n-gram."""
    begin: int
    """The word it begins at."""
    num_words: int


class WordGrams:
    """The n-grams of groups of items.

    Args:
        groups: per group its items' texts.
        n: words that must agree in a row; items of fewer match whole.

    Memory, measured: 340 bytes for each different n-gram, and 4 MB for each length there is (BLiMP: 97 MB).
    """

    def __init__(self, groups: Sequence[Iterable[str]], n: int) -> None:
        self.n = n
        self.num_items = [0] * len(groups)
        self._numbers: dict[str, int] = {}
        self._places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        """By n-gram: (group, item) of the first item of each group that holds it."""
        for group, items in enumerate(groups):
            for item in items:
                self._add(group, self.num_items[group], item)
                self.num_items[group] += 1
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for gram in self._places:
            by_length.setdefault(len(gram), []).append(gram)
        self._tables = {length: _Table(grams) for length, grams in sorted(by_length.items())}

    def _add(self, group: int, item: int, text: str) -> None:
        numbers = self._numbers
        ids = [numbers.setdefault(word, len(numbers) + 1) for word in words(text)]
        length = min(self.n, len(ids))
        for begin in range(len(ids) - length + 1 if ids else 0):
            places = self._places.setdefault(tuple(ids[begin : begin + length]), [])
            if not places or places[-1][0] != group:
                places.append((group, item))

    def find(self, texts: Sequence[str]) -> list[Hit]:
        """The hits in some texts, by text and group."""
        ids, starts = self._ids(texts)
        known_from = np.cumsum(ids == _GAP)  # a window without gaps has equal counts at both ends
        first: dict[tuple[int, int], Hit] = {}
        for length, table in self._tables.items():
            for begin in table.candidates(ids, known_from):
                gram = tuple(ids[begin : begin + length].tolist())
                text = int(np.searchsorted(starts, begin, side="right")) - 1
                for group, item in self._places.get(gram, ()):
                    hit = Hit(text, group, item, int(begin - starts[text]), length)
                    held = first.get((text, group))
                    if held is None or (hit.begin, -length) < (held.begin, -held.num_words):
                        first[text, group] = hit
        return [first[key] for key in sorted(first)]

    def _ids(self, texts: Sequence[str]) -> tuple[Numbers, Numbers]:
        """(numbers of all texts' words with a gap after each text, where each text begins)."""
        number = self._numbers.get
        parts: list[int] = []
        starts = []
        for text in texts:
            starts.append(len(parts))
            parts.extend([number(word, _GAP) for word in words(text)])
            parts.append(_GAP)
        return np.array(parts, np.int64), np.array(starts, np.int64)


class _Table:
    """Hashes of n-grams of one length."""

    def __init__(self, grams: Sequence[tuple[int, ...]]) -> None:
        self.length = len(grams[0])
        self._hashes = np.unique(
            _hashes(np.array(grams, np.int64).reshape(-1), self.length, step=self.length)
        )
        self._is_there = np.zeros(1 << _TABLE_BITS, np.bool_)
        self._is_there[_slots(self._hashes)] = True

    def candidates(self, ids: Numbers, gaps: Numbers) -> Numbers:
        """Where windows begin whose hash is one of the table's."""
        if len(ids) < self.length:
            return np.empty(0, np.int64)
        before = gaps[: len(gaps) - self.length + 1] - (ids[: len(ids) - self.length + 1] == _GAP)
        whole = np.flatnonzero(before == gaps[self.length - 1 :])
        hashes = _hashes(ids, self.length)[whole]
        likely = np.flatnonzero(self._is_there[_slots(hashes)])
        at = np.searchsorted(self._hashes, hashes[likely])
        at[at == len(self._hashes)] = 0
        begins: Numbers = whole[likely[self._hashes[at] == hashes[likely]]]
        return begins


def _hashes(ids: Numbers, length: int, step: int = 1) -> Codes:
    """Of the windows that begin at 0, step, 2 step, …: polynomials of the words' scrambled numbers modulo 2^64."""
    codes = scrambled(ids.astype(np.uint64))
    num_windows = max(0, len(ids) - length + 1)
    total = np.zeros(num_windows, np.uint64)
    for offset in range(length):  # Horner's rule, all windows at once
        total *= _BASE
        total += codes[offset : offset + num_windows]
    return total[::step]


def scrambled(x: Codes) -> Codes:
    """A bijection that spreads small numbers over 64 bits (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _slots(hashes: Codes) -> npt.NDArray[np.intp]:
    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.intp)
