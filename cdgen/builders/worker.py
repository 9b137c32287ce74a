"""One job, one finished shard: decode its batches, cut the rows into samples, write shard and index, deliver them.

Decoding and writing are two functions, so that a runner can write one job while it decodes the next.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cdgen.builders.jobs import Job, batches
from cdgen.builders.prefixes import Prefix
from cdgen.builders.rows import Drawn, Origin, row_samples
from cdgen.recipes.digests import Digests
from cdgen.recipes.schema import Generate
from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.receipts import receipt_of
from cdgen.shards.sample import Sample, id_dtype
from cdgen.shards.writer import ShardWriter
from cdgen.storage import Receipt
from cdgen.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cdgen.decode.engine import Engine, Rows

SHORT_DIGEST = 16
"""Hex digits of a digest that every sample carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every job of a build shares."""

    out: Path
    generate: Generate
    digests: Digests
    tokenizer: Tokenizer
    prefixes: Sequence[Prefix]
    numeric_class: dict[str, str]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded batch: its prefixes (the padding left out) and the rows that belong to them."""

    prefixes: Sequence[Prefix]
    rows: "Rows"


def decode_job(
    job: Job, context: Context, engine: "Engine", on_tokens: Callable[[int], None]
) -> list[Decoded]:
    """Decode all batches of a job, in order."""
    return list(_decode(job, context, engine, on_tokens))


def _decode(
    job: Job, context: Context, engine: "Engine", on_tokens: Callable[[int], None]
) -> Iterator[Decoded]:
    generate = context.generate
    for numbers, count in batches(job, generate):
        prefixes = [context.prefixes[number] for number in numbers]
        prefix_PT = np.stack([prefix.ids for prefix in prefixes])
        uniforms_BT = np.stack(
            [
                _uniforms(generate, prefix, row)
                for prefix in prefixes
                for row in range(generate.completions)
            ]
        )
        counted = count * generate.completions / len(uniforms_BT)
        yield Decoded(
            prefixes[:count],
            engine.decode(prefix_PT, uniforms_BT, on_step=_Counter(on_tokens, counted)),
        )


class _Counter:
    """Turns the engine's running total of a batch into what was new, the padding left out."""

    def __init__(self, on_tokens: Callable[[int], None], counted_share: float) -> None:
        self._on_tokens, self._share, self._told = on_tokens, counted_share, 0

    def __call__(self, tokens_so_far: int) -> None:
        total = round(tokens_so_far * self._share)
        self._on_tokens(total - self._told)
        self._told = total


def _uniforms(generate: Generate, prefix: Prefix, completion: int) -> np.ndarray:
    from cdgen.decode.keys import rng_key, uniforms

    return uniforms(rng_key(generate.seed, prefix.id, completion), generate.new_tokens)


def write_job(job: Job, context: Context, decoded: Sequence[Decoded], root: Path) -> Receipt:
    """Write a decoded job under `root`: shard and index complete. The receipt is written where they are delivered."""
    counts: Counter[str] = Counter(rows=0, empty_parts=0)
    paths = shard_path(root, job.shard), index_path(root, job.shard)
    with ShardWriter(*paths, id_dtype(context.tokenizer.vocab_size)) as writer:
        for batch in decoded:
            for samples, num_empty in _batch_samples(batch, context):
                counts.update(rows=1, empty_parts=num_empty)
                for sample in samples:
                    writer.add(sample)
    return receipt_of(
        writer.info, context.digests.decode, numeric_class=context.numeric_class, counts=counts
    )


def _batch_samples(batch: Decoded, context: Context) -> Iterator[tuple[list[Sample], int]]:
    from cdgen.decode.keys import key_hex, rng_key

    generate, digests, rows = context.generate, context.digests, batch.rows
    for number, prefix in enumerate(batch.prefixes):
        for completion in range(generate.completions):
            row = number * generate.completions + completion
            tokens = slice(0, int(rows.length_B[row]))
            drawn = Drawn(
                ids=rows.ids_BT[row, tokens].astype(np.int64),
                logp_expert=rows.logp_expert_BT[row, tokens],
                logp_amateur=rows.logp_amateur_BT[row, tokens],
                head_size=rows.head_size_BT[row, tokens],
            )
            origin = Origin(
                prefix=prefix,
                completion=completion,
                rng_key=key_hex(rng_key(generate.seed, prefix.id, completion)),
                expert=digests.expert[:SHORT_DIGEST],
                amateur=digests.amateur[:SHORT_DIGEST],
                decode=digests.decode[:SHORT_DIGEST],
            )
            yield row_samples(drawn, origin, context.tokenizer, keep_prefix=generate.keep_prefix)
