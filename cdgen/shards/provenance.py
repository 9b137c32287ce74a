"""What a sample's provenance must say, and what must hold between the samples of a corpus.

Every check yields what is wrong as text, or nothing. Memory: about 100 bytes for each sample and check.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import xxhash

from cdgen.shards.index import Row
from cdgen.shards.manifest import AlsoInfo, Manifest
from cdgen.shards.sample import (
    Meta,
    Sample,
    check_document,
    key_fits,
    repeat_key,
    split_mixed,
    split_repeat,
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


@dataclass(slots=True)
class Seen:
    """What earlier samples of the corpus had. Real shards come first, then synthetic, then mixed ones."""

    keys: dict[str, set[bytes]] = field(default_factory=dict)
    documents: dict[str, set[bytes]] = field(default_factory=dict)
    texts: dict[str, set[bytes]] = field(default_factory=dict)
    contents: set[bytes] = field(default_factory=set)
    units: dict[bytes, bytes] = field(default_factory=dict)
    """By hash of (document, start, completion): the hash of its rng_key."""
    rng_keys: dict[bytes, bytes] = field(default_factory=dict)
    """The other way round."""

    def faults(self, sample: Sample, row: Row, group: str) -> Iterator[str]:
        """What is wrong between this sample and the ones before it, and remember this one.

        Args:
            sample: the sample.
            row: its index row.
            group: "<kind>-<split>" of its shard, or "also-<8 digits>" for one that another corpus decoded.
        """
        kind = group.partition("-")[0]
        # Two corpora that continue one text give their synthetic samples the same keys.
        if not _add(self.keys, kind if kind != "also" else group, _hash(sample.key)):
            yield f"a second {kind if kind != 'also' else group} sample has this key"
        if kind == "mixed":
            yield from self._mixed_faults(sample, row)
            return
        self.contents.add(_content(sample.key, row))
        yield from self._split_faults(sample, group)
        if kind != "real":
            yield from self._rng_faults(sample.meta)

    def _mixed_faults(self, sample: Sample, row: Row) -> Iterator[str]:
        if _content(split_mixed(sample.key)[0], row) not in self.contents:
            yield "is not, byte for byte, a sample of the real or synthetic train shards"
        first, n = split_repeat(sample.key)
        if n > 1 and _hash(repeat_key(first, n - 1)) not in self.keys["mixed"]:
            yield f"is a repeat, but use {n - 1} of the sample does not come before it"

    def in_mix(self, key: str) -> bool:
        """Whether a mixed sample had this key."""
        return _hash(key) in self.keys.get("mixed", ())

    def _split_faults(self, sample: Sample, group: str) -> Iterator[str]:
        """No parent document, copies of it included, may feed two of: real train, real eval, prefixes."""
        document = _hash(sample.meta.document.partition("-")[0])
        # Another corpus may have divided the same text otherwise; only what measures perplexity must stay apart.
        also = group.startswith("also")
        for other in ("real-eval",) if also else tuple(self.documents):
            if other != group and document in self.documents.get(other, ()):
                yield f"its parent document {sample.meta.document[:40]} is also in {other}"
        if not also:
            _add(self.documents, group, document)
        if not group.startswith("real"):
            return
        text = _hash(sample.text)
        for other, seen in self.texts.items():
            if other != group and text in seen:
                yield f"its text is also in {other}"
        _add(self.texts, group, text)

    def _rng_faults(self, meta: Meta) -> Iterator[str]:
        # One seed and one prefix give the corpora of two decodings the same random key.
        unit = _hash(f"{meta.decode} {meta.document} {meta.start} {meta.completion}")
        rng_key = _hash(f"{meta.decode} {meta.rng_key}")
        if self.units.setdefault(unit, rng_key) != rng_key:
            yield "another part of this completion has another rng_key"
        if self.rng_keys.setdefault(rng_key, unit) != unit:
            yield "another completion has this rng_key"


def _add(groups: dict[str, set[bytes]], group: str, item: bytes) -> bool:
    """Whether `item` is new in `group`; afterwards it is in it."""
    kept = groups.setdefault(group, set())
    before = len(kept)
    kept.add(item)
    return len(kept) > before


def _hash(text: str) -> bytes:
    return xxhash.xxh3_128_digest(text.encode())


def _content(key: str, row: Row) -> bytes:
    """A hash of a sample's key, text, ids and provenance."""
    values = [value for name, value in row.items() if name not in _MOVING]
    return _hash(repr((key, values)))


_MOVING = {"key", "offset", "txt_offset", "json_offset", "npy_offset"}
"""Columns that differ between two places of one sample."""
