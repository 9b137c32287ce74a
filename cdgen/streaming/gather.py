"""The ids of pieces of documents, copied out of mapped shards in one sweep."""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import xxhash

from cdgen.errors import BuildError, UsageError
from cdgen.streaming.cut import Pieces
from cdgen.streaming.kept import Kept

MOST_MAPS = 256
"""Shards that are open at a time, about: a map holds a file descriptor, of which a process has 1024 or so."""

_SWEEP = 512
"""Pieces that are copied at a time: so many more maps may be open."""


class Shelf(Protocol):
    """A source whose ids can be read."""

    @property
    def name(self) -> str:
        """real, synthetic or also-<8 digits>."""
        ...

    @property
    def num_tokens(self) -> np.ndarray:
        """Of each shard, int64 `[shards]`."""
        ...

    def key(self, shard: int, row: int) -> str:
        """What a document is called."""
        ...

    def shard_name(self, shard: int) -> str:
        """What a shard is called, for messages."""
        ...

    def ids(self, shard: int) -> np.ndarray:
        """All of a shard, as ids."""
        ...

    def hashes(self, shard: int) -> np.ndarray:
        """XXH64 of each document's ids, uint64 `[documents]`."""
        ...


class Gather:
    """Copies pieces.

    Args:
        shelves: the sources, as pieces number them.
        verify: compare a document's ids with their hash when it is first touched.
        on_damage: stop (raise) or skip (the ids become 0 and are reported in `damage`).
    """

    def __init__(self, shelves: Sequence[Shelf], *, verify: bool, on_damage: str) -> None:
        if on_damage not in ("stop", "skip"):
            raise UsageError(f"on_damage must be stop or skip, found {on_damage!r}")
        self.shelves, self._verify, self._skip = shelves, verify, on_damage == "skip"
        self._firsts = np.cumsum([0, *(len(shelf.num_tokens) for shelf in shelves)])
        self._maps: dict[int, np.ndarray] = {}
        self._checked: Kept[tuple[np.ndarray, np.ndarray]] = Kept(1 << 24, _num_rows)
        self._lost: set[int] = set()
        self._bad: set[tuple[int, int]] = set()
        self.damage: dict[str, str] = {}
        """By shard: what is wrong with it, as far as it was met."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a worker process maps the files itself

    def __call__(self, pieces: Pieces) -> tuple[np.ndarray, np.ndarray | None]:
        """(ids `[sum of counts]` of the shards' dtype, bool `[pieces]` of those that are damaged or None)."""
        slots = (self._firsts[pieces.source] + pieces.shard).tolist()
        begin = (pieces.where + pieces.skip).tolist()
        end = (pieces.where + pieces.skip + pieces.count).tolist()
        parts = []
        for first in range(0, len(slots), _SWEEP):
            run = slice(first, first + _SWEEP)
            self._open(slots[run])
            if self._verify:
                self._check(slots[run], pieces, first)
            maps = self._maps
            views = [
                maps[slot][a:b] for slot, a, b in zip(slots[run], begin[run], end[run], strict=True)
            ]
            parts.append(self._sweep(views, pieces.count[run]))
        ids = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return ids, self._blank(ids, slots, pieces) if self.damage else None

    def _sweep(self, views: list[np.ndarray], counts: np.ndarray) -> np.ndarray:
        if self.damage:  # a shard that cannot be read has an empty map
            views = [
                view if len(view) == count else np.zeros(count, np.uint16)
                for view, count in zip(views, counts.tolist(), strict=True)
            ]
        return np.concatenate(views)

    def _open(self, slots: list[int]) -> None:
        maps = self._maps
        if len(maps) > MOST_MAPS:  # the ones that were opened first
            for slot in list(maps)[: len(maps) // 2]:
                del maps[slot]
        for slot in slots:
            if slot not in maps:
                maps[slot] = self._opened(slot)

    def _opened(self, slot: int) -> np.ndarray:
        shelf, shard = self._place(slot)
        try:
            return shelf.ids(shard)
        except BuildError as error:
            self._met(slot, str(error))
            self._lost.add(slot)
            return np.empty(0, np.uint16)

    def _place(self, slot: int) -> tuple[Shelf, int]:
        source = int(np.searchsorted(self._firsts, slot, side="right")) - 1
        return self.shelves[source], slot - int(self._firsts[source])

    def _met(self, slot: int, what: str) -> None:
        """A damaged shard: stop, or note it and go on."""
        if not self._skip:
            raise BuildError(what)
        shelf, shard = self._place(slot)
        if self.damage.setdefault(shelf.shard_name(shard), what) == what:
            warnings.warn(f"skipped: {what}", stacklevel=2)

    def _check(self, slots: list[int], pieces: Pieces, first: int) -> None:
        """Compare the hashes of the documents that were not touched before."""
        for number, slot in enumerate(slots, first):
            if slot in self._lost:
                continue
            done, hashes = self._checked.get(slot, lambda slot=slot: self._unchecked(slot))  # type: ignore[misc]
            row, where = int(pieces.row[number]), int(pieces.where[number])
            if done[row]:
                continue
            ids = self._maps[slot][where : where + int(pieces.num_tokens[number])]
            if xxhash.xxh64_intdigest(ids.tobytes()) != int(hashes[row]):
                name = self._place(slot)[0].shard_name(self._place(slot)[1])
                self._met(slot, f"{name}: the ids of sample {row} are damaged: run cdgen verify")
                self._bad.add((slot, row))
            done[row] = True

    def _unchecked(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        shelf, shard = self._place(slot)
        hashes = shelf.hashes(shard)
        return np.zeros(len(hashes), bool), hashes

    def _blank(self, ids: np.ndarray, slots: list[int], pieces: Pieces) -> np.ndarray:
        """Which pieces are damaged; their ids become 0."""
        bad = np.array(
            [
                slot in self._lost or (slot, row) in self._bad
                for slot, row in zip(slots, pieces.row.tolist(), strict=True)
            ],
            bool,
        )
        ids[np.repeat(bad, pieces.count)] = 0
        return bad


def _num_rows(value: tuple[np.ndarray, np.ndarray]) -> int:
    return len(value[0])
