"""How alike two texts are: the share of their 5-word shingles that they have in common.

Words are runs of letters, digits and underscores, without regard to case and width. Broder 1997 ("On the resemblance
and containment of documents") calls the measure resemblance; it is the Jaccard index of the two sets.
"""

import re
import unicodedata

import numpy as np
import numpy.typing as npt
import xxhash

SHINGLE_WORDS = 5

Shingles = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(plain)


def shingles(text: str) -> Shingles:
    """Hashes of the different runs of five words of a text, ascending, uint64; of a shorter text: of all its words."""
    found = words(text)
    count = max(1, len(found) - SHINGLE_WORDS + 1)
    hashed = [
        xxhash.xxh3_64_intdigest(" ".join(found[begin : begin + SHINGLE_WORDS]).encode())
        for begin in range(count)
    ]
    return np.unique(np.array(hashed, np.uint64))


def resemblance(a: Shingles, b: Shingles) -> float:
    """The Jaccard index of two sets of shingles, from 0 to 1."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)
