"""Verdicts: what the filters of a mix decided about each synthetic sample, as one parquet file in index/.

One row per synthetic sample, in the order of the synthetic shards' names and of the samples in them.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.errors import BuildError
from cdgen.shards.manifest import FilterInfo, Manifest
from cdgen.shards.provenance import also_decode
from cdgen.shards.repetition import repetition
from cdgen.shards.sample import Sample, mixed_key
from cdgen.shards.similarity import Shingles, resemblance, shingles
from cdgen.storage import FileStamp, atomic_write, reading

VERDICTS_FORMAT = 1
REASONS = ("min_tokens", "max_repetition", "contamination", "exact_dedup", "near_dedup")
"""In the order in which the filters act: a sample is dropped by the first that objects."""

_FORMAT_KEY, _DIGEST_KEY = b"cdgen_verdicts_format", b"cdgen_mix_digest"

VERDICT_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("key", pa.string()),
            ("shard", pa.string()),
            ("kept", pa.bool_()),
            ("reason", pa.string()),
            ("num_tokens", pa.int64()),
            ("repetition", pa.float64()),
            ("duplicate_of", pa.string()),
        )
    ]
)
"""key: as in the mixed shards; reason: "" where kept; duplicate_of: the key that stays, "" for no duplicate."""


def verdicts_name(digest: str) -> str:
    """The name of the file in index/, by the mix digest."""
    return f"verdicts-{digest[:8]}.parquet"


def write_verdicts(folder: Path, table: pa.Table, digest: str) -> FileStamp:
    """Write the verdicts of the mix `digest` into index/ of `folder`, complete or not at all."""
    metadata = {_FORMAT_KEY: str(VERDICTS_FORMAT), _DIGEST_KEY: digest}
    file = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata), file, compression="zstd", write_page_checksum=True
    )
    path = folder / "index" / verdicts_name(digest)
    atomic_write(path, file.getvalue())
    return stamp(path)


def stamp(path: Path) -> FileStamp:
    """Name, hash and size of a small file."""
    with reading(path):
        data = path.read_bytes()
    return FileStamp(name=path.name, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))


def read_verdicts(path: Path, digest: str) -> pa.Table:
    """The verdicts of the mix `digest`; BuildError if there are none, or damaged, newer or of another mix."""
    try:
        with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            _check_schema(schema, path, digest)
            return file.read().replace_schema_metadata()
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise BuildError(f"cannot read {path}: {str(error).splitlines()[0][:200]}") from None


def _check_schema(schema: pa.Schema, path: Path, digest: str) -> None:
    metadata = schema.metadata or {}
    found = metadata.get(_FORMAT_KEY, b"")
    if found.isdigit() and int(found) > VERDICTS_FORMAT:
        raise BuildError(
            f"{path}: verdicts format {int(found)}; this cdgen reads up to {VERDICTS_FORMAT}: upgrade cdgen"
        )
    if not schema.equals(VERDICT_SCHEMA):
        raise BuildError(f"{path}: not a file of verdicts: its columns differ")
    if metadata.get(_DIGEST_KEY, b"") != digest.encode():
        raise BuildError(f"{path}: verdicts of another mix; remove the file and mix again")


def near_pairs(table: pa.Table) -> dict[str, str]:
    """Of verdicts: by key of a near-duplicate the key that stays."""
    rows = zip(
        *(table[name].to_pylist() for name in ("key", "duplicate_of", "reason")), strict=True
    )
    return {key: twin for key, twin, reason in rows if reason == "near_dedup"}


def reason_of(filters: FilterInfo, num_tokens: int, repeated: float) -> str:
    """Why a sample with these measures is dropped, whatever the others are; "" if it is not."""
    if num_tokens < filters.min_tokens:
        return "min_tokens"
    return "max_repetition" if repeated > filters.max_repetition else ""


@dataclass(slots=True)
class Judged:
    """The verdicts made again from the samples themselves, by `verify`, one sample at a time.

    Real train samples come first, then the synthetic ones in the order of the file; shards can be judged apart, and
    joined in their order. Memory: about 300 bytes for each.
    """

    manifest: Manifest
    contaminated: frozenset[tuple[str, str]] = frozenset()
    """(shard, key) of the synthetic samples that the findings drop: they are not looked for again."""
    near: dict[str, str] = field(default_factory=dict)
    """By key of a near-duplicate that the file drops: the key that stays. That they are alike is checked, not that no
    others are."""
    alike: dict[str, Shingles] = field(default_factory=dict)
    """Of the samples that `near` names."""
    first: dict[bytes, str] = field(default_factory=dict)
    """By hash of the text: the lowest key among real train samples and those that pass the other filters."""
    rows: list[tuple[str, str, int, float, str, bytes]] = field(default_factory=list)
    _named: set[str] = field(default_factory=set)

    def of_a_shard(self) -> "Judged":
        """The same rules, and no sample yet."""
        if not self._named:
            self._named.update(self.near, self.near.values())
        return replace(self, alike={}, first={}, rows=[])

    def without_rules(self) -> "Judged":
        """The same samples, to be joined."""
        return replace(self, contaminated=frozenset(), near={}, _named=set())

    def join(self, later: "Judged") -> None:
        """Take in the samples of a shard that comes after these."""
        self.rows += later.rows
        self.alike |= later.alike
        for text, key in later.first.items():
            self._offer(text, key)

    def add(self, sample: Sample, shard: str) -> None:
        """Take in a real train or a synthetic sample."""
        filters = self.manifest.filters
        assert filters is not None
        text = hashlib.sha256(sample.text.encode()).digest()
        if sample.meta.source == "real":
            self._offer(text, sample.key)
            self._remember(sample.key, sample.text)
            return
        key = mixed_key(sample.key, also_decode(sample.meta, self.manifest))
        repeated = float(repetition(sample.ids, np.array([len(sample.ids)]))[0])
        reason = reason_of(filters, len(sample.ids), repeated)
        if not reason and (shard, sample.key) in self.contaminated:
            reason = "contamination"
        self.rows.append((key, shard, len(sample.ids), repeated, reason, text))
        if not reason:
            self._offer(text, key)
        self._remember(key, sample.text)

    def _remember(self, key: str, text: str) -> None:
        if key in self._named:
            self.alike[key] = shingles(text)

    def _offer(self, text: bytes, key: str) -> None:
        kept = self.first.get(text)
        # Real keys begin with r, synthetic ones with s: a real text always stays.
        self.first[text] = key if kept is None else min(kept, key)

    def verdicts(self) -> Iterator[dict[str, object]]:
        """The rows that the file must have."""
        filters = self.manifest.filters
        assert filters is not None
        for key, shard, num_tokens, repeated, objection, text in self.rows:
            reason, duplicate_of = objection, ""
            if filters.exact_dedup and not reason and self.first[text] != key:
                reason, duplicate_of = "exact_dedup", self.first[text]
            elif not reason and self._is_near(key, filters.near_dedup):
                reason, duplicate_of = "near_dedup", self.near[key]
            yield {
                "key": key, "shard": shard, "kept": reason == "", "reason": reason,
                "num_tokens": num_tokens, "repetition": repeated, "duplicate_of": duplicate_of,
            }  # fmt: skip

    def _is_near(self, key: str, threshold: float | None) -> bool:
        """Whether the sample resembles the one that the file names, and the file keeps that one."""
        twin = self.near.get(key, "")
        if threshold is None or twin in self.near or not {key, twin} <= self.alike.keys():
            return False
        return resemblance(self.alike[key], self.alike[twin]) >= threshold


def verdict_faults(
    folder: Path, judged: Judged, mixed: Callable[[Iterable[str]], set[str]]
) -> Iterator[tuple[str, str]]:
    """(key, what) for everything that is wrong with a corpus's verdicts.

    Args:
        folder: the corpus.
        judged: every real train and synthetic sample.
        mixed: which of these keys are in the mixed shards.
    """
    manifest = judged.manifest
    assert manifest.filters is not None
    path = folder / "index" / manifest.filters.verdicts.name
    try:
        table = read_verdicts(path, manifest.digests.get("mix", ""))
        if stamp(path) != manifest.filters.verdicts:
            yield "", "its size or SHA-256 is not the manifest's"
    except BuildError as error:
        yield "", str(error)
        return
    if table.num_rows != len(judged.rows):
        yield "", f"has {table.num_rows} rows for {len(judged.rows)} synthetic samples"
    mixed_all_the_same = mixed(str(want["key"]) for want in judged.verdicts() if not want["kept"])
    # A dictionary a row takes a kilobyte: only a few of them at a time.
    found = (row for batch in table.to_batches(4096) for row in batch.to_pylist())
    reasons: Counter[str] = Counter()
    for row, want in zip_longest(found, judged.verdicts()):
        if want is None:
            break
        reasons[str(want["reason"])] += 1
        if row is not None and row != want:
            odd = [name for name in want if row[name] != want[name]]
            yield str(want["key"]), f"the verdict differs from the sample in {', '.join(odd)}"
        if row is not None and not want["kept"] and want["key"] in mixed_all_the_same:
            yield str(want["key"]), f"was dropped ({want['reason']}), but is in the mixed shards"
    yield from _count_faults(manifest, reasons)


def _count_faults(manifest: Manifest, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    for reason in REASONS:
        if manifest.dropped.get(reason, 0) != counts[reason]:
            given = manifest.dropped.get(reason, 0)
            yield "", f"{reason} drops {counts[reason]} samples, {given} in the manifest"
