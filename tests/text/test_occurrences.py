"""Copies are numbered from 0 in the order of the documents, however they are cut into batches."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cdgen.text.occurrences import Occurrences


@given(st.lists(st.lists(st.integers(0, 12) | st.integers(0, 2**64 - 1), max_size=9), max_size=12))
def test_numbers_are_those_of_a_naive_count(batches: list[list[int]]) -> None:
    """A Counter beside it."""
    seen, naive = Occurrences(), Counter[int]()
    for batch in batches:
        expected = []
        for value in batch:
            expected.append(naive[value])
            naive[value] += 1
        assert seen.number(np.array(batch, np.uint64)).tolist() == expected


def test_memory_is_twelve_bytes_for_each_different_hash() -> None:
    """And few runs are searched."""
    seen, random = Occurrences(), np.random.default_rng(0)
    for _ in range(200):
        seen.number(random.integers(0, 2**63, 1000).astype(np.uint64))

    assert seen.num_bytes <= 12 * 200_000
    assert seen.num_runs <= 12
