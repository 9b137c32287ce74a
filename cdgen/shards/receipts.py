"""Receipts of finished shards: made from what was written, and turned into entries of the manifest."""

from collections.abc import Mapping

from cdgen.shards.manifest import ManifestShard
from cdgen.shards.writer import ShardInfo
from cdgen.storage import Receipt

_SYNTHETIC_TOKENS = "synthetic_tokens"


def receipt_of(
    info: ShardInfo,
    digest: str,
    *,
    numeric_class: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Receipt:
    """The receipt of a shard that belongs to the stage `digest`.

    Args:
        info: what was written.
        digest: hex of the stage's whole input.
        numeric_class: where its tokens were drawn; none for text that was only copied.
        counts: what else was counted on the way.
    """
    return Receipt(
        name=info.name,
        digest=digest,
        sha256=info.sha256,
        num_bytes=info.num_bytes,
        num_samples=info.num_samples,
        num_tokens=info.num_tokens,
        num_text_bytes=info.num_text_bytes,
        index=info.index,
        numeric_class=dict(numeric_class or {}),
        counts={**(counts or {}), _SYNTHETIC_TOKENS: info.num_synthetic_tokens},
    )


def shard_of(receipt: Receipt) -> ManifestShard:
    """The manifest's entry of a finished shard."""
    info = ShardInfo(
        name=receipt.name,
        sha256=receipt.sha256,
        num_bytes=receipt.num_bytes,
        num_samples=receipt.num_samples,
        num_tokens=receipt.num_tokens,
        num_text_bytes=receipt.num_text_bytes,
        num_synthetic_tokens=receipt.counts.get(_SYNTHETIC_TOKENS, 0),
        index=receipt.index,
    )
    return ManifestShard.of(info)
