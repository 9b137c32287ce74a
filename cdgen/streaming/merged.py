"""The global order: the lines of all sources merged by fair queueing, addressed by token in constant time.

In a piece of the run with weights w_i that begins when source i has given n_i tokens, a document's tag is
(tokens before it in its line - n_i) / w_i, and the order is that of the tags (ties: the source named first). All
documents with a tag below x have at least (sum of w_i) x tokens, and at most one document of each source more. So the
tags near any token are known without looking at what is before it, and only a slice of each line is merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from cdgen.streaming.kept import Kept
from cdgen.streaming.line import Documents, Line
from cdgen.streaming.mixture import check_weights, merge_starts

SEGMENT_TOKENS = 1 << 22
"""About so many tokens are merged at a time."""

_MOST_PASSES = 64
"""Of one source in a segment, about."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of the global order.

    Attributes:
        documents: its documents.
        source: the line of each, int64 `[documents]`.
        starts: the first token of each, and the token after the last, in the global order, int64 `[documents + 1]`.
        firsts: tokens that each line has given before.
    """

    documents: Documents
    source: np.ndarray
    starts: np.ndarray
    firsts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source)

    def first(self, count: int) -> "Segment":
        """Its first documents."""
        starts = self.starts[: count + 1]
        return Segment(self.documents[:count], self.source[:count], starts, self.firsts)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the run with weights of its own.

    Attributes:
        start: its first token.
        stop: the token after its last one; None for the last piece.
        given: tokens that each line has given before.
        weights: of the lines, 0 for one that rests.
        step: tags in a segment.
    """

    start: int
    stop: int | None
    given: tuple[int, ...]
    weights: tuple[int, ...]
    step: int


class Merged:
    """The endless global order.

    Args:
        lines: the sources, in the order in which ties are decided.
        schedule: (first token, weights): each piece begins at the first document boundary from its token on.
    """

    def __init__(
        self, lines: Sequence[Line], schedule: Sequence[tuple[int, Sequence[int]]]
    ) -> None:
        self.lines = lines
        self._segments: Kept[Segment] = Kept(8)
        self._last: Segment | None = None
        self.pieces: list[Piece] = []
        for token, weights in schedule:
            self._begin(token, tuple(weights))

    def _begin(self, token: int, weights: tuple[int, ...]) -> None:
        check_weights([weight for weight in weights if weight])
        start, given = 0, (0,) * len(self.lines)
        if self.pieces:
            start = self.boundary(token)
            given = self.given(start)
            self.pieces[-1] = replace(self.pieces[-1], stop=start)
            self._segments, self._last = Kept(8), None
        pairs = [(line.pass_tokens, w) for line, w in zip(self.lines, weights, strict=True) if w]
        most = min(_MOST_PASSES * tokens // w for tokens, w in pairs)
        step = max(1, min(SEGMENT_TOKENS // sum(weights), most))
        self.pieces.append(Piece(start, None, given, weights, step))

    def segment_at(self, token: int) -> Segment:
        """The segment that holds `token`."""
        last = self._last
        if last is not None and last.starts[0] <= token < last.starts[-1]:
            return last
        self._last = self._found(token)
        return self._last

    def _found(self, token: int) -> Segment:
        number = max(n for n, piece in enumerate(self.pieces) if piece.start <= token)
        piece = self.pieces[number]
        place = (token - piece.start) // (piece.step * sum(piece.weights))
        while piece.start + sum(self._firsts(piece, place)) - sum(piece.given) > token:
            place -= 1
        return self._segments.get((number, place), lambda: self._new_segment(piece, place))

    def segments(self, start: int, stop: int) -> list[Segment]:
        """The segments that hold the tokens [start, stop), in order."""
        found = []
        while start < stop:
            found.append(self.segment_at(start))
            start = int(found[-1].starts[-1])
        return found

    def boundary(self, token: int) -> int:
        """The first document boundary from `token` on."""
        starts = self.segment_at(token).starts
        return int(starts[np.searchsorted(starts, token)])

    def given(self, boundary: int) -> tuple[int, ...]:
        """Tokens that each line has given before a document boundary."""
        if boundary == 0:
            return (0,) * len(self.lines)
        segment = self.segment_at(boundary - 1)
        before = segment.first(int(np.searchsorted(segment.starts, boundary)))
        return tuple(
            first + int(before.documents.num_tokens[before.source == number].sum())
            for number, first in enumerate(segment.firsts)
        )

    def before(self, number: int, begin: int, limit: int | None = None) -> int | None:
        """How many tokens there are before token `begin` of line `number`: those of all smaller tags.

        None where the line rests before it comes to that, and where it is seen at once that it is `limit` or more.
        """
        for piece in self.pieces:
            weight, given = piece.weights[number], piece.given[number]
            if not weight or begin < given:
                continue
            own = piece.given
            due = [
                first + -(-w * (begin - given) // weight)
                for first, w in zip(own, piece.weights, strict=True)
            ]
            if limit is not None and piece.start + sum(due) - sum(own) >= limit:
                return None
            ends = [
                line.boundary(token) - first if w else 0
                for line, token, first, w in zip(self.lines, due, own, piece.weights, strict=True)
            ]
            if piece.stop is None or piece.start + sum(ends) <= piece.stop:
                return piece.start + sum(ends)
        return None

    def coming(self, token: int, num_windows: int = 2) -> list[tuple[int, int]]:
        """(line, shard) of those that come with `token` and next, those of the sources in turn."""
        firsts = self.segment_at(token).firsts
        rows = [
            [(number, shard) for shard in line.coming(first, num_windows)]
            for number, (line, first) in enumerate(zip(self.lines, firsts, strict=True))
        ]
        return [item for turn in zip_longest(*rows) for item in turn if item is not None]

    def _firsts(self, piece: Piece, place: int) -> tuple[int, ...]:
        """Where each line's documents of segment `place` begin."""
        return tuple(
            line.boundary(given + weight * piece.step * place) if weight else given
            for line, given, weight in zip(self.lines, piece.given, piece.weights, strict=True)
        )

    def _new_segment(self, piece: Piece, place: int) -> Segment:
        firsts, lasts = self._firsts(piece, place), self._firsts(piece, place + 1)
        active = [number for number, weight in enumerate(piece.weights) if weight]
        parts = [self.lines[n].documents(firsts[n], lasts[n]) for n in active]
        which, position = merge_starts(
            [part.begin - piece.given[n] for part, n in zip(parts, active, strict=True)],
            [piece.weights[n] for n in active],
        )
        at = np.cumsum([0, *map(len, parts)])[which] + position
        documents = Documents.joined(parts)[at]
        start = piece.start + sum(firsts) - sum(piece.given)
        starts = start + np.cumsum(np.concatenate([[0], documents.num_tokens]))
        segment = Segment(documents, np.array(active, np.int64)[which], starts, firsts)
        if piece.stop is None:
            return segment
        return segment.first(int(np.searchsorted(starts[:-1], piece.stop)))
