"""What a difference between conditions is worth: pure functions of arrays of scores.

Two questions, two bootstraps. *Would these very models differ on other items?* resamples items alone, as the reference
study does. *Would training again show the difference?* resamples seeds too, and needs several of them.

Shapes: B draws, N items, S seeds, T tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRAWS = 1000
LEVEL = 0.95
FEWEST_SEEDS = 3
"""Of a condition, below which nothing is said about other seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A difference, the interval it lies in, and how likely one of its size is by chance."""

    value: float
    low: float
    high: float
    p: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0, or is none."""
        return not (self.low > 0 or self.high < 0)


def generator(*key: object) -> np.random.Generator:
    """Randomness that follows from a key alone, so that all models share their index sets."""
    return np.random.default_rng(list(sha256(repr(key).encode()).digest()))


def item_weights(random: np.random.Generator, num_items: int, draws: int = DRAWS) -> Floats:
    """How often each item is drawn, `[B, N]`: N of N with replacement."""
    even = np.full(num_items, 1 / num_items)
    return random.multinomial(num_items, even, size=draws).astype(np.float64)


def interval(value: float, draws_B: Floats, level: float = LEVEL) -> Interval:
    """The percentile interval of a difference, and its two-sided p = (count + 1) / (B + 1), at most 1.

    `count` is twice the number of draws on the side of 0 where the difference is not.
    """
    with np.errstate(invalid="ignore"):  # changes relative to nothing
        low, high = np.quantile(draws_B, [(1 - level) / 2, (1 + level) / 2])
    other = min(int((draws_B <= 0).sum()), int((draws_B >= 0).sum()))
    p = min(1.0, (2 * other + 1) / (len(draws_B) + 1))
    return Interval(value=value, low=float(low), high=float(high), p=p)


def over_items(one_SB: Floats, base_SB: Floats) -> Floats:
    """Draws of the difference of two conditions' means, these seeds given, `[B]`."""
    found: Floats = one_SB.mean(0) - base_SB.mean(0)
    return found


def over_seeds_and_items(
    one_SB: Floats, base_SB: Floats, random: np.random.Generator, *, paired: bool
) -> Floats | None:
    """Draws of the difference over seeds and items, `[B]`; None for fewer than `FEWEST_SEEDS` of either condition.

    Args:
        one_SB, base_SB: scores of each seed under each draw of items, the same draws in both.
        random: draws the seeds.
        paired: whether row s of both is one seed; seeds are then drawn together.
    """
    drawn = _drawn_seeds(one_SB, base_SB, random, paired=paired)
    return None if drawn is None else _mean(one_SB, drawn[0]) - _mean(base_SB, drawn[1])


def relative_over_seeds_and_items(
    one_TSB: Floats, base_TSB: Floats, random: np.random.Generator, *, paired: bool
) -> Floats | None:
    """Draws of muDeltaREL over seeds and items, `[B]`, as `over_seeds_and_items`: a seed is drawn for all tasks."""
    drawn = _drawn_seeds(one_TSB[0], base_TSB[0], random, paired=paired)
    if drawn is None:
        return None
    one_TB, base_TB = (
        np.stack([_mean(score_SB, chosen_SB) for score_SB in score_TSB])
        for score_TSB, chosen_SB in zip((one_TSB, base_TSB), drawn, strict=True)
    )
    return relative_change(one_TB, base_TB)


def _drawn_seeds(
    one_SB: Floats, base_SB: Floats, random: np.random.Generator, *, paired: bool
) -> tuple[Ints, Ints] | None:
    """The rows of each condition that each draw takes, `[S, B]`."""
    if min(len(one_SB), len(base_SB)) < FEWEST_SEEDS:
        return None
    assert not paired or len(one_SB) == len(base_SB)
    one = random.integers(len(one_SB), size=one_SB.shape[::-1]).T
    return one, one if paired else random.integers(len(base_SB), size=base_SB.shape[::-1]).T


def _mean(score_SB: Floats, chosen_SB: Ints) -> Floats:
    """The mean over drawn seeds; a draw of S seeds varies too little by sqrt((S - 1) / S), which is undone."""
    seeds, draws = score_SB.shape
    mean_B = score_SB.mean(0)
    drawn_B = score_SB[chosen_SB, np.arange(draws)].mean(0)
    found: Floats = mean_B + math.sqrt(seeds / (seeds - 1)) * (drawn_B - mean_B)
    return found


def relative_change(one_T: npt.ArrayLike, base_T: npt.ArrayLike) -> Floats:
    """muDeltaREL: the mean over tasks (the first axis) of (one - base) / base; not finite where a base is 0."""
    one, base = np.asarray(one_T, np.float64), np.asarray(base_T, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = ((one - base) / base).mean(0)
    return found


def seeds_needed(
    difference: float,
    one_S: Sequence[float],
    base_S: Sequence[float],
    *,
    paired: bool,
    power: float = 0.8,
) -> int | None:
    """Seeds of each condition with which a difference of this size would be found, at 5 % two-sided.

    By the normal approximation, from the spread over the seeds there are: of the differences where they are paired.
    None for fewer than two of either, for no difference, and where nothing varies with the seed.
    """
    if min(len(one_S), len(base_S)) < 2 or difference == 0 or not math.isfinite(difference):
        return None
    one, base = np.asarray(one_S), np.asarray(base_S)
    variance = float(
        np.var(one - base, ddof=1) if paired else np.var(one, ddof=1) + np.var(base, ddof=1)
    )
    z = NormalDist().inv_cdf((1 + LEVEL) / 2) + NormalDist().inv_cdf(power)
    # Differences that are equal but for their last bits say nothing about how much they vary.
    if variance <= 1e-18 * difference**2:
        return None
    return max(2, math.ceil(variance * (z / difference) ** 2))
