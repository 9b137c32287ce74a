"""Bring a finished shard of another corpus folder in, without ever changing that folder."""

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from cdgen.errors import BuildError
from cdgen.shards.layout import index_name, index_path, shard_path
from cdgen.shards.manifest import ManifestShard
from cdgen.shards.receipts import receipt_of
from cdgen.shards.writer import ShardInfo
from cdgen.storage import (
    TEMPORARY_PREFIX,
    FileStamp,
    Receipt,
    atomic_file,
    matches,
    read_receipt,
    receipt_path,
    sha256_file,
    write_receipt,
)


def bring(
    folder: Path, entry: ManifestShard, out: Path, *, digest: str, name: str | None = None
) -> Receipt:
    """Put a shard and its index into `out`, then its receipt; one that is there already is kept.

    Args:
        folder: the corpus that has it.
        entry: the shard in that corpus's manifest.
        out: the corpus folder that gets it.
        digest: of the stage that made it.
        name: what it is called there, if not the same.

    Raises:
        BuildError: the shard or its index is not there, or not what the manifest says.
    """
    receipts, name = out / "work/receipts", name or entry.name
    kept = _kept(receipt_path(receipts, name), entry)
    if kept is not None and matches(kept, shard_path(out, name)):
        return kept
    shard = FileStamp(name=name, sha256=entry.sha256, num_bytes=entry.num_bytes)
    place(shard_path(folder, entry.name), shard_path(out, name), shard)
    place(index_path(folder, entry.name), index_path(out, name), entry.index)
    receipt = receipt_of(_info(entry, name), digest)
    write_receipt(receipts, receipt)
    return receipt


def _kept(path: Path, entry: ManifestShard) -> Receipt | None:
    if not path.is_file():
        return None
    try:
        receipt = read_receipt(path)
    except BuildError:
        return None
    return receipt if receipt.sha256 == entry.sha256 else None


def _info(entry: ManifestShard, name: str) -> ShardInfo:
    index = replace(entry.index, name=index_name(name))
    return replace(
        ShardInfo(**{field: getattr(entry, field) for field in ShardInfo.__slots__}),
        name=name,
        index=index,
    )


def place(source: Path, target: Path, stamp: FileStamp) -> None:
    """Make `target` a hard link to `source`, or a copy where there can be none; its hash is checked first.

    Raises:
        BuildError: `source` is not there, or not what the stamp says.
    """
    if not source.is_file():
        raise BuildError(f"{source}: there is no such file; its corpus is incomplete")
    real = source.resolve()  # a downloaded corpus may be links into a cache: the file counts
    if real.stat().st_size != stamp.num_bytes or sha256_file(real) != stamp.sha256:
        raise BuildError(f"{source}: is not the file that its manifest names; run cdgen verify")
    temporary = target.with_name(
        f"{TEMPORARY_PREFIX}{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(real, temporary)
        temporary.replace(target)
        temporary.unlink(missing_ok=True)  # rename keeps both names where they are one file already
    except OSError:  # another file system, or one without links
        with real.open("rb") as data, atomic_file(target) as copy:
            shutil.copyfileobj(data, copy, 1 << 20)
