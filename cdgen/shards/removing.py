"""Taking documents out of shards: which rows go, what the rest is called, and the rest itself."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdgen.shards.index import read_index
from cdgen.shards.reader import MappedShard
from cdgen.shards.writer import ShardInfo, ShardWriter
from cdgen.storage import canonical_json


@dataclass(frozen=True, slots=True)
class Hits:
    """What a shard has of some documents.

    Attributes:
        goes: which of its samples come from them, bool `[samples]`.
        documents: which of them it has.
        copies: other documents with the very same text and source.
    """

    goes: np.ndarray
    documents: frozenset[str]
    copies: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.goes.any())


def hits(index: Path, documents: Iterable[str]) -> Hits:
    """Look for documents in a shard, by its index; BuildError if that is damaged."""
    wanted = sorted(documents)
    column = read_index(index, ["document"])["document"].combine_chunks()
    goes = pc.is_in(column, value_set=pa.array(wanted, pa.string()))
    texts = {document.partition("-")[0] for document in wanted}
    every = column.unique().to_pylist()
    return Hits(
        goes=goes.to_numpy(zero_copy_only=False),
        documents=frozenset(wanted) & frozenset(every),
        copies=frozenset(d for d in every if d.partition("-")[0] in texts) - frozenset(wanted),
    )


def digest_without(digest: str, documents: Iterable[str]) -> str:
    """What names the shards that are named by `digest` once these documents are not in them any more."""
    return hashlib.sha256(canonical_json(["removed", digest, sorted(documents)])).hexdigest()


def write_rest(shard: MappedShard, goes: np.ndarray, path: Path, index: Path) -> ShardInfo:
    """Write the samples of a shard that stay, byte for byte and in their order.

    Args:
        shard: the whole one.
        goes: which samples are left out, bool `[samples]`.
        path, index: of the new shard.
    """
    with ShardWriter(path, index, shard.dtype) as writer:
        for row in np.flatnonzero(~goes).tolist():
            writer.copy(shard.raw(row), shard.row(row))
    return writer.info
