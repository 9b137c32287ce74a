"""Where the documents of a shard lie, kept in $CDGEN_CACHE: the first batch of a run need not decode Parquet.

An index takes a millisecond to open and decode, and a first batch needs those of a whole window of each source. What
a stream takes from one is three columns of numbers; read back as they are, they take a tenth of that.

There are 4,096 places in all, as in a processor's cache: a shard's is named by its index's SHA-256, and a newcomer
takes it. So the folder stays small (about 120 kB a shard of 5,000 documents) without anyone who clears it.
"""

import hashlib
import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np
import xxhash

from cdgen.shards import npy
from cdgen.shards.manifest import ManifestShard
from cdgen.storage import TEMPORARY_PREFIX
from cdgen.streaming.line import Rows

_FORMAT = 1
_MOST = 1 << 15
"""Documents of a shard, at most: beyond, the time to open an index is little beside its documents."""
_STAMP = 32
_HEAD = _STAMP + 16
"""Bytes before the columns: what they are of; their XXH64, and the bytes of an id."""


def remembered(entry: ManifestShard, index: Path, folder: Path) -> tuple[Rows, npy.IdDtype] | None:
    """What `folder` has of an index; None where that is nothing, or the file is another than it was, or damage."""
    if entry.num_samples > _MOST:
        return None
    try:
        stamp, data = _stamp(entry, index), _place(entry, folder).read_bytes()
    except OSError:
        return None  # who reads the index says what is wrong with it
    body = memoryview(data)[_HEAD:]
    if data[:_STAMP] != stamp or len(body) != 24 * entry.num_samples:
        return None
    digest, width = np.frombuffer(data, np.uint64, 2, _STAMP).tolist()
    dtype = next((dtype for dtype in npy.DTYPES if dtype.itemsize == width), None)
    if dtype is None or xxhash.xxh64_intdigest(body) != digest:
        return None
    return Rows(*np.frombuffer(body, np.int64).reshape(3, -1)), dtype


def remember(
    entry: ManifestShard, index: Path, folder: Path, rows: Rows, dtype: npy.IdDtype
) -> None:
    """Keep in `folder` what was read of an index. That it may not be written to is no fault."""
    if entry.num_samples > _MOST:
        return
    body = np.concatenate([rows.num_tokens, rows.where, rows.xxh64]).tobytes()
    head = np.array([xxhash.xxh64_intdigest(body), dtype.itemsize], np.uint64).tobytes()
    place = _place(entry, folder)
    temporary = place.with_name(f"{TEMPORARY_PREFIX}{place.name}-{secrets.token_hex(8)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Not synced: after a crash half a file is known by its hash, and read anew.
        temporary.write_bytes(_stamp(entry, index) + head + body)
        temporary.replace(place)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def _place(entry: ManifestShard, folder: Path) -> Path:
    return folder / entry.index.sha256[:3]


def _stamp(entry: ManifestShard, index: Path) -> bytes:
    """Of the index as the manifest has it and as it lies on disk: a file that was touched is read anew."""
    file = index.stat()
    parts = (
        _FORMAT, entry.name, entry.index.sha256, entry.num_bytes, entry.num_samples, entry.num_tokens,
        file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).digest()
