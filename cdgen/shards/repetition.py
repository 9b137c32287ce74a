"""How much a document repeats itself, from its token ids alone.

The measure follows Rae et al. 2021 (Gopher, arXiv 2112.11446, table A1: the share of a document within duplicate
n-grams), counted in tokens: an id is repeated if it lies in a 4-gram that stood earlier in the same document.
"""

import numpy as np

N = 4
"""Ids of an n-gram."""


def repetition(ids: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
    """The share of each document's ids that are repeated.

    An id counts once, in however many repeated 4-grams it lies; the first occurrence of a 4-gram does not count.
    A document of fewer than five ids has 0.

    Args:
        ids: of all documents, one after the other, uint16 or uint32 `[tokens]`.
        num_tokens: of each document, above zero, int64 `[documents]`.

    Returns:
        float64 `[documents]`, from 0 to below 1.
    """
    if not len(num_tokens):
        return np.zeros(0)
    begins = _begins_repeat(ids, num_tokens)
    repeated = begins.copy()
    for back in range(
        1, N
    ):  # an id lies in the 4-grams that begin at it and at the three ids before it
        repeated[back:] |= begins[:-back]
    firsts = np.cumsum(num_tokens) - num_tokens
    shares: np.ndarray = np.add.reduceat(repeated, firsts, dtype=np.int64) / num_tokens
    return shares


def _begins_repeat(ids: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
    """True where a 4-gram begins that stood earlier in its document, bool `[tokens]`."""
    document = np.repeat(np.arange(len(num_tokens)), num_tokens)
    begins = np.zeros(len(ids), bool)
    if len(ids) < N:
        return begins
    whole = np.flatnonzero(document[: 1 - N] == document[N - 1 :])
    code = _codes(ids)[whole]
    order = np.argsort(code, kind="stable")  # equal 4-grams stand together, and by position
    same = code[order[1:]] == code[order[:-1]]
    same &= document[whole[order[1:]]] == document[whole[order[:-1]]]
    begins[whole[order[1:][same]]] = True
    return begins


def _codes(ids: np.ndarray) -> np.ndarray:
    """A number for each 4-gram, equal exactly where the 4-grams are, uint64 `[tokens - 3]`."""
    wide = ids.astype(np.uint64)
    codes: np.ndarray
    if ids.dtype == np.uint16:  # four ids fit into one number
        codes = wide[:-3] | wide[1:-2] << 16 | wide[2:-1] << 32 | wide[3:] << 48
        return codes
    _, pair = np.unique(wide[:-1] << 32 | wide[1:], return_inverse=True)
    rank = pair.astype(np.uint64)  # below the number of tokens, which is below 2^32
    codes = rank[:-2] << 32 | rank[2:]
    return codes
