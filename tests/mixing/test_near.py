"""Near-duplicates: what is dropped resembles what stays, and hardly anything alike is overlooked."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.mixing.near import NUM_ORDERS, near_duplicates, rows_per_band, signature, signatures
from cdgen.shards.similarity import Shingles, resemblance, shingles


def changed(rng: random.Random, text: list[str], num_words: int) -> list[str]:
    """A text with some words replaced."""
    out = list(text)
    for place in rng.sample(range(len(out)), num_words):
        out[place] = f"new{rng.random()}"
    return out


def texts(rng: random.Random, count: int) -> list[str]:
    """Texts of which many are changed copies of others."""
    made: list[list[str]] = []
    for _ in range(count):
        if made and rng.random() < 0.7:
            made.append(changed(rng, rng.choice(made), rng.randint(0, 12)))
        else:
            made.append([str(rng.randint(0, 10**6)) for _ in range(rng.randint(40, 90))])
    return [" ".join(words) for words in made]


def naive(of: list[Shingles], threshold: float, num_fixed: int) -> list[int]:
    """Every document against all earlier ones that stay."""
    found: list[int] = []
    for number, mine in enumerate(of):
        alike = (
            other
            for other in range(number)
            if found[other] < 0 and resemblance(mine, of[other]) >= threshold
        )
        found.append(next(alike, -1) if number >= num_fixed else -1)
    return found


@given(st.randoms(use_true_random=False), st.floats(0.4, 0.95))
@settings(max_examples=8)
def test_the_same_are_dropped_as_when_all_pairs_are_compared(
    rng: random.Random, threshold: float
) -> None:
    """Chance could overlook a pair at the threshold, once in a thousand: these hundreds hold none."""
    of = [shingles(text) for text in texts(rng, 30)]
    num_fixed = rng.randint(0, 10)

    found = near_duplicates(
        of.__getitem__, signatures(of), threshold=threshold, num_fixed=num_fixed
    )

    for number, twin in enumerate(found.tolist()):
        if twin >= 0:
            assert resemblance(of[number], of[twin]) >= threshold and found[twin] < 0
    wanted = naive(of, threshold, num_fixed)
    missed = sum(a != b for a, b in zip(found.tolist(), wanted, strict=True))
    assert missed <= 1


def test_a_signature_agrees_as_often_as_documents_resemble_each_other() -> None:
    """Within four standard errors, over many pairs."""
    rng = random.Random(1)
    errors = []
    for _ in range(100):
        text = [str(rng.randint(0, 10**6)) for _ in range(300)]
        a = shingles(" ".join(text))
        b = shingles(" ".join(changed(rng, text, 10)))
        errors.append(float((signature(a) == signature(b)).mean()) - resemblance(a, b))

    assert abs(float(np.mean(errors))) < 4 * (0.25 / NUM_ORDERS / len(errors)) ** 0.5


def test_the_orders_are_those_they_were() -> None:
    """A corpus hangs on them: this may only change with the version of the digests."""
    assert signature(shingles("the quick brown fox jumps over the lazy dog"))[:4].tolist() == [
        57479673,
        101148272,
        1246303663,
        404987130,
    ]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95])
def test_bands_overlook_hardly_any_pair_at_the_threshold(threshold: float) -> None:
    rows = rows_per_band(threshold)

    assert (1 - threshold**rows) ** (NUM_ORDERS // rows) <= 1e-3
    assert rows == 1 or (1 - threshold ** (rows + 1)) ** (NUM_ORDERS // (rows + 1)) > 1e-3


def test_no_documents_and_texts_without_words_are_fine() -> None:
    empty = [shingles(""), shingles("…"), shingles("one")]

    none = signatures([])

    assert near_duplicates(empty.__getitem__, none, threshold=0.8, num_fixed=0).tolist() == []
    found = near_duplicates(empty.__getitem__, signatures(empty), threshold=0.8, num_fixed=0)
    assert found.tolist() == [-1, 0, -1]
