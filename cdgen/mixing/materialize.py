"""The mixed corpus: which documents in which order, and the mixed shards.

A mixed shard holds the very bytes of its samples' first shards: members are copied through the index, not parsed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdgen.errors import BuildError
from cdgen.recipes.schema import Mix
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.reader import MappedShard
from cdgen.shards.receipts import receipt_of
from cdgen.shards.writer import ShardWriter
from cdgen.storage import Receipt, matches, read_receipts, write_receipt
from cdgen.streaming.mixture import bounds, merge, share_weights
from cdgen.streaming.order import document_order

MIN_MIXED_SHARDS = 8
"""Loaders share work between readers by shards."""


@dataclass(frozen=True, slots=True)
class Order:
    """The mixed corpus in order: each document's kind (0 real, 1 synthetic), shard and row, int64 `[documents]`."""

    kind: np.ndarray
    shard: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixResult:
    """What was mixed, in tokens and documents."""

    num_real_tokens: int
    num_synthetic_tokens: int
    num_documents: int
    num_unused_synthetic_tokens: int
    bound_low_tokens: float
    """Smallest possible synthetic tokens minus share * all tokens, at any document boundary."""
    bound_high_tokens: float
    """Largest possible."""

    @property
    def realised(self) -> float:
        """The share of synthetic tokens."""
        return self.num_synthetic_tokens / (self.num_real_tokens + self.num_synthetic_tokens)


def mix_order(
    real: Sequence[np.ndarray], synthetic: Sequence[np.ndarray], mix: Mix, *, tokens_per_prefix: int
) -> tuple[Order, MixResult]:
    """The order of epoch 0 at `mix.seed`: the real text once, and synthetic text at the share, exact in tokens.

    Args:
        real, synthetic: per shard the tokens of its documents, int64 `[documents]`.
        mix: the recipe's mix section.
        tokens_per_prefix: what one prefix yields, for the message when there are too few.

    Raises:
        BuildError: the synthetic text is too short; says how many prefixes are missing.
    """
    sources = [_ordered(real, "real", mix.seed)]
    if mix.synthetic > 0:
        sources.append(_ordered(synthetic, "synthetic", mix.seed))
    tokens = [source[2] for source in sources]
    weights = share_weights(mix.synthetic)[: len(sources)]
    kind, position = merge(tokens, weights)
    kept = _until_real_ends(kind, position, tokens, weights)
    kind, position = kind[kept], position[kept]
    shard, row = (
        np.choose(kind, [source[i][np.minimum(position, len(source[i]) - 1)] for source in sources])
        for i in (0, 1)
    )
    result = _result(tokens, kind, position, mix.synthetic)
    _check_long_enough(tokens, result, mix, tokens_per_prefix)
    return Order(kind, shard, row), result


def _ordered(
    shards: Sequence[np.ndarray], source: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(shard, row, tokens) of a source's documents in its own order."""
    pairs = document_order([len(tokens) for tokens in shards], source=source, seed=seed, epoch=0)
    firsts = np.cumsum([0, *(len(tokens) for tokens in shards)])
    flat = np.concatenate([*shards, np.empty(0, np.int64)]).astype(np.int64)
    return pairs[:, 0], pairs[:, 1], flat[firsts[pairs[:, 0]] + pairs[:, 1]]


def _until_real_ends(
    kind: np.ndarray, position: np.ndarray, tokens: Sequence[np.ndarray], weights: Sequence[int]
) -> np.ndarray:
    """True for every real document, and for the synthetic ones whose tag lies before the end of the real text."""
    if len(tokens) == 1:
        return np.ones(len(kind), bool)
    real_end = int(tokens[0].sum())
    starts = np.cumsum(tokens[1]) - tokens[1]
    inside = starts * weights[0] < real_end * weights[1]
    return np.where(
        kind == 0, True, inside[np.minimum(position, len(inside) - 1)] if len(inside) else False
    )


def _result(
    tokens: Sequence[np.ndarray], kind: np.ndarray, position: np.ndarray, share: float
) -> MixResult:
    num_real = int(tokens[0].sum())
    used = int(tokens[1][position[kind == 1]].sum()) if len(tokens) > 1 else 0
    longest = [int(t.max(initial=0)) for t in tokens] + [0]
    low, high = bounds(share, own_longest=longest[1], others_longest=longest[0])
    return MixResult(
        num_real_tokens=num_real,
        num_synthetic_tokens=used,
        num_documents=len(kind),
        num_unused_synthetic_tokens=(int(tokens[1].sum()) if len(tokens) > 1 else 0) - used,
        bound_low_tokens=low,
        bound_high_tokens=high,
    )


def missing_prefixes(
    num_real: int, num_synthetic: int, share: float, tokens_per_prefix: int
) -> int:
    """How many more prefixes a share needs; 0 when the synthetic tokens suffice."""
    real, synthetic = share_weights(share)
    short = num_real * synthetic - num_synthetic * real  # in 1/real tokens, exact
    return -(-short // (real * tokens_per_prefix)) if short > 0 else 0


def too_short(num_real: int, num_synthetic: int, share: float, tokens_per_prefix: int) -> str:
    """The one line for synthetic text that is too short."""
    real, synthetic = share_weights(share)
    needed = num_real * synthetic // real
    missing = missing_prefixes(num_real, num_synthetic, share, tokens_per_prefix)
    return (
        f"mix.synthetic {share:g} of {num_real:,} real tokens needs {needed:,} synthetic tokens, there are "
        f"{num_synthetic:,}: about {missing:,} more prefixes are missing; raise text.splits.prefix, "
        "generate.completions or generate.new_tokens, or lower mix.synthetic"
    )


def _check_long_enough(
    tokens: Sequence[np.ndarray], result: MixResult, mix: Mix, tokens_per_prefix: int
) -> None:
    """The synthetic text must reach at least as far as the bound at the end of the real text asks for."""
    if mix.synthetic == 0 or result.num_unused_synthetic_tokens > 0:
        return
    num_synthetic = int(tokens[1].sum())
    if missing_prefixes(result.num_real_tokens, num_synthetic, mix.synthetic, tokens_per_prefix):
        raise BuildError(
            too_short(result.num_real_tokens, num_synthetic, mix.synthetic, tokens_per_prefix)
        )


def num_mixed_shards(num_documents: int, documents: int) -> int:
    """At least 8; never more than there are documents."""
    return min(max(MIN_MIXED_SHARDS, -(-num_documents // documents)), max(num_documents, 1))


def write_mixed(
    order: Order,
    sources: Sequence[Sequence[MappedShard]],
    out: Path,
    *,
    digest: str,
    documents: int,
    on_shard: Callable[[Receipt], None],
) -> list[Receipt]:
    """Write the mixed shards, in order; shards that are already there are kept.

    Args:
        order: what `mix_order` returned.
        sources: the mapped shards of each kind.
        out: the corpus folder.
        digest: the mix digest.
        documents: samples per shard, at most, where there are more than 8 shards.
        on_shard: told of every finished shard.
    """
    receipts = read_receipts(out / "work/receipts")
    count = num_mixed_shards(len(order), documents)
    made = []
    for number, (first, last) in enumerate(_cuts(len(order), count)):
        name = shard_name("mixed", "train", digest, number)
        receipt = receipts.get(name)
        if (
            receipt is None
            or receipt.digest != digest
            or not matches(receipt, shard_path(out, name))
        ):
            with ShardWriter(
                shard_path(out, name), index_path(out, name), sources[0][0].dtype
            ) as writer:
                for kind, shard, row in zip(
                    *(column[first:last] for column in (order.kind, order.shard, order.row)),
                    strict=True,
                ):
                    source = sources[kind][shard]
                    writer.copy(source.raw(row), source.row(row))
            receipt = receipt_of(writer.info, digest)
            write_receipt(out / "work/receipts", receipt)
        made.append(receipt)
        on_shard(receipt)
    return made


def _cuts(total: int, count: int) -> Iterator[tuple[int, int]]:
    """`count` runs of almost equal length that cover `range(total)`."""
    for number in range(count):
        yield number * total // count, (number + 1) * total // count
