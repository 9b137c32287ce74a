"""Blocks as pieces of documents: which part of which document stands where. Arrays in, arrays out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from cdgen.streaming.merged import Merged, Segment


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of documents in the order of the blocks; every column is int64 `[pieces]`.

    Attributes:
        block: the block it stands in, counted in the request.
        source, shard, row: the document.
        where: its first id, in the ids of the shard.
        num_tokens: all of the document's.
        xxh64: the bits of the hash of the document's ids.
        skip: ids of the document before this part.
        count: ids of this part.
    """

    block: np.ndarray
    source: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    where: np.ndarray
    num_tokens: np.ndarray
    xxh64: np.ndarray
    skip: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, part: slice | np.ndarray) -> "Pieces":
        return Pieces(*(getattr(self, field.name)[part] for field in fields(self)))

    def placed(self, order: np.ndarray) -> "Pieces":
        """The same pieces where block i of the request is block `order[i]` of another one, in that one's order."""
        block = order[self.block]
        moved = np.argsort(block, kind="stable")
        return replace(self[moved], block=block[moved])

    def places(self) -> tuple[np.ndarray, ...]:
        """(source, shard, row, skip, count)."""
        return self.source, self.shard, self.row, self.skip, self.count

    def starts(self) -> np.ndarray:
        """Ids before each piece, in the request, int64 `[pieces]`."""
        starts: np.ndarray = np.cumsum(self.count) - self.count
        return starts


def cut(merged: Merged, starts: np.ndarray, length: int) -> Pieces:
    """The pieces of the runs of `length` tokens that begin at `starts`, int64 `[blocks]`."""
    parts: list[Pieces] = []
    done = 0
    while done < len(starts):
        segment = merged.segment_at(int(starts[done]))
        first, last = int(segment.starts[0]), int(segment.starts[-1])
        outside = (starts[done:] < first) | (starts[done:] + length > last)
        run = int(np.argmax(outside)) if outside.any() else len(outside)
        if run:
            begin = starts[done : done + run]
            parts.append(_within(segment, begin, begin + length, done))
            done += run
            continue
        start, stop = int(starts[done]), int(starts[done]) + length
        for segment in merged.segments(start, stop):
            a, b = max(start, int(segment.starts[0])), min(stop, int(segment.starts[-1]))
            parts.append(_within(segment, np.array([a]), np.array([b]), done))
        done += 1
    return _joined(parts)


def _within(segment: Segment, begin: np.ndarray, end: np.ndarray, block: int) -> Pieces:
    """The pieces of the runs [begin, end), all of which lie in the segment; the first one is block `block`."""
    first = np.searchsorted(segment.starts, begin, side="right") - 1
    counts = np.searchsorted(segment.starts, end) - first
    number = np.repeat(np.arange(len(begin)), counts)
    place = np.arange(len(number)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    starts = segment.starts[place]
    skip = np.maximum(begin[number] - starts, 0)
    documents = segment.documents[place]
    return Pieces(
        block=number + block,
        source=segment.source[place],
        shard=documents.shard,
        row=documents.row,
        where=documents.where,
        num_tokens=documents.num_tokens,
        xxh64=documents.xxh64,
        skip=skip,
        count=np.minimum(end[number], segment.starts[place + 1]) - starts - skip,
    )


def _joined(parts: Sequence[Pieces]) -> Pieces:
    if len(parts) == 1:
        return parts[0]
    empty = np.empty(0, np.int64)
    return Pieces(
        *(
            np.concatenate([empty, *(getattr(part, field.name) for part in parts)])
            for field in fields(Pieces)
        )
    )
