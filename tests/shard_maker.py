"""Files that stand for a shard and its index: a place for shards looks at names, sizes and hashes, not inside."""

import hashlib
import json
from pathlib import Path

from cdgen.storage import FileStamp, Receipt, atomic_write


def made(root: Path, name: str, data: bytes, *, index: bytes | None = None) -> Receipt:
    """A "shard" of these bytes and its "index" under `root`, as a worker leaves them, and the receipt."""
    rows = b"index of " + data[:40] if index is None else index
    stamp = FileStamp(
        name=name.replace(".tar", ".parquet"),
        sha256=hashlib.sha256(rows).hexdigest(),
        num_bytes=len(rows),
    )
    receipt = Receipt(
        name=name,
        digest="0123abcd",
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        num_samples=1,
        num_tokens=2,
        num_text_bytes=3,
        index=stamp,
        numeric_class={"device": "cpu"},
        counts={"rows": 1},
    )
    atomic_write(root / receipt.paths[0], data)
    atomic_write(root / receipt.paths[1], rows)
    return receipt


def manifest_naming(receipt: Receipt) -> bytes:
    """A manifest's file, as far as it names this shard."""
    index = {"name": receipt.index.name, "sha256": receipt.index.sha256}
    shard = {"name": receipt.name, "sha256": receipt.sha256, "index": index}
    return json.dumps({"shards": [shard]}, indent=1).encode()
