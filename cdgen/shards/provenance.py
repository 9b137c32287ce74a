"""What a sample's provenance must say. Every check yields what is wrong as text, or nothing."""

import re
from collections.abc import Iterator

from cdgen.shards.manifest import AlsoInfo, Manifest
from cdgen.shards.sample import (
    Meta,
    check_document,
    key_fits,
    split_mixed,
)

SHORTEST_DIGEST = 8
"""Hex digits that a sample's short digest has at least."""

_HEX = re.compile(r"[0-9a-f]+")
_BLANK = Meta()
_SYNTHETIC_ONLY = (
    "prefix_tokens", "completion", "bos_inserted", "expert", "amateur", "decode", "rng_key",
    "mean_logp_expert", "mean_logp_amateur", "mean_head_size", "head_of_one_share",
)  # fmt: skip


def meta_faults(
    key: str, meta: Meta, kind: str, split: str, manifest: Manifest | None
) -> Iterator[str]:
    """What is wrong with the provenance of one sample in a shard of this kind and split."""
    if meta.source not in ("real", "synthetic") or kind not in ("mixed", meta.source):
        yield f"source is {meta.source[:40]!r} in a {kind} shard"
    if meta.split != split:
        yield f"split is {meta.split[:40]!r} in a shard of the {split} split"
    try:
        check_document(meta.document)
    except ValueError as error:
        yield str(error)
    own, also, _ = split_mixed(key) if kind == "mixed" else (key, "", 1)
    if not key_fits(own, meta):
        yield "the key does not fit document, completion and part"
    if not 0 <= meta.start <= meta.end:
        yield f"start {meta.start} and end {meta.end} are not a span"
    if not 0 <= meta.prefix_tokens <= meta.num_tokens:
        yield f"prefix_tokens is {meta.prefix_tokens} of {meta.num_tokens} tokens"
    yield from _real_faults(meta) if meta.source == "real" else _synthetic_faults(meta)
    if manifest is not None:
        yield from _manifest_faults(meta, manifest)
        if kind == "mixed" and also != also_decode(meta, manifest)[:8]:
            yield "the end of the key does not say whose decoding it is"


def _real_faults(meta: Meta) -> Iterator[str]:
    for name in _SYNTHETIC_ONLY:
        if getattr(meta, name) != getattr(_BLANK, name):
            yield f"{name} is {getattr(meta, name)!r} in a real sample"


def _synthetic_faults(meta: Meta) -> Iterator[str]:
    if meta.split != "train":
        yield f"split is {meta.split[:40]!r} in a synthetic sample"
    if not _HEX.fullmatch(meta.rng_key):
        yield f"rng_key is {meta.rng_key[:40]!r}, not hex"
    if meta.completion < 0 or meta.part < 0:
        yield f"completion {meta.completion} or part {meta.part} is negative"
    if meta.part > 0 and meta.prefix_tokens:
        yield f"prefix_tokens is {meta.prefix_tokens} in a later part"
    if not 0 <= meta.head_of_one_share <= 1 or meta.mean_head_size < 0:
        yield "the head's measures are out of range"


def also_decode(meta: Meta, manifest: Manifest) -> str:
    """The short decode digest of a synthetic sample of another corpus, "" for this corpus's own and for real text."""
    own = manifest.digests.get("decode", "").startswith(meta.decode)
    return "" if meta.source != "synthetic" or own else meta.decode


def label_of(meta: Meta, manifest: Manifest) -> str:
    """Which part of the mix a sample belongs to: real, synthetic or also-<8 digits>."""
    decode = also_decode(meta, manifest)
    return f"also-{decode[:8]}" if decode else meta.source


def _maker(meta: Meta, manifest: Manifest) -> Manifest | AlsoInfo:
    """The corpus that made a sample: this one, or one of those mixed in."""
    label = label_of(meta, manifest)
    return next((also for also in manifest.also if also.label == label), manifest)


def _manifest_faults(meta: Meta, manifest: Manifest) -> Iterator[str]:
    maker = _maker(meta, manifest)
    licenses = {source.name: source.license for source in maker.sources}
    if meta.origin not in licenses:
        yield f"origin {meta.origin[:40]!r} is not a source in the manifest"
    elif meta.license != licenses[meta.origin]:
        yield f"license is {meta.license[:40]!r}, {licenses[meta.origin]!r} in the manifest"
    if meta.source != "synthetic":
        return
    for stage in ("expert", "amateur", "decode"):
        short, whole = getattr(meta, stage), maker.digests.get(stage, "")
        if (short or whole) and (len(short) < SHORTEST_DIGEST or not whole.startswith(short)):
            yield f"{stage} is {short[:40]!r}, {whole[:16]!r} in the manifest"
