"""distinct-n and self-BLEU against their definitions, written out slowly."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.reports.diversity import distinct, self_bleu

Documents = list[list[int]]


def slow_distinct(documents: Documents, n: int) -> float:
    grams = [tuple(ids[k : k + n]) for ids in documents for k in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def slow_bleu(hypothesis: list[int], references: Documents) -> float:
    """Papineni et al. 2002: clipped precisions of n-grams up to four, no brevity penalty at equal lengths."""
    product = 1.0
    for n in range(1, 5):

        def grams(ids: list[int], n: int = n) -> Counter[tuple[int, ...]]:
            return Counter(tuple(ids[k : k + n]) for k in range(len(ids) - n + 1))

        mine = grams(hypothesis)
        clipped = sum(
            min(c, max(grams(ids)[gram] for ids in references)) for gram, c in mine.items()
        )
        product *= clipped / sum(mine.values())
    return math.pow(product, 0.25)


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=6))
def test_distinct_is_the_share_of_different_n_grams(documents: Documents) -> None:
    """Within documents only."""
    ids = np.array([token for one in documents for token in one], np.uint16)
    found = distinct(ids, np.array([len(one) for one in documents]))

    assert found == pytest.approx([slow_distinct(documents, n) for n in range(1, 5)], abs=1e-12)


@given(
    st.integers(4, 9).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(0, 3), min_size=size, max_size=size), min_size=2, max_size=5
        )
    )
)
def test_self_bleu_is_the_mean_of_bleu_against_all_others(documents: Documents) -> None:
    """Also where two documents have an n-gram equally often."""
    slow = [
        slow_bleu(one, [o for k, o in enumerate(documents) if k != row])
        for row, one in enumerate(documents)
    ]

    assert self_bleu([np.array(one) for one in documents]) == pytest.approx(np.mean(slow), abs=1e-9)


def test_the_ends_of_the_scale() -> None:
    """Equal documents have 1, documents without a common 4-gram 0, a document alone has none."""
    one = np.arange(8)

    assert self_bleu([one, one, one]) == pytest.approx(1.0)
    assert self_bleu([one, one + 100]) == 0.0
    assert self_bleu([one]) is None


def test_large_ids_do_not_collide() -> None:
    """Ids that need 32 bits are counted exactly."""
    ids = np.array([2**32 - 1, 0, 2**32 - 1, 1], np.uint32)

    assert distinct(ids, np.array([4])) == (0.75, 1.0, 1.0, 1.0)
