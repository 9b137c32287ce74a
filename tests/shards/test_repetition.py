"""The share of repeated ids, against the definition written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.shards.repetition import N, repetition

DOCUMENT = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def naive(ids: list[int]) -> float:
    """Ids inside a 4-gram that stood earlier in the document, over all ids."""
    seen: set[tuple[int, ...]] = set()
    repeated: set[int] = set()
    for start in range(len(ids) - N + 1):
        gram = tuple(ids[start : start + N])
        if gram in seen:
            repeated.update(range(start, start + N))
        seen.add(gram)
    return len(repeated) / len(ids)


@given(st.lists(DOCUMENT, max_size=8), st.sampled_from([np.uint16, np.uint32]), st.booleans())
@settings(max_examples=300)
def test_it_is_the_definition(documents: list[list[int]], dtype: type, large: bool) -> None:
    """Document by document, whatever stands beside it and however large the ids are."""
    shift = np.iinfo(dtype).max - 3 if large else 0
    ids: np.ndarray = np.array([i + shift for document in documents for i in document], dtype)
    sizes = np.array([len(document) for document in documents], np.int64)

    assert repetition(ids, sizes).tolist() == [naive(document) for document in documents]


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([1], 0.0),
        ([1, 1, 1, 1], 0.0),
        ([1, 1, 1, 1, 1], 4 / 5),
        ([1, 2, 3, 4, 1, 2, 3, 4], 4 / 8),
        ([1, 2, 3, 4, 5, 1, 2, 3], 0.0),
    ],
)
def test_cases_worked_out_by_hand(ids: list[int], share: float) -> None:
    """The first occurrence does not count, overlapping ones count an id once."""
    assert repetition(np.array(ids, np.uint16), np.array([len(ids)])).tolist() == [share]


def test_ids_above_16_bits_are_not_confused() -> None:
    """Four ids that differ only above bit 16 are four different ids."""
    ids = np.array([1, 2, 3, 4, 65537, 2, 3, 4, 1, 2, 3, 4], np.uint32)

    assert repetition(ids, np.array([12])).tolist() == [4 / 12]
