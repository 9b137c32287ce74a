"""Corpora for tests of the stream: documents of chosen lengths whose ids tell where they come from."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cdgen.mixing.materialize import Body, write_mixed
from cdgen.mixing.order import MixResult, Supply, mix_order
from cdgen.processes import Processes
from cdgen.recipes.schema import Mix as MixSection
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.manifest import Manifest, ManifestShard, Mix, write_manifest
from cdgen.shards.reader import MappedShard
from cdgen.shards.receipts import shard_of
from cdgen.shards.sample import (
    Meta,
    Sample,
    document_id,
    id_dtype,
    real_key,
    synthetic_key,
)
from cdgen.shards.writer import ShardWriter
from cdgen.streaming.line import Rows

STAGES = ("text", "expert", "amateur", "decode", "mix")
DIGESTS = {stage: hashlib.sha256(stage.encode()).hexdigest() for stage in STAGES}
KINDS = {"real": "text", "synthetic": "decode"}
Sizes = Sequence[Sequence[int]]
"""By shard the documents' tokens."""


class ListSource:
    """A source whose documents' lengths stand in memory."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        self.name = name
        self.sizes = [np.array(shard, np.int64) for shard in sizes]
        self.released: list[int] = []
        self.read: list[int] = []

    @property
    def num_documents(self) -> np.ndarray:
        return np.array([len(shard) for shard in self.sizes], np.int64)

    @property
    def num_tokens(self) -> np.ndarray:
        return np.array([shard.sum() for shard in self.sizes], np.int64)

    def rows(self, shards: Sequence[int]) -> list[Rows]:
        self.read += shards
        every = (self.sizes[shard] for shard in shards)
        return [Rows(sizes, np.zeros_like(sizes), np.zeros_like(sizes)) for sizes in every]

    def longest(self) -> int:
        return max(int(shard.max(initial=0)) for shard in self.sizes)

    def release(self, shards: Sequence[int]) -> None:
        self.released += shards


def sample_of(kind: str, number: int, num_tokens: int, split: str = "train") -> Sample:
    """Document `number` of a kind: its first ids spell the kind and the number."""
    document = document_id(hashlib.sha256(f"{kind}{number}".encode()).hexdigest(), 0)
    ids = (np.arange(num_tokens) + 7 * number + (30_000 if kind == "synthetic" else 0)) % 60_000
    common = {"origin": "tales", "license": "Apache-2.0", "document": document, "end": 12}
    meta = Meta(source=kind, split=split, num_tokens=num_tokens, **common)  # type: ignore[arg-type]
    key = real_key(document, 0)
    if kind == "synthetic":
        short = {stage: DIGESTS[stage][:16] for stage in ("expert", "amateur", "decode")}
        made = {"completion": 0, "rng_key": f"{number:032x}"}
        meta = Meta(source=kind, split=split, num_tokens=num_tokens, **common, **short, **made)  # type: ignore[arg-type]
        key = synthetic_key(document, 0, 0, 0)
    return Sample(key=key, text=f"{kind} {number}", ids=ids.astype(id_dtype(60_000)), meta=meta)


def write_kind(folder: Path, kind: str, sizes: Sizes, split: str = "train") -> list[ManifestShard]:
    """The shards of a kind."""
    entries, number = [], 0
    for place, shard in enumerate(sizes):
        name = shard_name(kind, split, DIGESTS[KINDS[kind]], place)
        path, index = shard_path(folder, name), index_path(folder, name)
        with ShardWriter(path, index, id_dtype(60_000)) as writer:
            for num_tokens in shard:
                writer.add(sample_of(kind, number, num_tokens, split))
                number += 1
        entries.append(ManifestShard.of(writer.info))
    return entries


def make_corpus(
    folder: Path,
    sizes: Mapping[str, Sizes],
    synthetic: float | None = 0.3,
    *,
    mixed: str = "",
    seed: int = 0,
) -> Path:
    """A corpus of real and synthetic shards.

    Args:
        folder: where.
        sizes: of each kind.
        synthetic: the share in the manifest; None for a corpus that was not mixed.
        mixed: "too" writes mixed shards beside the others, "only" leaves just these.
        seed: of the mix.
    """
    entries = [
        entry for kind, shards in sizes.items() for entry in write_kind(folder, kind, shards)
    ]
    mix = None
    if synthetic is not None:
        section = MixSection(synthetic=synthetic, seed=seed, repeat="allow")
        made, result = _mixed(folder, section, entries)
        mix = Mix(
            nominal=synthetic,
            realised=result.realised,
            unit="tokens",
            num_real_tokens=result.num_real_tokens,
            num_synthetic_tokens=result.num_synthetic_tokens,
            parts=result.parts,
        )
        entries = {"": entries, "too": entries + made, "only": made}[mixed]
    write_manifest(
        folder, Manifest(name="t", digests=DIGESTS, engine="1", shards=tuple(entries), mix=mix)
    )
    return folder


def _mixed(
    folder: Path, section: MixSection, entries: Sequence[ManifestShard]
) -> tuple[list[ManifestShard], MixResult]:
    """The mixed shards, as a build writes them."""
    bodies = [
        Body([
            MappedShard(shard_path(folder, entry.name)) for entry in entries if entry.kind == kind
        ])
        for kind in KINDS
    ]  # fmt: skip
    supplies = [
        Supply(name=kind, num_tokens=[shard.num_tokens for shard in body.shards])
        for kind, body in zip(KINDS, bodies, strict=True)
    ]
    order, result = mix_order(supplies, section)
    receipts = write_mixed(
        order,
        bodies,
        folder,
        digest=DIGESTS["mix"],
        documents=8,
        processes=Processes(0),
        on_shard=lambda _: None,
    )
    return [shard_of(receipt) for receipt in receipts], result
