"""Token sequences as trees: what sequences share at their beginnings is computed once.

Sequences are sorted, so those that share a prefix are neighbours. A run of neighbours is one **row** of the model: the
nodes of their tree, in depth-first order. A node sees its ancestors only, which is arithmetic in that order: node j is
an ancestor of i (or i itself) where `j <= i < end[j]`. The last token of a sequence predicts nothing and is not run.

Shapes: S sequences, R rows, N nodes of all rows, E edges (a node and one token after it).
"""

from array import array
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sequence:
    """At least two token ids, and where those that count begin: at 1 or later, as nothing predicts the first."""

    ids: Ints
    start: int


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Sequences in the order of their ids.

    Attributes:
        sequences: as they were given.
        order: their numbers, sorted; the same ids may come more than once.
        shared: how many tokens each has in common with the one before it in that order.
    """

    sequences: Seq[Sequence]
    order: list[int]
    shared: list[int]

    @classmethod
    def of(cls, sequences: Seq[Sequence]) -> Self:
        """Sort."""
        order = sorted(
            range(len(sequences)), key=lambda i: sequences[i].ids.astype(">i8").tobytes()
        )
        ids = [sequences[i].ids for i in order]
        shared = [0, *(_common(a, b) for a, b in pairwise(ids))]
        return cls(sequences, order, shared[: len(order)])

    def row_sizes(self, capacity: int) -> list[int]:
        """Nodes of each row, if rows take at most `capacity`; a longer sequence has a row of its own.

        With a capacity of 0 every different sequence has one: nothing is shared.
        """
        return [size for size, _ in self._cut(capacity)]

    def rows(self, capacity: int) -> "Rows":
        """The rows."""
        building = _Building()
        position = 0
        placed: list[Ints] = [building.nothing] * len(self.sequences)
        for _, count in self._cut(capacity):
            building.begin_row()
            for k in range(position, position + count):
                i = self.order[k]
                shared = self.shared[k] if k > position else 0
                placed[i] = building.add(self.sequences[i], shared)
            position += count
        return building.rows(placed)

    def _cut(self, capacity: int) -> list[tuple[int, int]]:
        """(nodes, sequences) of each row."""
        found: list[tuple[int, int]] = []
        nodes = count = before = 0
        for i, shared in zip(self.order, self.shared, strict=True):
            length = len(self.sequences[i].ids)
            new = max(0, length - 1 - min(shared, before - 1)) if count else length - 1
            is_known = shared == length == before
            if count and nodes + new > capacity and not is_known:
                found.append((nodes, count))
                nodes, count, new = 0, 0, length - 1
            nodes, count, before = nodes + new, count + 1, length
        return [*found, (nodes, count)] if count else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of a set of sequences, one after the other.

    Attributes:
        token_N: ids of the nodes.
        depth_N: their positions in a sequence, from 0.
        end_N: the node after the last one of a node's tree, counted in its row.
        first_R: the first node of each row, and N: int64 `[R + 1]`.
        parent_E: the node before each scored token.
        target_E: that token.
        edges: the edges of all sequences, as given, one sequence after the other.
        ends: where each sequence's edges begin, and how many there are: int64 `[S + 1]`.
    """

    token_N: Ints
    depth_N: Ints
    end_N: Ints
    first_R: Ints
    parent_E: Ints
    target_E: Ints
    edges: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.first_R) - 1

    def sums(self, logp_E: Floats) -> Floats:
        """The sum of each sequence's log-probabilities, float64 `[S]`."""
        filled = np.append(logp_E[self.edges], 0.0)
        # Each piece by itself: a running total would carry rounding from one sequence to the next.
        sums: Floats = np.add.reduceat(filled, self.ends[:-1])
        sums[self.ends[:-1] == self.ends[1:]] = 0.0
        return sums


class _Building:
    """Sequences are added in order; `path` and `edge` are the nodes and edges of the last one, by position.

    Lists and not arrays: a sequence is short, and a call of numpy costs as much as all of its tokens.
    """

    def __init__(self) -> None:
        self.nothing = np.empty(0, np.int64)
        self._tokens, self._depths, self._ends = array("q"), array("q"), array("q")
        self._parents, self._targets = array("q"), array("q")
        self._first = array("q")
        self._path: list[int] = []
        self._edge: list[int] = []

    def begin_row(self) -> None:
        """What comes now shares nothing with what was before."""
        self._close(0)
        self._path, self._edge = [], []
        self._first.append(len(self._tokens))

    def add(self, sequence: Sequence, shared: int) -> Ints:
        """The edges of a sequence's scored tokens; what is not there yet is made."""
        ids, start = sequence.ids.tolist(), sequence.start
        kept = min(shared, len(self._path))
        self._close(kept)
        new = ids[kept:-1]
        self._path[kept:] = range(len(self._tokens), len(self._tokens) + len(new))
        self._tokens.extend(new)
        self._depths.extend(range(kept, kept + len(new)))
        self._ends.extend([0] * len(new))
        self._edge[shared:] = [-1] * (len(ids) - shared)
        for position in range(start, len(ids)):
            if self._edge[position] < 0:
                self._edge[position] = len(self._parents)
                self._parents.append(self._path[position - 1])
                self._targets.append(ids[position])
        return np.array(self._edge[start:], np.int64)

    def _close(self, kept: int) -> None:
        """The trees below position `kept` are complete."""
        for node in self._path[kept:]:
            self._ends[node] = len(self._tokens)

    def rows(self, edges: list[Ints]) -> Rows:
        """What was built."""
        self._close(0)
        first = np.array([*self._first, len(self._tokens)], np.int64)
        return Rows(
            token_N=_ints(self._tokens),
            depth_N=_ints(self._depths),
            end_N=_ints(self._ends) - np.repeat(first[:-1], np.diff(first)),
            first_R=first,
            parent_E=_ints(self._parents),
            target_E=_ints(self._targets),
            edges=np.concatenate([self.nothing, *edges]),
            ends=np.cumsum([0, *map(len, edges)]),
        )


def _ints(found: "array[int]") -> Ints:
    return np.array(found, np.int64)


def _common(a: Ints, b: Ints) -> int:
    """Tokens that two sequences share at their beginnings."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n
