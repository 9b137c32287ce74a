"""The number of mixed shards."""

from cdgen.mixing.materialize import MIN_MIXED_SHARDS, num_mixed_shards


def test_small_corpora_have_eight_shards_and_large_ones_as_many_as_they_need() -> None:
    """And never one without a document."""
    found = [num_mixed_shards(n, 10) for n in (1, 5, 80, 81, 1000)]

    assert found == [1, 5, MIN_MIXED_SHARDS, 9, 100]
