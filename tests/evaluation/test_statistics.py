"""Statistics: against scipy, against answers that are known, and what must not change them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cdgen.evaluation.statistics import (
    generator,
    interval,
    item_weights,
    over_items,
    over_seeds_and_items,
    relative_change,
    relative_over_seeds_and_items,
    seeds_needed,
)


def means(value_N: np.ndarray, draws: int = 1000) -> np.ndarray:
    """The bootstrap's means of one model, `[1, B]`."""
    weights = item_weights(generator("items"), len(value_N), draws)
    return np.asarray(weights @ value_N / len(value_N))[None]


def test_the_interval_over_items_is_scipys() -> None:
    """A paired bootstrap of a mean difference; both are random, so within a small part of their width."""
    random = np.random.default_rng(0)
    one, base = random.normal(0.3, 1, 300), random.normal(0.0, 1, 300)
    ours = interval(float((one - base).mean()), over_items(means(one, 10_000), means(base, 10_000)))
    theirs = stats.bootstrap(
        (one, base), lambda x, y: np.mean(x) - np.mean(y), paired=True, n_resamples=10_000,
        vectorized=False, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip

    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_p_is_counted_by_hand() -> None:
    """Two of ten draws are on the other side: (2 * 2 + 1) / 11; none: 1 / 11; one with itself: 1."""
    assert interval(1.0, np.array([-1.0, -1, 1, 1, 1, 1, 1, 1, 1, 1])).p == pytest.approx(5 / 11)
    assert interval(1.0, np.ones(10)).p == pytest.approx(1 / 11)
    same = interval(0.0, np.zeros(10))
    assert same.p == 1.0 and same.is_noise


def test_weights_are_whole_items_drawn_with_replacement() -> None:
    weights = item_weights(generator("items", "blimp"), 50, 200)

    assert weights.shape == (200, 50) and (weights.sum(1) == 50).all()
    assert np.array_equal(weights, item_weights(generator("items", "blimp"), 50, 200))
    assert not np.array_equal(weights, item_weights(generator("items", "ewok"), 50, 200))


def test_seeds_are_drawn_with_their_unbiased_spread() -> None:
    """Without items: the standard deviation of the draws is the standard error, sd / sqrt(S), with S - 1 below."""
    score_S = np.array([0.0, 1.0, 2.0, 5.0])
    base_SB = np.zeros((4, 20_000))
    one_SB = np.repeat(score_S[:, None], 20_000, axis=1)
    drawn = over_seeds_and_items(one_SB, base_SB, generator("seeds"), paired=False)

    assert drawn is not None
    assert drawn.std() == pytest.approx(score_S.std(ddof=1) / 2, rel=0.03)
    assert drawn.mean() == pytest.approx(2.0, abs=0.03)


def test_pairing_takes_out_what_a_seed_does_to_both() -> None:
    shared = np.array([0.0, 10.0, 20.0])[:, None].repeat(500, axis=1)
    paired = over_seeds_and_items(shared + 1, shared, generator("s"), paired=True)
    apart = over_seeds_and_items(shared + 1, shared, generator("s"), paired=False)

    assert paired is not None and apart is not None
    assert np.allclose(paired, 1.0) and apart.std() > 3


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_give_no_interval(seeds: int) -> None:
    some = np.zeros((seeds, 10))
    assert over_seeds_and_items(some, np.zeros((5, 10)), generator("s"), paired=False) is None


def test_relative_change_by_hand() -> None:
    """(0.6 - 0.5) / 0.5 = 0.2 and (0.2 - 0.25) / 0.25 = -0.2."""
    assert float(relative_change([0.6, 0.2], [0.5, 0.25])) == pytest.approx(0.0)
    assert float(relative_change([0.6, 0.3], [0.5, 0.25])) == pytest.approx(0.2)


def test_the_relative_change_is_drawn_in_pairs_of_seeds() -> None:
    """Every seed gains a tenth on both tasks, whatever its level: 0.1 in every draw; seeds apart say ± a half."""
    base_TS = np.array([[0.4, 0.5, 0.9], [0.2, 0.3, 0.1]])
    base_TSB = base_TS[:, :, None].repeat(400, axis=2)
    paired, apart = (
        relative_over_seeds_and_items(1.1 * base_TSB, base_TSB, generator("s"), paired=paired)
        for paired in (True, False)
    )

    assert paired is not None and np.allclose(paired, 0.1)
    assert apart is not None and apart.std() > 0.2


def test_a_drawn_relative_change_by_hand() -> None:
    """Three seeds, one task, no noise of items: a draw of rows (i, j, k) gives means 2 + sqrt(3/2) (mean - 2)."""
    one_SB = np.array([1.0, 2.0, 3.0])[:, None].repeat(200, axis=1)
    base_SB = np.full((3, 200), 2.0)
    drawn = relative_over_seeds_and_items(one_SB[None], base_SB[None], generator("s"), paired=True)
    possible = {round(math.sqrt(1.5) * (total / 3 - 2) / 2, 9) for total in range(3, 10)}

    assert drawn is not None
    assert set(np.round(drawn, 9)) == possible


@pytest.mark.parametrize("few", [1, 2])
def test_few_seeds_give_no_interval_of_the_relative_change(few: int) -> None:
    assert relative_over_seeds_and_items(
        np.ones((2, few, 9)), np.ones((2, 3, 9)), generator("s"), paired=False
    ) is None  # fmt: skip


def test_seeds_needed_in_pairs_is_the_power_of_a_paired_test() -> None:
    """n = sd² (z + z)² / d² of the differences, here of -0.01, 0.02, 0.05: far fewer than by the seeds themselves."""
    one, base = [0.40, 0.63, 0.86], [0.41, 0.61, 0.81]
    needed = seeds_needed(0.02, one, base, paired=True)
    assert needed is not None
    error = [0.03 / math.sqrt(n) for n in (needed, needed - 1)]
    power = [stats.norm.sf(stats.norm.ppf(0.975) - 0.02 / e) for e in error]

    assert power[0] >= 0.8 > power[1]
    apart = seeds_needed(0.02, one, base, paired=False)
    assert apart is not None and apart > 100 * needed
    assert seeds_needed(0.1, [0.5, 0.6, 0.7], [0.4, 0.5, 0.6], paired=True) is None


def test_seeds_needed_is_the_normal_formula_and_is_enough() -> None:
    """n = 2 sd² (z + z)² / d²; scipy's power of a z test with n is at least 0.8, with n - 1 it is below."""
    one, base = [0.50, 0.53, 0.56], [0.48, 0.51, 0.54]
    needed = seeds_needed(0.02, one, base, paired=False)
    assert needed is not None
    error = [math.sqrt(2 * 0.03**2 / n) for n in (needed, needed - 1)]
    power = [stats.norm.sf(stats.norm.ppf(0.975) - 0.02 / e) for e in error]

    assert power[0] >= 0.8 > power[1]
    assert seeds_needed(0.02, [0.5], base, paired=False) is None
    assert seeds_needed(0.0, one, base, paired=False) is None


@given(st.permutations(range(5)), st.integers(0, 3))
def test_the_order_of_seeds_and_items_does_not_matter(order: list[int], key: int) -> None:
    """Of the differences over items, to the last few bits; and two labels swapped turn the sign."""
    random = np.random.default_rng(key)
    one, base = random.normal(size=(5, 40)), random.normal(size=(5, 40))

    assert np.allclose(over_items(one[order], base), over_items(one, base))
    assert np.allclose(over_items(base, one), -over_items(one, base))


def _coverage(seeds: int, trials: int, draws: int) -> float:
    """How often the interval over seeds and items holds the true difference, here 0."""
    random, hits = np.random.default_rng(7), 0
    for trial in range(trials):
        weights = item_weights(generator("items", trial), 60, draws)
        ones = []
        for _ in range(2):
            level = random.normal(0, 0.3, size=(seeds, 1))
            ones.append((level + random.normal(size=(seeds, 60))) @ weights.T / 60)
        drawn = over_seeds_and_items(ones[0], ones[1], generator("seeds", trial), paired=False)
        assert drawn is not None
        hits += not interval(0.0, drawn).low > 0 and not interval(0.0, drawn).high < 0
    return hits / trials


def test_the_interval_over_seeds_and_items_covers() -> None:
    """A small simulation: with 10 seeds a 95 % interval holds the truth in 90 to 99 % of 150 studies."""
    assert 0.90 <= _coverage(10, 150, 200) <= 0.995


@pytest.mark.soak
@pytest.mark.parametrize(("seeds", "low"), [(3, 0.85), (5, 0.90), (10, 0.92), (20, 0.93)])
def test_coverage_at_length(seeds: int, low: float) -> None:
    assert (
        low <= _coverage(seeds, 3000, 1000) <= 0.99
    )  # measured: 0.979 with 20 seeds, a little too wide
