"""Check a whole corpus: files, hashes, counts, every sample, and what must hold between samples.

Nothing is trusted and nothing stops the check: each fault is noted, and what can still be read is read.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdgen.errors import BuildError, UsageError
from cdgen.shards.files import ShardFiles
from cdgen.shards.findings import contaminated, finding_faults, read_findings
from cdgen.shards.index import INDEX_SCHEMA, index_row, read_index
from cdgen.shards.layout import (
    KINDS,
    MANIFEST,
    index_name,
    index_path,
    parse_name,
    shard_path,
)
from cdgen.shards.manifest import (
    COUNTS,
    Manifest,
    ManifestShard,
    manifest_digest,
    read_manifest,
    totals,
)
from cdgen.shards.mix_check import MixCheck
from cdgen.shards.provenance import Seen, label_of, meta_faults
from cdgen.shards.sample import Meta, Sample
from cdgen.shards.verdicts import Judged, near_pairs, read_verdicts, verdict_faults
from cdgen.shards.walk import Data, opened, read_sample, walk
from cdgen.storage import reading, sha256_file

STAGES = {"real": "text", "synthetic": "decode", "mixed": "mix"}
"""Whose digest is in the names of a kind's shards."""
NOT_FROM_AFAR = "whether there are files besides those of the manifest cannot be told from here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    file: str
    key: str
    """The sample's key, "" where it is not about one sample."""
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.key, self.what) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `verify` found."""

    problems: tuple[Problem, ...]
    counts: dict[str, int]
    """num_shards, num_bytes, num_samples, num_tokens; and <kind>_<split>_samples and _tokens of each group."""
    unchecked: str = ""
    """What cannot be checked where the corpus is."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    folder: Path,
    *,
    files: ShardFiles | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Check the corpus in `folder`.

    Args:
        folder: the corpus.
        files: its shards, if they are somewhere else: one after another is had, checked and let go.
        progress: called after each shard with its size in bytes.

    Raises:
        UsageError: the folder holds no corpus at all.
        BuildError: the folder cannot be read. Everything else is a problem in the report.
    """
    if not (folder / MANIFEST).is_file() and not (folder / "data").is_dir():
        raise UsageError(f"{folder} is not a corpus: it has neither {MANIFEST} nor data/")
    with reading(folder):
        return _verified(_Check(folder, files), progress)


def _verified(check: "_Check", progress: Callable[[int], None] | None) -> Report:
    check.manifest()
    check.files()
    for name in check.shard_names():
        num_bytes = check.counts["num_bytes"]
        check.shard(name)
        if progress is not None:
            progress(check.counts["num_bytes"] - num_bytes)
    check.mix()
    return Report(
        problems=tuple(check.problems),
        counts=dict(check.counts),
        unchecked="" if check.files_of is None else NOT_FROM_AFAR,
    )


class _Check:
    """The state of one verification."""

    def __init__(self, folder: Path, files_of: ShardFiles | None = None) -> None:
        self.folder, self.files_of = folder, files_of
        self._had: dict[str, Path] = {}
        """By name: the shard and index that are here for now, of a corpus that is somewhere else."""
        self.problems: list[Problem] = []
        self.counts: Counter[str] = Counter(num_shards=0, num_bytes=0, num_samples=0, num_tokens=0)
        self._seen = Seen()
        self._manifest: Manifest | None = None
        self._entries: dict[str, ManifestShard] = {}
        self._mix = MixCheck()
        self._judged: Judged | None = None
        self._dtype = ""

    def _problem(self, file: str, what: str, key: str = "") -> None:
        self.problems.append(Problem(file=file, key=key, what=what))

    def _judge(self, manifest: Manifest) -> Judged | None:
        """What makes the verdicts again. What takes a search is taken from the files, where it can be read there."""
        filters = manifest.filters
        if filters is None:
            return None
        judged, index = Judged(manifest), self.folder / "index"
        with suppress(BuildError):  # reported with the files
            if filters.contamination is not None and filters.contamination.action == "drop":
                found = read_findings(index / filters.contamination.findings.name)
                judged.contaminated = contaminated(found)
        with suppress(BuildError):
            if filters.near_dedup is not None:
                digest = manifest.digests.get("mix", "")
                judged.near = near_pairs(read_verdicts(index / filters.verdicts.name, digest))
        return judged

    # ---- the manifest and the list of files ----

    def manifest(self) -> None:
        """Read the manifest, and check what it says about itself."""
        try:
            found = read_manifest(self.folder)
        except BuildError as error:
            self._problem(MANIFEST, str(error))
            return
        self._manifest = self._mix.manifest = found
        self._entries = {entry.name: entry for entry in found.shards}
        self._judged = self._judge(found)
        if found.digest != manifest_digest(found.shards):
            self._problem(
                MANIFEST, "its digest is not the digest of its shards' names, hashes and counts"
            )
        if found.totals != totals(found.shards):
            self._problem(MANIFEST, "its totals are not the sums of its shards")
        numbers: dict[tuple[str, str, str], list[int]] = {}
        also = {info.named[:8] for info in found.also}
        for entry in found.shards:
            kind, split, short, number = parse_name(entry.name)
            numbers.setdefault((kind, split, short), []).append(number)
            own = found.named(STAGES[kind]).startswith(short)
            if not own and not (kind == "synthetic" and short in also):
                self._problem(
                    MANIFEST, f"{entry.name} does not belong to the {STAGES[kind]} digest"
                )
        self._also(found)
        for (kind, split, _), given in numbers.items():
            if sorted(given) != list(range(len(given))):
                self._problem(
                    MANIFEST, f"the {kind} {split} shards are not numbered 0 to {len(given) - 1}"
                )

    def _also(self, found: Manifest) -> None:
        """Every other corpus that is mixed in has exactly the shards that its entry stands for."""
        for info in found.also:
            start = f"synthetic-train-{info.named[:8]}-"
            held = [entry for entry in found.shards if entry.name.startswith(start)]
            if manifest_digest(held) != info.corpus:
                self._problem(MANIFEST, f"the shards of {info.label} are not those of its digest")

    def shard_names(self) -> list[str]:
        """The shards to check: real, then synthetic, then mixed ones."""
        if self._manifest is not None:
            names = {entry.name for entry in self._manifest.shards}
        else:
            names = {path.name for path in self.folder.glob("data/*/*.tar") if self._is_shard(path)}
        return sorted(names, key=lambda name: (KINDS.index(parse_name(name)[0]), name))

    def _is_shard(self, path: Path) -> bool:
        try:
            return shard_path(self.folder, path.name) == path
        except ValueError:
            return False

    def files(self) -> None:
        """Note every file in data/ and index/ that belongs to no shard."""
        names = self.shard_names()
        known = {shard_path(self.folder, name) for name in names}
        known |= {index_path(self.folder, name) for name in names}
        if self._manifest is not None and self._manifest.filters is not None:
            written = self._manifest.filters.files()
            known |= {self.folder / "index" / file.name for file in written}
        for top in ("data", "index"):
            for path in sorted((self.folder / top).rglob("*")):
                if path not in known and (path.is_symlink() or not path.is_dir()):
                    self._problem(str(path.relative_to(self.folder)), "is not in the manifest")

    def num_bytes(self, name: str) -> int:
        """The size of a shard's file, 0 where there is none."""
        path = self._shard_path(name)
        return path.stat().st_size if path.is_file() else 0

    def _shard_path(self, name: str) -> Path:
        return self._had.get(name) or shard_path(self.folder, name)

    def _index_path(self, name: str) -> Path:
        return self._had.get(index_name(name)) or index_path(self.folder, name)

    # ---- one shard ----

    def shard(self, name: str) -> None:
        """Check a shard and its index against the manifest and each other."""
        entry = self._entry(name)
        if self.files_of is None or entry is None:
            self._shard(name)
            return
        try:
            self._had = {
                name: self.files_of.shard(entry),
                index_name(name): self.files_of.index(entry),
            }
            self._shard(name)
        except BuildError as error:
            self._problem(name, str(error))
        finally:
            self._had = {}
            self.files_of.release([entry])

    def _entry(self, name: str) -> ManifestShard | None:
        return self._entries.get(name)

    def _shard(self, name: str) -> None:
        path = self._shard_path(name)
        rows: list[dict[str, Any]] = []
        try:
            with opened(path) as data:
                rows = list(self._rows(name, data))
        except BuildError as error:
            self._problem(name, str(error))
        self.counts.update(num_shards=1, num_bytes=self.num_bytes(name))
        if path.is_file():
            self._against_manifest(name, rows)
        self._against_index(name, rows)

    def _rows(self, name: str, data: Data) -> Iterator[dict[str, Any]]:
        """The index rows of the samples that can be read; the rest are noted."""
        kind, split, _, _ = parse_name(name)
        dtypes: set[str] = set()

        def fault(offset: int, what: str) -> None:
            self._problem(name, f"at byte {offset}: {what}")

        for key, place in walk(data, fault):
            try:
                sample = read_sample(data, key, place)
            except ValueError as error:
                self._problem(name, str(error).removeprefix(f"{key}: "), key)
                continue
            npy = data[place.npy_offset : place.npy_offset + place.npy_length]
            row = index_row(key, place, sample.text.encode(), npy, sample.meta)
            for what in meta_faults(key, sample.meta, kind, split, self._manifest):
                self._problem(name, what, key)
            group = self._group(kind, split, sample.meta)
            for what in self._seen.faults(sample, row, group):
                self._problem(name, what, key)
            if self._judged is not None and f"{kind}-{split}" in ("real-train", "synthetic-train"):
                self._judged.add(sample, name)
            if (
                sample.meta.source == "real"
                and place.txt_length != sample.meta.end - sample.meta.start
            ):
                self._problem(name, "the text is not as long as start and end say", key)
            dtypes.add(sample.ids.dtype.name)
            self._count(kind, split, row, sample)
            yield row
        self._dtype = self._dtype or min(dtypes, default="")
        for odd in dtypes - {self._dtype}:
            self._problem(name, f"has ids of {odd}, where the corpus has {self._dtype}")

    def _group(self, kind: str, split: str, meta: Meta) -> str:
        """What a sample belongs to: "<kind>-<split>", or the other corpus that decoded it."""
        if kind != "synthetic" or self._manifest is None:
            return f"{kind}-{split}"
        label = label_of(meta, self._manifest)
        return label if label.startswith("also-") else f"{kind}-{split}"

    def _count(self, kind: str, split: str, row: dict[str, Any], sample: Sample) -> None:
        tokens = row["num_tokens"]
        self.counts.update(num_samples=1, num_tokens=tokens)
        self.counts.update({f"{kind}_{split}_samples": 1, f"{kind}_{split}_tokens": tokens})
        if kind == "mixed":
            self._mix.add(sample)

    def _against_manifest(self, name: str, rows: list[dict[str, Any]]) -> None:
        entry = self._entry(name)
        if entry is None:
            return
        sums = {
            "num_bytes": self.num_bytes(name),
            "num_samples": len(rows),
            "num_tokens": sum(row["num_tokens"] for row in rows),
            "num_text_bytes": sum(row["txt_length"] for row in rows),
            "num_synthetic_tokens": sum(
                r["num_tokens"] for r in rows if r["source"] == "synthetic"
            ),
        }
        for field in COUNTS:
            if sums[field] != getattr(entry, field):
                self._problem(
                    name, f"{field} is {sums[field]}, {getattr(entry, field)} in the manifest"
                )
        self._same_hash(self._shard_path(name), entry.sha256)
        index = self._index_path(name)
        if index.is_file():
            self._same_hash(index, entry.index.sha256)

    def _same_hash(self, path: Path, sha256: str) -> None:
        try:
            found = sha256_file(path)
        except BuildError as error:
            self._problem(path.name, str(error))
            return
        if found != sha256:
            self._problem(
                path.name, f"its SHA-256 is {found[:12]}…, {sha256[:12]}… in the manifest"
            )

    def _against_index(self, name: str, rows: list[dict[str, Any]]) -> None:
        file, path = index_name(name), self._index_path(name)
        if not path.is_file():
            self._problem(file, "the index is missing")
            return
        try:
            table = read_index(path)
        except BuildError as error:
            self._problem(file, str(error))
            return
        if table.equals(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)):
            return
        for key, what in _index_faults(table.to_pylist(), rows):
            self._problem(file, what, key)

    # ---- the mix ----

    def mix(self) -> None:
        """Compare the mixed shards with the manifest, and the verdicts with the samples."""
        for what in self._mix.faults():
            self._problem(MANIFEST, what)
        if self._judged is not None and self._manifest and self._manifest.filters:
            name = self._manifest.filters.verdicts.name
            for key, what in verdict_faults(self.folder, self._judged, self._seen.in_mix):
                self._problem(f"index/{name}", what, key)
            searched = self._manifest.filters.contamination
            if searched is not None:
                for what in finding_faults(self.folder, self._manifest, searched):
                    self._problem(f"index/{searched.findings.name}", what)


def _index_faults(
    found: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """(key, what) for each row of an index that differs from what its shard holds."""
    by_key = {row["key"]: row for row in found}
    for row in rows:
        indexed = by_key.pop(row["key"], None)
        if indexed is None:
            yield row["key"], "is in the shard and not in the index"
        elif indexed != row:
            odd = [name for name in row if indexed[name] != row[name]]
            yield row["key"], f"differs from its shard in {', '.join(odd)}"
    for key in by_key:
        yield key, "is in the index, but cannot be read in the shard"
    if len(found) == len(rows) and [row["key"] for row in found] != [row["key"] for row in rows]:
        yield "", "its rows are not in the order of the shard"
