"""Token ids as the .npy format (version 1.0), always with a header of 128 bytes.

A content starts at a multiple of 512 in the tar, so ids start at a multiple of 128: a map of the file needs no copy.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 128
Ids = npt.NDArray[np.unsignedinteger[Any]]
IdDtype = np.dtype[np.unsignedinteger[Any]]

DTYPES: tuple[IdDtype, IdDtype] = (np.dtype("<u2"), np.dtype("<u4"))


def id_dtype(vocab_size: int) -> IdDtype:
    """The smallest of uint16 and uint32 that holds ids below `vocab_size`; ValueError if neither does."""
    for dtype in DTYPES:
        if 1 <= vocab_size <= 256**dtype.itemsize:
            return dtype
    raise ValueError(f"a vocabulary must have 1 to 2^32 entries, found {vocab_size}")


def header(dtype: IdDtype, num_ids: int) -> bytes:
    """The 128 bytes before `num_ids` ids: what numpy.save writes."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({num_ids},), }}"
    return (
        b"\x93NUMPY\x01\x00"
        + (HEADER_BYTES - 10).to_bytes(2, "little")
        + text.encode().ljust(117)
        + b"\n"
    )


def dump(ids: Ids) -> bytes:
    """The content of a .npy member."""
    return header(ids.dtype, len(ids)) + ids.tobytes()


def load(content: bytes | memoryview) -> Ids:
    """The ids of a .npy member, as a view of `content`; ValueError if it is not what `dump` writes."""
    start = bytes(content[:HEADER_BYTES])
    for dtype in DTYPES:
        num_ids, rest = divmod(len(content) - HEADER_BYTES, dtype.itemsize)
        if rest == 0 and num_ids > 0 and start == header(dtype, num_ids):
            ids: Ids = np.frombuffer(content, dtype, offset=HEADER_BYTES)
            return ids
    raise ValueError(f"a .npy member of {len(content)} bytes with a header that does not fit")
