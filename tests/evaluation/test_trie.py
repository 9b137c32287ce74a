"""Rows of trees against the sequences by themselves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cdgen.evaluation.trie import Neighbours, Rows, Sequence

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=9)
SEQUENCES = st.lists(st.tuples(IDS, st.integers(1, 9)), max_size=12).map(
    lambda given: [Sequence(np.array(ids, np.int64), min(start, len(ids))) for ids, start in given]
)


def ancestors(rows: Rows, node: int) -> list[int]:
    """A node's ancestors and itself, by the rule of the module's first lines."""
    row = int(np.searchsorted(rows.first_R, node, side="right")) - 1
    first = int(rows.first_R[row])
    return [j for j in range(first, node + 1) if node - first < rows.end_N[j]]


@given(SEQUENCES, st.sampled_from([0, 1, 4, 8, 100]))
def test_every_scored_token_has_its_own_history(sequences: list[Sequence], capacity: int) -> None:
    rows = Neighbours.of(sequences).rows(capacity)
    for number, sequence in enumerate(sequences):
        edges = rows.edges[rows.ends[number] : rows.ends[number + 1]]
        assert len(edges) == len(sequence.ids) - sequence.start
        for edge, position in zip(edges, range(sequence.start, len(sequence.ids)), strict=True):
            assert rows.target_E[edge] == sequence.ids[position]
            history = ancestors(rows, int(rows.parent_E[edge]))
            assert rows.token_N[history].tolist() == sequence.ids[:position].tolist()
            assert rows.depth_N[history].tolist() == list(range(position))


@given(SEQUENCES)
def test_one_row_holds_every_beginning_once(sequences: list[Sequence]) -> None:
    rows = Neighbours.of(sequences).rows(1 << 20)
    beginnings = {tuple(one.ids[:n]) for one in sequences for n in range(1, len(one.ids))}
    assert len(rows.token_N) == len(beginnings)
    assert len(rows) == (1 if sequences else 0)


@given(SEQUENCES, st.sampled_from([0, 1, 4, 8, 100]))
def test_sizes_are_known_before_rows_are_made(sequences: list[Sequence], capacity: int) -> None:
    neighbours = Neighbours.of(sequences)
    rows = neighbours.rows(capacity)
    assert neighbours.row_sizes(capacity) == np.diff(rows.first_R).tolist()
    longest = max((len(one.ids) - 1 for one in sequences), default=0)
    assert max(neighbours.row_sizes(capacity), default=0) <= max(capacity, longest)


@given(SEQUENCES)
def test_sums_are_those_of_each_sequence(sequences: list[Sequence]) -> None:
    rows = Neighbours.of(sequences).rows(8)
    logp_E = np.random.default_rng(0).normal(size=len(rows.parent_E))
    expected = [
        logp_E[rows.edges[a:b]].sum() for a, b in zip(rows.ends[:-1], rows.ends[1:], strict=True)
    ]
    np.testing.assert_allclose(rows.sums(logp_E), expected, rtol=1e-12, atol=1e-12)
