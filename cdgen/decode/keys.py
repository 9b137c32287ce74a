"""The randomness of a completion as data: a key from what it is, and uniforms from the key. Never torch.

Shapes: B rows, T new tokens.
"""

import hashlib
import json

import numpy as np
import numpy.typing as npt


def rng_key(seed: int, prefix_id: str, completion: int) -> int:
    """The 128-bit key of one completion's randomness.

    Args:
        seed: the recipe's generate.seed.
        prefix_id: names the prefix, whatever batch it is decoded in.
        completion: 0, 1, …; without it all completions of a prefix would be clones.
    """
    # JSON is unambiguous: no two triples share an encoding, whatever characters an id has.
    text = json.dumps(["cdgen.rng.1", seed, prefix_id, completion], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:16], "big")


def key_hex(key: int) -> str:
    """The key as samples record it: 32 hexadecimal digits."""
    return f"{key:032x}"


def uniforms(key: int, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1), multiples of 2^-53, float64: the stream of `key`.

    The key is Philox's key. (Philox with `counter=index` would give streams that are one another's
    shift by a step.) Raw words are used because numpy promises to keep those the same for ever.
    """
    raw = np.random.Philox(key=key).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def row_keys(uniforms_BT: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """A 64-bit key per row for randomness besides the draws, int64 [B]: a hash of its first two uniforms.

    So it is a function of what the row is, and needs no second way to the engine. (SplitMix64's finaliser.)
    """
    key_B = np.zeros(len(uniforms_BT), np.uint64)
    for uniform_B in uniforms_BT[:, :2].T:
        x = key_B + (uniform_B * 2.0**53).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key_B = x ^ (x >> np.uint64(31))
    return key_B.view(np.int64)
