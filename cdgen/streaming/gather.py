"""The ids of pieces of documents, copied out of mapped shards in one sweep."""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from cdgen.errors import BuildError, UsageError
from cdgen.shards.walk import most_mapped
from cdgen.streaming.cut import Pieces
from cdgen.streaming.joined import joined, viewed

_REMEMBERED = 1 << 20
"""Documents whose hash was found right that are remembered, at most."""


class Shelf(Protocol):
    """A source whose ids can be read."""

    @property
    def name(self) -> str:
        """real, synthetic or also-<8 digits>."""
        ...

    @property
    def num_documents(self) -> np.ndarray:
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


class Gather:
    """Copies pieces.

    Args:
        shelves: the sources, as pieces number them.
        verify: compare a document's ids with their hash when it is first touched.
        on_damage: stop (raise) or skip (the ids become 0 and are reported in `damage`).
    """

    def __init__(self, shelves: Sequence[Shelf], *, verify: bool, on_damage: str) -> None:
        self.shelves, self._verify = shelves, verify
        self._skip = checked_on_damage(on_damage) == "skip"
        self._firsts = np.cumsum([0, *(len(shelf.num_documents) for shelf in shelves)])
        counts = np.concatenate([shelf.num_documents for shelf in shelves])
        self._documents = np.cumsum(counts) - counts  # of all shards before one: numbers for all
        # By place one and the number of a document that is right: zeros cost no memory until they are written to.
        self._right = np.zeros(min(int(counts.sum()), _REMEMBERED) + 1, np.int64)
        self._bad: set[int] = set()
        self._most_maps = most_mapped()
        self._maps: dict[int, np.ndarray] = {}
        self.damage: dict[str, str] = {}
        """By shard: what is wrong with it, as far as it was met."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a worker process maps the files itself

    def __call__(self, pieces: Pieces) -> tuple[np.ndarray, np.ndarray | None]:
        """(ids `[sum of counts]` of the shards' dtype, bool `[pieces]` of those that are damaged or None)."""
        slots = self._firsts[pieces.source] + pieces.shard
        most = self._most_maps
        if len(pieces) <= most or len(np.unique(slots)) <= most:
            ids = self._sweep(pieces, slots)
        else:
            steps = [slice(first, first + most) for first in range(0, len(slots), most)]
            ids = np.concatenate([self._sweep(pieces[step], slots[step]) for step in steps])
        return (ids, None) if not self.damage else self._blanked(ids, pieces, slots)

    def _sweep(self, pieces: Pieces, slots: np.ndarray) -> np.ndarray:
        """The ids of pieces that lie in few enough shards."""
        used, which = np.unique(slots, return_inverse=True)
        shards = self._opened(used.tolist())
        is_lost = np.array([not len(shard) for shard in shards])[which]
        if self._verify:
            self._check(pieces, slots, shards, which, np.flatnonzero(~is_lost))
        begin = pieces.where + pieces.skip
        if is_lost.any():
            begin = np.where(is_lost, 0, begin)
            nothing = np.zeros(int(pieces.count.max()), np.uint16)
            shards = [shard if len(shard) else nothing for shard in shards]
        return _copied(shards, which, begin, pieces.count)

    def _opened(self, slots: Sequence[int]) -> list[np.ndarray]:
        """The shards as ids, empty for one that is lost. The maps that were opened first give way to new ones."""
        maps = self._maps
        new = [slot for slot in slots if slot not in maps]
        if new:
            spare = max(len(maps) + len(new) - self._most_maps, 0)
            needed = set(slots)
            for slot in [slot for slot in maps if slot not in needed][:spare]:
                del maps[slot]
            maps |= {slot: self._map(slot) for slot in new}
        return [maps[slot] for slot in slots]

    def _map(self, slot: int) -> np.ndarray:
        shelf, shard = self._place(slot)
        try:
            return shelf.ids(shard)
        except BuildError as error:
            self._met(slot, str(error))
            return np.empty(0, np.uint16)

    def _place(self, slot: int) -> tuple[Shelf, int]:
        source = int(np.searchsorted(self._firsts, slot, side="right")) - 1
        return self.shelves[source], slot - int(self._firsts[source])

    def _met(self, slot: int, what: str) -> None:
        """A damaged shard: stop, or note it and go on."""
        if not self._skip:
            raise BuildError(what)
        shelf, shard = self._place(slot)
        if shelf.shard_name(shard) not in self.damage:
            self.damage[shelf.shard_name(shard)] = what
            warnings.warn(f"skipped: {what}", stacklevel=2)

    def _check(
        self,
        pieces: Pieces,
        slots: np.ndarray,
        shards: Sequence[np.ndarray],
        which: np.ndarray,
        among: np.ndarray,
    ) -> None:
        """Compare the hashes of documents, where they are not known to be right."""
        numbers = self._documents[slots] + pieces.row
        places = numbers % len(self._right)  # who loses its place to another is hashed again
        due = among[self._right[places[among]] != numbers[among] + 1]
        due = due[np.diff(numbers[due], prepend=-1) != 0]  # of a document cut in two, one piece
        if not len(due):
            return
        width = np.array([shard.itemsize for shard in shards])[which[due]]
        begin, length = pieces.where[due] * width, pieces.num_tokens[due] * width
        whole = viewed(list(map(pa.py_buffer, shards)), which[due], begin, length)
        found = np.array(list(map(xxhash.xxh64_intdigest, whole.to_pylist())), np.uint64)
        is_right = found.view(np.int64) == pieces.xxh64[due]
        for place in due[~is_right].tolist():
            slot, row = int(slots[place]), int(pieces.row[place])
            shelf, shard = self._place(slot)
            name = shelf.shard_name(shard)
            self._met(slot, f"{name}: the ids of sample {row} are damaged: run cdgen verify")
            self._bad.add(int(numbers[place]))
        self._right[places[due]] = numbers[due] + 1

    def _blanked(
        self, ids: np.ndarray, pieces: Pieces, slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(ids, which pieces are damaged): those are zeros."""
        lost = [slot for slot, shard in self._maps.items() if not len(shard)]
        bad = np.isin(self._documents[slots] + pieces.row, list(self._bad)) | np.isin(slots, lost)
        return np.where(np.repeat(bad, pieces.count), 0, ids), bad


def checked_on_damage(on_damage: str) -> str:
    """`on_damage`, if it is a choice."""
    if on_damage not in ("stop", "skip"):
        raise UsageError(f"on_damage must be stop or skip, found {on_damage!r}")
    return on_damage


def _copied(
    shards: Sequence[np.ndarray], which: np.ndarray, begin: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Ids [begin, begin + count) of shards, one piece after another."""
    buffers = [pa.py_buffer(shard) for shard in shards]
    widths = np.array([shard.itemsize for shard in shards])
    if (widths == widths[0]).all():
        width = int(widths[0])
        return joined(buffers, which, begin * width, count * width).view(f"u{width}")
    ids = np.empty(int(count.sum()), np.uint32)
    for width in set(widths.tolist()):  # foreign shards may have ids of another width
        mine = widths[which] == width
        part = joined(buffers, which[mine], begin[mine] * width, count[mine] * width)
        ids[np.repeat(mine, count)] = part.view(f"u{width}")
    return ids
