"""The mixed corpus: the real text once, the share exact in tokens, and a clear word when it cannot be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.errors import BuildError
from cdgen.mixing.materialize import (
    MIN_MIXED_SHARDS,
    missing_prefixes,
    mix_order,
    num_mixed_shards,
)
from cdgen.recipes.schema import Mix

SHARD = st.lists(st.integers(1, 300), min_size=1, max_size=20)


def shards(lists: list[list[int]]) -> list[np.ndarray]:
    return [np.array(tokens, np.int64) for tokens in lists]


@given(
    st.lists(SHARD, min_size=1, max_size=4),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]),
    st.integers(0, 3),
)
@settings(max_examples=200)
def test_the_real_text_is_there_once_and_the_share_is_exact(
    real: list[list[int]], share: float, seed: int
) -> None:
    """To within one document, however long the documents of either kind are."""
    num_real = sum(map(sum, real))
    plenty = [[7] * (int(num_real * share / (1 - share)) // 7 + 10)]
    order, result = mix_order(
        shards(real), shards(plenty), Mix(synthetic=share, seed=seed), tokens_per_prefix=7
    )

    chosen = list(zip(order.kind.tolist(), order.shard.tolist(), order.row.tolist(), strict=True))
    assert len(set(chosen)) == len(chosen) == result.num_documents
    assert sorted(c[1:] for c in chosen if c[0] == 0) == [
        (s, r) for s, t in enumerate(real) for r in range(len(t))
    ]
    assert result.num_real_tokens == num_real
    total = result.num_real_tokens + result.num_synthetic_tokens
    error = result.num_synthetic_tokens - share * total
    assert result.bound_low_tokens - 1e-6 <= error <= result.bound_high_tokens + 1e-6


def test_too_little_synthetic_text_says_how_many_prefixes_are_missing() -> None:
    """700 real tokens at 30 % need 300 synthetic ones; 100 are there; a prefix yields 40."""
    with pytest.raises(
        BuildError, match=r"needs 300 synthetic tokens, there are 100: about 5 more prefixes"
    ):
        mix_order(shards([[700]]), shards([[50, 50]]), Mix(synthetic=0.3), tokens_per_prefix=40)


def test_exactly_enough_is_enough() -> None:
    _, result = mix_order(
        shards([[700]]), shards([[300]]), Mix(synthetic=0.3), tokens_per_prefix=40
    )

    assert result.realised == 0.3 and result.num_unused_synthetic_tokens == 0


def test_what_is_not_needed_is_counted() -> None:
    _, result = mix_order(
        shards([[70]]), shards([[10] * 9]), Mix(synthetic=0.3), tokens_per_prefix=40
    )

    assert (result.num_synthetic_tokens, result.num_unused_synthetic_tokens) == (30, 60)


@given(
    st.integers(1, 10**12),
    st.integers(0, 10**12),
    st.sampled_from([0.1, 0.3, 0.5]),
    st.integers(1, 10**6),
)
def test_missing_prefixes_are_just_enough(
    real: int, synthetic: int, share: float, per_prefix: int
) -> None:
    """One fewer would not do."""
    missing = missing_prefixes(real, synthetic, share, per_prefix)

    assert missing_prefixes(real, synthetic + missing * per_prefix, share, per_prefix) == 0
    if missing:
        assert (
            missing_prefixes(real, synthetic + (missing - 1) * per_prefix, share, per_prefix) == 1
        )


def test_small_corpora_have_eight_shards_and_large_ones_as_many_as_they_need() -> None:
    assert [num_mixed_shards(n, 10) for n in (1, 5, 80, 81, 1000)] == [
        1,
        5,
        MIN_MIXED_SHARDS,
        9,
        100,
    ]
