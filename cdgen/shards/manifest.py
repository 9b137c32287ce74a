"""The manifest: what a finished corpus holds, as one JSON file that is written last."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from json.encoder import encode_basestring
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

from cdgen.errors import BuildError
from cdgen.shards.layout import MANIFEST, index_name, parse_name, series
from cdgen.shards.writer import ShardInfo
from cdgen.storage import (
    FileStamp,
    atomic_file,
    canonical_json,
    check_format,
    parse_long_json,
    reading,
    records_as_json,
    typed,
)

MANIFEST_FORMAT = 1
COUNTS = ("num_bytes", "num_samples", "num_tokens", "num_text_bytes", "num_synthetic_tokens")
_ROW = '["%s",%s,{' + ",".join(f'"{name}":%d' for name in sorted(COUNTS)) + "}]"
"""A shard's part of the digest, as canonical JSON: the `%` of its name, its hash as a JSON string, and its counts."""
_COUNTS_OF = attrgetter(*sorted(COUNTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestShard:
    """A shard in the manifest. Raises ValueError if its parts do not fit its name."""

    name: str
    kind: str
    """real, synthetic or mixed."""
    split: str
    """train or eval."""
    sha256: str
    num_bytes: int
    num_samples: int
    num_tokens: int
    num_text_bytes: int
    num_synthetic_tokens: int
    index: FileStamp

    def __post_init__(self) -> None:
        if (self.kind, self.split) != parse_name(self.name)[:2]:
            raise ValueError(f"{self.name} is not a {self.kind[:20]} {self.split[:20]} shard")
        if self.index.name != index_name(self.name):
            raise ValueError(f"{self.index.name} is not the index of {self.name}")

    @classmethod
    def of(cls, info: ShardInfo) -> "ManifestShard":
        """The entry of a finished shard; its kind and split are in its name."""
        kind, split, _, _ = parse_name(info.name)
        stamped = {name: getattr(info, name) for name in ShardInfo.__slots__}
        return cls(kind=kind, split=split, **stamped)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixPart:
    """One source of the mixed documents: what was asked of it and what it gave."""

    source: str
    """real, synthetic, or also-<first 8 digits of its decode digest>."""
    nominal: float
    """Its share of the whole."""
    realised: float
    num_documents: int
    num_tokens: int
    num_passes: int
    """How often its documents were used at most: 1 = none was repeated."""
    error_low: float
    error_high: float
    """At every document boundary its units differ from its share of all units by no less and no more than these."""

    def num_units(self, unit: str) -> int:
        """Its tokens or its documents."""
        return self.num_tokens if unit == "tokens" else self.num_documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The share of synthetic text in the mixed documents."""

    nominal: float
    """The recipe's, of all synthetic sources together."""
    realised: float
    """Synthetic over all, in `unit`."""
    unit: str
    """tokens or documents."""
    num_real_tokens: int
    num_synthetic_tokens: int
    parts: tuple[MixPart, ...] = ()
    """By source: real, synthetic, then the other corpora."""

    def __post_init__(self) -> None:
        if self.unit not in ("tokens", "documents"):
            raise ValueError(f"the unit of a mix is tokens or documents, found {self.unit[:20]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """A body of real text that the corpus is made of."""

    name: str
    license: str
    num_documents: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlsoInfo:
    """Another corpus whose synthetic shards were mixed in and are held here too."""

    name: str
    corpus: str
    """`manifest_digest` of its synthetic shards alone: mixing it anew does not change what is used of it."""
    digests: dict[str, str]
    """Its own: expert, amateur, decode; and names, if documents were removed from its shards."""
    sources: tuple[SourceInfo, ...] = ()
    """What its prefixes were cut from."""
    license: str = ""
    """As its own manifest says: SPDX, or "" where that did not tell."""
    license_problems: tuple[str, ...] = ()
    """Why it could not be told there."""

    @property
    def label(self) -> str:
        """What its part of the mix is called."""
        return f"also-{self.digests.get('decode', '')[:8]}"

    @property
    def named(self) -> str:
        """The digest that its shards are named by: its decode digest, or another since documents were removed."""
        return self.digests.get("names") or self.digests.get("decode", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationInfo:
    """An evaluation set that the text was searched for, and how many train samples hold an item of it."""

    name: str
    sha256: str
    """Of what it says: its files and which of their fields count."""
    num_items: int
    num_real: int
    num_synthetic: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContaminationInfo:
    """The search for evaluation sets, and the file of what it found."""

    ngram: int
    """Words that had to agree in a row."""
    action: str
    """flag, drop or keep."""
    sets: tuple[EvaluationInfo, ...]
    findings: FileStamp


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterInfo:
    """The filters that decided which synthetic samples are mixed, and the file of their verdicts."""

    exact_dedup: bool
    min_tokens: int
    max_repetition: float
    verdicts: FileStamp
    contamination: ContaminationInfo | None = None
    near_dedup: float | None = None
    """The smallest resemblance of a near-duplicate; None = not looked for."""

    def files(self) -> tuple[FileStamp, ...]:
        """What the filters wrote into index/."""
        found = (self.contamination.findings,) if self.contamination else ()
        return (self.verdicts, *found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """The documents that were taken out of a corpus, with all that continues them."""

    documents: tuple[str, ...]
    """Every one that ever was, in order."""
    source: str
    """The manifest digest of the corpus that the last ones were taken from."""
    names: dict[str, str] = field(default_factory=dict)
    """By stage (text, decode): the digest that its shards are named by, since they are not what the stage made."""
    mix: str = ""
    """What a mix of these shards by the recipe would be named by; "" if they were mixed after the removal, by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A finished corpus. Shards are kept in the order of their names; ValueError if two have one name."""

    name: str
    digests: dict[str, str]
    """By stage: text, expert, amateur, decode, mix."""
    engine: str
    """The version of the decoding engine."""
    shards: tuple[ManifestShard, ...]
    mix: Mix | None = None
    also: tuple[AlsoInfo, ...] = ()
    filters: FilterInfo | None = None
    sources: tuple[SourceInfo, ...] = ()
    license: str = ""
    """What the corpus is under: an SPDX expression, or "" where that cannot be told."""
    license_override: bool = False
    """The recipe says the licence; it is not what follows from texts and models."""
    license_problems: tuple[str, ...] = ()
    """Why nothing follows from the licences of texts and models."""
    dropped: dict[str, int] = field(default_factory=dict)
    """By reason: what was made or read and is not in a shard."""
    removed: Removed | None = None
    """Set if documents were removed after the build."""
    numeric_classes: tuple[dict[str, str], ...] = ()
    totals: dict[str, dict[str, int]] = field(default_factory=dict)
    """By "kind-split". Left out, it is counted from the shards."""
    digest: str = ""
    """`manifest_digest` of the shards. Left out, it is computed."""

    def __post_init__(self) -> None:
        shards = tuple(sorted(self.shards, key=lambda shard: shard.name))
        if len({shard.name for shard in shards}) != len(shards):
            raise ValueError("two shards have one name")
        object.__setattr__(self, "shards", shards)
        if not self.totals:
            object.__setattr__(self, "totals", totals(shards))
        if not self.digest:
            object.__setattr__(self, "digest", manifest_digest(shards))

    def named(self, stage: str) -> str:
        """The digest that the shards of a stage (text, decode, mix) are named by."""
        names = self.removed.names if self.removed else {}
        return names.get(stage) or self.digests.get(stage, "")


def totals(shards: Iterable[ManifestShard]) -> dict[str, dict[str, int]]:
    """Sums of the shards' counts by "kind-split", with the number of shards."""
    sums: dict[str, dict[str, int]] = {}
    for shard in shards:
        group = sums.setdefault(
            f"{shard.kind}-{shard.split}", dict.fromkeys(("num_shards", *COUNTS), 0)
        )
        group["num_shards"] += 1
        for name in COUNTS:
            group[name] += getattr(shard, name)
    return sums


class _Hashed:
    """SHA-256 of a JSON list, item by item."""

    def __init__(self) -> None:
        self._hash, self._before = hashlib.sha256(), b"["

    def add(self, item: bytes) -> None:
        self._hash.update(self._before + item)
        self._before = b","

    def hexdigest(self) -> str:
        end = b"]" if self._before == b"," else b"[]"
        self._hash.update(end)
        return self._hash.hexdigest()


def manifest_digest(shards: Iterable[ManifestShard]) -> str:
    """SHA-256 of the canonical JSON of [name, sha256, {counts}] of each shard, in the order of their names."""
    return manifest_digests(shards)[0]


def manifest_digests(shards: Iterable[ManifestShard]) -> tuple[str, dict[str, str]]:
    """`manifest_digest` of the shards; and of each `series` of them, by its name. One pass."""
    whole, parts = _Hashed(), defaultdict[str, _Hashed](_Hashed)
    for shard in sorted(shards, key=attrgetter("name")):
        # By hand: a corpus can have a million shards, and names and numbers need no escapes.
        row = _ROW % (shard.name, encode_basestring(shard.sha256), *_COUNTS_OF(shard))
        item = row.encode()
        whole.add(item)
        parts[series(shard.name)].add(item)
    return whole.hexdigest(), {name: part.hexdigest() for name, part in parts.items()}


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write manifest.json into `folder`, complete or not at all; returns its path."""
    path = folder / MANIFEST
    with atomic_file(path) as file:
        file.writelines(_manifest_bytes(manifest))
    return path


def _manifest_bytes(manifest: Manifest) -> Iterator[bytes]:
    """The file in pieces, a shard a piece: indented JSON with sorted keys, as if it were written in one go."""
    body = asdict(replace(manifest, shards=()))
    body |= {"format": MANIFEST_FORMAT, "digest": manifest.digest, "totals": manifest.totals}
    opening = "{"
    for name in sorted(body):
        yield f'{opening}\n "{name}": '.encode()
        opening = ","
        if name == "shards":
            yield from records_as_json(manifest.shards, ManifestShard)
        else:
            yield _indented(body[name])
    yield b"\n}\n"


def _indented(value: object) -> bytes:
    """Indented JSON, as it stands one level deep. No string holds a line's end: JSON escapes it."""
    plain = json.loads(canonical_json(value))
    text = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)
    return text.replace("\n", "\n ").encode()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the corpus in `folder`.

    Raises:
        BuildError: there is none, it is of a newer format, or a field is missing, unknown or of another type.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BuildError(f"{folder} is not a finished corpus: it has no {MANIFEST}")
    with reading(path), path.open("rb") as file:
        return parse_manifest(file, str(path))


def parse_manifest(file: BinaryIO, where: str) -> Manifest:
    """The manifest in a manifest.json that `where` names. Raises: as `read_manifest`."""
    found = parse_long_json(file, where, name="shards", kind=ManifestShard)
    value = check_format(found, MANIFEST_FORMAT, where)
    manifest: Manifest = typed(Manifest, value, where)
    return manifest
