"""A source as an endless line of documents: pass after pass, each in an order of its own, addressed by token.

Where a window of shards begins follows from the shards' sizes, which the manifest has. Only the windows that are
touched are loaded, so a token's document is found in the same time wherever it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import numpy as np

from cdgen.streaming.kept import Kept
from cdgen.streaming.order import WINDOW_SHARDS, permutation

KEPT_DOCUMENTS = 1 << 22
"""Of loaded windows of a source, at most (or one window): five int64 columns, 40 bytes a document."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The documents of a shard, in the order of the file.

    Attributes:
        num_tokens: of each, int64 `[rows]`; 0 for one that is left out.
        where: where its ids begin in the shard, in ids, int64 `[rows]`.
        xxh64: the 64 bits of the hash of its ids, as int64 `[rows]`.
    """

    num_tokens: np.ndarray
    where: np.ndarray
    xxh64: np.ndarray


class Source(Protocol):
    """What a stream must know of a source."""

    @property
    def name(self) -> str:
        """real, synthetic or also-<8 digits>; it sets the source's order apart from the others'."""
        ...

    @property
    def num_documents(self) -> np.ndarray:
        """Of each shard, those left out included, int64 `[shards]`."""
        ...

    @property
    def num_tokens(self) -> np.ndarray:
        """Of each shard, without those left out, int64 `[shards]`."""
        ...

    def rows(self, shards: Sequence[int]) -> list[Rows]:
        """The documents of each of these shards."""
        ...

    def longest(self) -> int:
        """Tokens of its longest document, or a little more."""
        ...

    def release(self, shards: Sequence[int]) -> None:
        """These shards are not needed for now."""
        ...


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents in an order; every column is int64 `[documents]`.

    Attributes:
        shard, row: which sample it is.
        begin: the tokens before it in its source's line.
        num_tokens: its length.
        where: where its ids begin in the shard, in ids.
        xxh64: the bits of the hash of its ids.
    """

    shard: np.ndarray
    row: np.ndarray
    begin: np.ndarray
    num_tokens: np.ndarray
    where: np.ndarray
    xxh64: np.ndarray

    def __len__(self) -> int:
        return len(self.begin)

    def __getitem__(self, part: slice | np.ndarray) -> Self:
        return type(self)(*(getattr(self, field.name)[part] for field in fields(self)))

    def moved(self, tokens: int) -> Self:
        """The same documents, so many tokens later in the line."""
        return replace(self, begin=self.begin + tokens)

    @classmethod
    def joined(cls, parts: Sequence["Documents"]) -> "Documents":
        """Several runs of documents, one after the other."""
        if len(parts) == 1:
            return parts[0]
        empty = np.empty(0, np.int64)
        return cls(
            *(
                np.concatenate([empty, *(getattr(part, field.name) for part in parts)])
                for field in fields(cls)
            )
        )


@dataclass(frozen=True, slots=True)
class _Window:
    """The documents of a window: in their order as far as one is looked for, the rest as it lies in the files.

    A first batch needs the order of a whole window, and of its documents one in six.

    Attributes:
        shards: its shards, int64 `[shards]`.
        firsts: the documents of the shards before each, int64 `[shards]`.
        where, xxh64: of all documents of the shards in turn, int64 `[rows]`.
        place: which of those each document is, int64 `[documents]`.
        begin: the tokens before it in the window, int64 `[documents]`.
        num_tokens: its length, int64 `[documents]`.
    """

    shards: np.ndarray
    firsts: np.ndarray
    where: np.ndarray
    xxh64: np.ndarray
    place: np.ndarray
    begin: np.ndarray
    num_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.place)

    def documents(self, start: int, stop: int) -> Documents:
        """The documents that begin in [start, stop), counted in the window's tokens."""
        a, b = np.searchsorted(self.begin, [start, stop])
        place = self.place[a:b]
        which = np.searchsorted(self.firsts, place, side="right") - 1
        return Documents(
            self.shards[which],
            place - self.firsts[which],
            self.begin[a:b],
            self.num_tokens[a:b],
            self.where[place],
            self.xxh64[place],
        )


@dataclass(frozen=True, slots=True)
class _Pass:
    """The shards of one pass in order, int64 `[shards]`, and the first token of each window `[windows + 1]`."""

    shards: np.ndarray
    starts: np.ndarray


class Line:
    """The endless line of a source.

    Args:
        source: what it has.
        seed: key of the order.
        shuffle: windows (documents are shuffled among neighbouring shards), corpus (among all), False (the order of
            the files, in every pass).
        kept_documents: how many documents of loaded windows are kept.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        *,
        shuffle: str | bool = "windows",
        kept_documents: int = KEPT_DOCUMENTS,
    ) -> None:
        self.source, self.seed, self.shuffle = source, seed, shuffle
        self.pass_tokens = int(source.num_tokens.sum())
        num_shards = len(source.num_tokens)
        self._window_shards = {"windows": WINDOW_SHARDS, "corpus": max(num_shards, 1)}.get(
            str(shuffle), 1
        )
        self._passes: Kept[_Pass] = Kept(2)
        self._windows: Kept[_Window] = Kept(kept_documents, len, self._left)

    def boundary(self, token: int) -> int:
        """Where the first document begins that does not begin before `token`."""
        number, offset = divmod(token, self.pass_tokens)
        starts = self._pass(number).starts
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        first = int(starts[window])
        if offset == first:
            return token
        begin = self._window(number, window).begin
        place = int(np.searchsorted(begin, offset - first))
        inside = int(begin[place]) + first if place < len(begin) else None
        return number * self.pass_tokens + (int(starts[window + 1]) if inside is None else inside)

    def documents(self, start: int, stop: int) -> Documents:
        """The documents that begin in [start, stop)."""
        parts = []
        while start < stop:
            number, offset = divmod(start, self.pass_tokens)
            starts = self._pass(number).starts
            window = int(np.searchsorted(starts, offset, side="right")) - 1
            first = number * self.pass_tokens + int(starts[window])
            found = self._window(number, window).documents(start - first, stop - first)
            parts.append(found.moved(first))
            start = number * self.pass_tokens + int(starts[window + 1])
        return Documents.joined(parts)

    def coming(self, token: int, num_windows: int) -> list[int]:
        """The shards of the window that holds `token` and of those after it, within the pass."""
        number, offset = divmod(token, self.pass_tokens)
        order = self._pass(number)
        window = int(np.searchsorted(order.starts, offset, side="right")) - 1
        first = window * self._window_shards
        shards: list[int] = order.shards[first : first + num_windows * self._window_shards].tolist()
        return shards

    def _pass(self, number: int) -> _Pass:
        number = number if self.shuffle else 0
        return self._passes.get(number, lambda: self._new_pass(number))

    def _new_pass(self, number: int) -> _Pass:
        tokens, size = self.source.num_tokens, self._window_shards
        shards = np.arange(len(tokens))
        if self.shuffle:
            shards = permutation(len(tokens), "shards", self.source.name, self.seed, number)
        sums = np.add.reduceat(tokens[shards], np.arange(0, len(tokens), size))
        return _Pass(shards, np.concatenate([[0], np.cumsum(sums)]))

    def _window(self, number: int, window: int) -> _Window:
        number = number if self.shuffle else 0
        return self._windows.get((number, window), lambda: self._new_window(number, window))

    def _left(self, window: _Window) -> None:
        self.source.release(window.shards.tolist())

    def _new_window(self, number: int, window: int) -> _Window:
        size = self._window_shards
        shards = self._pass(number).shards[window * size : (window + 1) * size]
        rows = self.source.rows(shards.tolist())
        counts = np.array([len(part.num_tokens) for part in rows])
        tokens, where, xxh64 = (
            np.concatenate([getattr(part, field.name) for part in rows]) for field in fields(Rows)
        )
        place = np.arange(len(tokens))
        if self.shuffle:
            place = permutation(
                len(tokens), "documents", self.source.name, self.seed, number, window
            )
        tokens = tokens[place]
        if not tokens.all():  # what is left out leaves a gap: the order of the others stays
            place, tokens = place[tokens > 0], tokens[tokens > 0]
        firsts, begin = np.cumsum(counts) - counts, np.cumsum(tokens) - tokens
        return _Window(shards, firsts, where, xxh64, place, begin, tokens)
