"""The mixed shards: the documents of an order, copied from their shards.

A mixed shard holds the very bytes of its samples' first shards: members are copied through the index, not parsed.
Only a sample that needs another key gets new headers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.mixing.order import Order
from cdgen.processes import Processes
from cdgen.shards import npy
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.reader import MappedShard
from cdgen.shards.receipts import receipt_of
from cdgen.shards.sample import mixed_key
from cdgen.shards.writer import ShardInfo, ShardWriter
from cdgen.storage import Receipt, find_receipt, matches, write_receipt

MIN_MIXED_SHARDS = 8
"""Loaders share work between readers by shards."""


@dataclass(frozen=True, slots=True)
class Body:
    """The shards of a source of the mix; `decode` is the decode digest of another corpus, "" for this one's own."""

    shards: Sequence[MappedShard]
    decode: str = ""


def num_mixed_shards(num_documents: int, documents: int) -> int:
    """At least 8; never more than there are documents."""
    return min(max(MIN_MIXED_SHARDS, -(-num_documents // documents)), max(num_documents, 1))


def write_mixed(
    order: Order,
    bodies: Sequence[Body],
    out: Path,
    *,
    digest: str,
    documents: int,
    processes: Processes,
    on_shard: Callable[[Receipt], None],
) -> list[Receipt]:
    """Write the mixed shards; shards that are already there are kept. Returns their receipts, in order.

    Args:
        order: what `mix_order` returned.
        bodies: the sources it numbers.
        out: the corpus folder.
        digest: the mix digest.
        documents: samples per shard, at most, where there are more than 8 shards.
        processes: that write them.
        on_shard: told of every finished shard, in order.
    """
    receipts = out / "work/receipts"
    cuts = {
        shard_name("mixed", "train", digest, number): order[first:last]
        for number, (first, last) in enumerate(
            _cuts(len(order), num_mixed_shards(len(order), documents))
        )
    }
    there = {name: _kept(receipts, name, out, digest) for name in cuts}
    todo = (
        (shard_path(out, name), index_path(out, name), _copies(cut, bodies))
        for name, cut in cuts.items()
        if there[name] is None
    )
    written = processes.map(_write, todo)
    made = []
    for kept in there.values():
        receipt = kept
        if receipt is None:
            receipt = receipt_of(next(written), digest)
            write_receipt(receipts, receipt)
        made.append(receipt)
        on_shard(receipt)
    return made


def _kept(receipts: Path, name: str, out: Path, digest: str) -> Receipt | None:
    receipt = find_receipt(receipts, name)
    if receipt is None or receipt.digest != digest or not matches(receipt, shard_path(out, name)):
        return None
    return receipt


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard to copy from; another process opens it once, whatever the number of mixed shards that it writes."""

    mapped: MappedShard
    decode: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.mapped.path, self.mapped.index_path, self.decode)


@cache
def _opened(path: Path, index: Path, decode: str) -> _Shard:
    return _Shard(MappedShard(path, index), decode)


@dataclass(frozen=True, slots=True)
class _Copies:
    """The samples of a mixed shard, in order: all that another process needs to write it.

    Attributes:
        dtype: of the ids.
        shards: those that a sample is in.
        shard, row, use: of each sample, int64 `[samples]`; `shard` counts in `shards`.
    """

    dtype: npy.IdDtype
    shards: tuple[_Shard, ...]
    shard: np.ndarray
    row: np.ndarray
    use: np.ndarray


def _copies(order: Order, bodies: Sequence[Body]) -> _Copies:
    pairs = np.column_stack([order.source, order.shard])
    found, shard = np.unique(pairs, axis=0, return_inverse=True)
    shards = tuple(
        _Shard(bodies[source].shards[number], bodies[source].decode)
        for source, number in found.tolist()
    )
    return _Copies(bodies[0].shards[0].dtype, shards, shard.reshape(-1), order.row, order.use)


def _write(path: Path, index: Path, copies: _Copies) -> ShardInfo:
    columns = (column.tolist() for column in (copies.shard, copies.row, copies.use))
    with ShardWriter(path, index, copies.dtype) as writer:
        for number, row, use in zip(*columns, strict=True):
            shard = copies.shards[number]
            values = shard.mapped.row(row)
            key = mixed_key(values["key"], shard.decode, use)
            writer.copy(shard.mapped.raw(row), values, key=None if key == values["key"] else key)
    return writer.info


def _cuts(total: int, count: int) -> Iterator[tuple[int, int]]:
    """`count` runs of almost equal length that cover `range(total)`."""
    for number in range(count):
        yield number * total // count, (number + 1) * total // count
