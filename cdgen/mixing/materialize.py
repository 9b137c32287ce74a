"""The mixed shards: the documents of an order, copied from their shards.

A mixed shard holds the very bytes of its samples' first shards: members are copied through the index, not parsed.
Only a sample that needs another key gets new headers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgen.mixing.order import Order
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
    on_shard: Callable[[Receipt], None],
) -> list[Receipt]:
    """Write the mixed shards, in order; shards that are already there are kept.

    Args:
        order: what `mix_order` returned.
        bodies: the sources it numbers.
        out: the corpus folder.
        digest: the mix digest.
        documents: samples per shard, at most, where there are more than 8 shards.
        on_shard: told of every finished shard.
    """
    count = num_mixed_shards(len(order), documents)
    made = []
    for number, (first, last) in enumerate(_cuts(len(order), count)):
        name = shard_name("mixed", "train", digest, number)
        receipt = find_receipt(out / "work/receipts", name)
        if (
            receipt is None
            or receipt.digest != digest
            or not matches(receipt, shard_path(out, name))
        ):
            info = _write(shard_path(out, name), index_path(out, name), order[first:last], bodies)
            receipt = receipt_of(info, digest)
            write_receipt(out / "work/receipts", receipt)
        made.append(receipt)
        on_shard(receipt)
    return made


def _write(path: Path, index: Path, order: Order, bodies: Sequence[Body]) -> ShardInfo:
    dtype = bodies[0].shards[0].dtype
    columns = (column.tolist() for column in (order.source, order.shard, order.row, order.use))
    with ShardWriter(path, index, dtype) as writer:
        for source, number, row, use in zip(*columns, strict=True):
            body = bodies[source]
            shard = body.shards[number]
            values = shard.row(row)
            key = mixed_key(values["key"], body.decode, use)
            writer.copy(shard.raw(row), values, key=None if key == values["key"] else key)
    return writer.info


def _cuts(total: int, count: int) -> Iterator[tuple[int, int]]:
    """`count` runs of almost equal length that cover `range(total)`."""
    for number in range(count):
        yield number * total // count, (number + 1) * total // count
