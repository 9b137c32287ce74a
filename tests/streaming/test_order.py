"""The order of documents and the mix: pure, whole, and within the bound at every document boundary."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.streaming.mixture import bounds, merge, share_weights
from cdgen.streaming.order import document_order, permutation, philox

SIZES = st.lists(st.integers(0, 12), max_size=20)
SHARES = st.sampled_from([0.05, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.7, 0.9, 0.123456789])


def test_a_permutation_is_pinned() -> None:
    """Every corpus's order depends on it."""
    assert permutation(8, "pinned", 1).tolist() == [2, 1, 5, 7, 6, 0, 3, 4]


@pytest.mark.parametrize("words", [[3, 1, 2], [9, 8, 9, 8], [1 << 63, 7, 6, 6, 0], [5], []])
def test_a_permutation_is_the_stable_order_of_its_words(
    words: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of words that are equal, or differ only in the bits that make room for a place."""
    drawn = SimpleNamespace(random_raw=lambda _: np.array(words, np.uint64))
    monkeypatch.setattr("cdgen.streaming.order.philox", lambda *_: drawn)

    found = permutation(len(words), "any")
    assert found.dtype == np.int64 and found.tolist() == sorted(
        range(len(words)), key=words.__getitem__
    )


@pytest.mark.parametrize("n", [0, 1, 2, 1000, 65_537])
def test_a_permutation_is_that_of_sorting_its_words(n: int) -> None:
    words = philox("sorted", n).random_raw(n)
    assert np.array_equal(permutation(n, "sorted", n), np.argsort(words, kind="stable"))


@given(SIZES, st.integers(0, 5), st.integers(1, 5))
def test_every_document_is_read_once_an_epoch(sizes: list[int], epoch: int, window: int) -> None:
    order = document_order(sizes, source="real", seed=1, epoch=epoch, window_shards=window)

    assert sorted(map(tuple, order.tolist())) == [
        (s, d) for s, size in enumerate(sizes) for d in range(size)
    ]


def test_epochs_seeds_and_sources_have_orders_of_their_own() -> None:
    sizes = [50, 50]
    keys = [("real", 1, 0), ("real", 1, 1), ("real", 2, 0), ("synthetic", 1, 0)]
    orders = [document_order(sizes, source=s, seed=seed, epoch=e).tobytes() for s, seed, e in keys]

    assert len(set(orders)) == len(orders)


def test_documents_stay_within_their_window_of_shards() -> None:
    """What a reader must hold open is bounded."""
    order = document_order([10] * 12, source="real", seed=3, epoch=0, window_shards=3)

    for first in range(0, 120, 30):
        assert len(set(order[first : first + 30, 0].tolist())) == 3


def naive_merge(tokens: list[list[int]], weights: list[int]) -> list[tuple[int, int]]:
    """Start-time fair queueing, written out: always the source whose next document begins first."""
    begun = [Fraction(0)] * len(tokens)
    position = [0] * len(tokens)
    order = []
    while any(position[i] < len(tokens[i]) for i in range(len(tokens))):
        waiting = [i for i in range(len(tokens)) if position[i] < len(tokens[i])]
        i = min(waiting, key=lambda i: (begun[i], i))
        order.append((i, position[i]))
        begun[i] += Fraction(tokens[i][position[i]], weights[i])
        position[i] += 1
    return order


DOCUMENTS = st.lists(st.integers(1, 50), max_size=30)


@given(st.lists(DOCUMENTS, min_size=1, max_size=4), st.data())
@settings(max_examples=200)
def test_the_merge_is_fair_queueing(tokens: list[list[int]], data: st.DataObject) -> None:
    """The vectorised order against the obvious one."""
    weights = [data.draw(st.integers(1, 9)) for _ in tokens]
    source, position = merge([np.array(t, np.int64) for t in tokens], weights)

    assert list(zip(source.tolist(), position.tolist(), strict=True)) == naive_merge(
        tokens, weights
    )


@given(
    SHARES,
    st.lists(st.integers(1, 400), min_size=1, max_size=60),
    st.lists(st.integers(1, 400), min_size=1, max_size=60),
)
@settings(max_examples=300)
def test_the_share_holds_at_every_document_boundary(
    share: float, real: list[int], synthetic: list[int]
) -> None:
    """Within [-w (others' longest), (1 - w) (own longest)], while both sources last."""
    tokens = [np.array(real, np.int64), np.array(synthetic, np.int64)]
    source, position = merge(tokens, share_weights(share))
    sizes = np.array([tokens[s][p] for s, p in zip(source, position, strict=True)])
    both_last = min(np.flatnonzero(source == kind)[-1] for kind in (0, 1)) + 1
    error = (np.cumsum(sizes * (source == 1)) - share * np.cumsum(sizes))[:both_last]
    low, high = bounds(share, own_longest=max(synthetic), others_longest=max(real))

    assert error.min() >= low - 1e-6 and error.max() <= high + 1e-6


def test_decimal_shares_become_small_whole_weights() -> None:
    """0.3 is three tenths, not the binary number beside it."""
    assert share_weights(0.3) == (7, 3)
    assert share_weights(0.25) == (3, 1)
    assert share_weights(0.0) == (1, 0)
    assert share_weights(0.2, 0.15) == (13, 4, 3)
    assert share_weights(1 / 3, 0.25) == (5, 4, 3)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=4))
def test_any_decimal_shares_of_six_digits_are_exact(millionths: list[int]) -> None:
    """However many there are, and the weights are small enough for exact tags."""
    weights = share_weights(*(m / 10**6 for m in millionths))

    assert [Fraction(w, sum(weights)) for w in weights[1:]] == [
        Fraction(m, 10**6) for m in millionths
    ]
    assert all(0 < weight < 2**20 for weight in weights)


def test_shares_without_a_small_common_denominator_are_rounded_to_millionths() -> None:
    """No share is lost, and none is off by more than half a millionth."""
    shares = (1 / 999_983, 1 / 7, 0.123457)
    weights = share_weights(*shares)

    assert sum(weights) == 10**6
    for weight, share in zip(weights[1:], shares, strict=True):
        assert abs(weight / 10**6 - share) <= 0.5e-6


def test_shares_that_leave_nothing_real_are_refused() -> None:
    """One and a half is not a share."""
    with pytest.raises(ValueError, match="must leave some real text"):
        share_weights(0.5, 0.5)


@given(
    st.lists(st.integers(1, 2**20 - 1), min_size=2, max_size=4),
    st.integers(0, 10**12),
    st.data(),
)
def test_tags_are_compared_exactly_however_far_the_sources_are(
    weights: list[int], before: int, data: st.DataObject
) -> None:
    """After 10^12 tokens too, where tags of one common denominator would not fit into 64 bits."""
    tokens = [
        [before * w + data.draw(st.integers(0, 3)), *data.draw(st.lists(st.integers(1, 9), max_size=6))]
        for w in weights
    ]  # fmt: skip
    tokens = [[max(n, 1) for n in t] for t in tokens]
    source, position = merge([np.array(t, np.int64) for t in tokens], weights)

    assert list(zip(source.tolist(), position.tolist(), strict=True)) == naive_merge(
        tokens, weights
    )
