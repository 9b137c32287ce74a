"""How varied text is, from its token ids: the share of different n-grams, and how alike documents are.

Both depend on how much text is looked at, so sources are compared at the same number of tokens and of documents.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

LARGEST_N = 4
"""Tokens of the longest n-grams."""

Gram = tuple[int, ...]


def distinct(ids: np.ndarray, num_tokens: np.ndarray) -> tuple[float, ...]:
    """The share of n-grams that differ from each other, for n from 1 to 4 (distinct-n, Li et al. 2016).

    Exact: no hashes. N-grams do not cross documents. 0 where there are none.

    Args:
        ids: of all documents, one after the other, `[tokens]`.
        num_tokens: of each document, `[documents]`.
    """
    document = np.repeat(np.arange(len(num_tokens)), num_tokens)
    first = _ranks(ids.astype(np.uint64))
    rank, shares = first, []
    for n in range(1, LARGEST_N + 1):
        if (
            n > 1
        ):  # a number for the n-gram from one for its first n - 1 tokens and one for its last
            rank = _ranks(rank[:-1] << np.uint64(32) | first[n - 1 :])
        whole = document[: len(rank)] == document[n - 1 :]
        grams = rank[whole]
        shares.append(len(np.unique(grams)) / len(grams) if len(grams) else 0.0)
    return tuple(shares)


def _ranks(codes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Small numbers that are equal exactly where the codes are."""
    return np.unique(codes, return_inverse=True)[1].astype(np.uint64)


def self_bleu(documents: Sequence[np.ndarray]) -> float | None:
    """Mean BLEU-4 of each document with all others as references (Zhu et al. 2018), without smoothing.

    0: no document shares a 4-gram with the others; 1: all are alike. None for fewer than two documents.

    Args:
        documents: ids, of one length of at least four tokens, so that there is no brevity penalty.
    """
    if len(documents) < 2:
        return None
    assert len({len(ids) for ids in documents}) == 1 and len(documents[0]) >= LARGEST_N
    logs = np.zeros(len(documents))
    for n in range(1, LARGEST_N + 1):
        counts = [Counter(_grams(ids, n)) for ids in documents]
        most = _two_most(counts)
        for row, mine in enumerate(counts):
            clipped = sum(min(count, _others(most[gram], row)) for gram, count in mine.items())
            precision = clipped / mine.total()
            logs[row] += math.log(precision) / LARGEST_N if precision else -math.inf
    return float(np.exp(logs).mean())


def _grams(ids: np.ndarray, n: int) -> Iterator[Gram]:
    tokens = ids.tolist()
    return zip(*(tokens[k:] for k in range(n)), strict=False)


def _two_most(counts: Sequence[Counter[Gram]]) -> dict[Gram, tuple[int, int, int]]:
    """By n-gram: which document has it most often, how often, and how often the next one has it."""
    most: dict[Gram, tuple[int, int, int]] = {}
    for row, mine in enumerate(counts):
        for gram, count in mine.items():
            owner, first, second = most.get(gram, (-1, 0, 0))
            if count > first:
                most[gram] = (row, count, first)
            elif count > second:
                most[gram] = (owner, first, count)
    return most


def _others(most: tuple[int, int, int], row: int) -> int:
    """How often an n-gram stands at most in one document besides `row`."""
    owner, first, second = most
    return second if owner == row else first
