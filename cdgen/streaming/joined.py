"""Parts of many buffers, joined by one compiled sweep.

Arrow's view arrays are lists of (length, buffer, offset), and casting one to a plain array is a gather: a part costs a
few dozen nanoseconds there, and about a microsecond as a slice of a NumPy array. Python's lock is free meanwhile.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_INLINE = 12
"""A view of so many bytes or fewer holds them itself."""
_REACH = 1 << 30
"""A view's offset has 32 bits: longer buffers are passed in windows that begin at multiples of this."""


def joined(
    buffers: Sequence[pa.Buffer], which: np.ndarray, begin: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """The bytes of all parts, one after another: uint8 `[sum of lengths]`, read-only. Arguments as of `viewed`."""
    total = int(length.sum())
    kind = pa.binary() if total < 2 * _REACH else pa.large_binary()
    plain = pc.cast(viewed(buffers, which, begin, length), kind)
    return np.frombuffer(plain.buffers()[2] or b"", np.uint8, total)


def viewed(
    buffers: Sequence[pa.Buffer], which: np.ndarray, begin: np.ndarray, length: np.ndarray
) -> pa.Array:
    """An Arrow array whose values are the parts; nothing is copied.

    Args:
        buffers: what is read.
        which: the buffer of each part, int64 `[parts]`.
        begin: its first byte there, int64 `[parts]`.
        length: its bytes, less than 2^30, int64 `[parts]`.
    """
    ends = begin + length
    sizes = np.array([buffer.size for buffer in buffers], np.int64)
    assert (begin >= 0).all() and (ends <= sizes[which]).all(), "a part leaves its buffer"
    assert (length < _REACH).all()
    if (ends >= 2 * _REACH).any():
        buffers, which, begin = _windows(buffers, which, begin)
    views = np.zeros(
        (len(which), 4), np.int32
    )  # length, the first bytes (not read), buffer, offset
    views[:, 0], views[:, 2], views[:, 3] = length, which, begin
    content = views.view(np.uint8)
    for part in np.flatnonzero(length <= _INLINE).tolist():
        first, count = int(begin[part]), int(length[part])
        content[part, 4:] = 0
        content[part, 4 : 4 + count] = np.frombuffer(buffers[which[part]], np.uint8, count, first)
    data = [None, pa.py_buffer(views), *buffers]
    return pa.Array.from_buffers(pa.binary_view(), len(views), data)


def _windows(
    buffers: Sequence[pa.Buffer], which: np.ndarray, begin: np.ndarray
) -> tuple[list[pa.Buffer], np.ndarray, np.ndarray]:
    """The same parts, of buffers that are cut so that every offset is below `_REACH`."""
    window = begin // _REACH
    pairs, number = np.unique(np.stack([which, window], 1), axis=0, return_inverse=True)
    cut = [buffers[n].slice(w * _REACH) for n, w in pairs.tolist()]
    return cut, number.reshape(-1), begin - window * _REACH
