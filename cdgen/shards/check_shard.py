"""Check one shard: its file and its index, every sample, and what is remembered for the checks between samples.

It needs nothing of other shards, so that many processes can do it.
"""

import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdgen.errors import BuildError
from cdgen.shards.between import Tracer, Traces
from cdgen.shards.files import ShardFiles
from cdgen.shards.index import INDEX_SCHEMA, index_row, read_index
from cdgen.shards.layout import index_name, parse_name
from cdgen.shards.manifest import COUNTS, Manifest, ManifestShard
from cdgen.shards.mix_check import MixCheck
from cdgen.shards.provenance import label_of, meta_faults
from cdgen.shards.sample import Meta, Sample
from cdgen.shards.verdicts import Judged
from cdgen.shards.walk import Data, opened, read_sample, walk
from cdgen.storage import sha256_file


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
class Rules:
    """What all shards are checked against."""

    manifest: Manifest | None
    """Without its shards: a process gets the entry of a shard with its name."""
    judged: Judged | None
    """What makes the verdicts again, if the corpus has some."""

    @classmethod
    def of(cls, manifest: Manifest | None, judged: Judged | None) -> "Rules":
        """Small enough to be sent to a process."""
        if manifest is None:
            return cls(manifest=None, judged=None)
        short = replace(manifest, shards=())
        return cls(manifest=short, judged=replace(judged, manifest=short) if judged else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """One shard and where it is."""

    name: str
    shard: Path
    index: Path
    entry: ManifestShard | None


Place = tuple[int, int]
"""Where a problem is told: before, with (1) or after (2) what is wrong between the samples with a readable one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found in one shard."""

    name: str
    num_bytes: int
    problems: list[tuple[Place, Problem]]
    counts: Counter[str]
    dtypes: set[str]
    traces: Traces
    mix: MixCheck
    judged: Judged | None


def check_shard(paths: Paths, rules: Rules) -> Checked:
    """Check a shard and its index against the manifest and each other. OSError: the folder cannot be read."""
    return _Shard(paths, rules).checked()


@contextmanager
def brought(paths: Paths, files: ShardFiles | None) -> Iterator[Paths]:
    """A shard's files, brought here for the block if they are somewhere else. BuildError: they cannot be had."""
    if files is None or paths.entry is None:
        yield paths
        return
    try:
        shard, index = files.shard(paths.entry), files.index(paths.entry)
        yield replace(paths, shard=shard, index=index)
    finally:
        files.release([paths.entry])


def check_brought(paths: Paths, rules: Rules, files: ShardFiles | None) -> Checked | Problem:
    """As `check_shard`, of a shard that may be somewhere else; a problem if it cannot be had."""
    try:
        with brought(paths, files) as here:
            return check_shard(here, rules)
    except BuildError as error:
        return Problem(file=paths.name, key="", what=str(error))


@contextmanager
def kept_in_a_file(rules: Rules, files: ShardFiles | None) -> Iterator[Path]:
    """What every process reads once: what the filters found can be much to send with each shard."""
    with tempfile.TemporaryDirectory(prefix="cdgen-verify-") as folder:
        at = Path(folder) / "rules"
        at.write_bytes(pickle.dumps((rules, files)))
        yield at


def check_by_rules_at(paths: Paths, at: Path) -> Checked | Problem:
    """As `check_brought`, in another process, which keeps the rules and has connections of its own."""
    return check_brought(paths, *_kept_at(at))


@cache
def _kept_at(at: Path) -> tuple[Rules, ShardFiles | None]:
    kept: tuple[Rules, ShardFiles | None] = pickle.loads(at.read_bytes())  # noqa: S301 - our own parent's
    return kept


def readable(path: Path) -> Iterator[Sample]:
    """The samples of a shard that can be read, as they are numbered in its traces."""
    with opened(path) as data:
        for key, place in walk(data, lambda *_: None):
            try:
                yield read_sample(data, key, place)
            except ValueError:
                continue


@dataclass(slots=True)
class _Shard:
    paths: Paths
    rules: Rules
    problems: list[tuple[Place, Problem]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dtypes: set[str] = field(default_factory=set)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def _problem(self, file: str, what: str, key: str = "", *, after: int = 0) -> None:
        place = len(self.rows), after
        self.problems.append((place, Problem(file=file, key=key, what=what)))

    def checked(self) -> Checked:
        """Look at everything; each fault is noted, and what can still be read is read."""
        name, path = self.paths.name, self.paths.shard
        kind, split, _, _ = parse_name(name)
        tracer, mix = Tracer(kind), MixCheck(self.rules.manifest)
        judged = self.rules.judged.of_a_shard() if self.rules.judged else None
        try:
            with opened(path) as data:
                for sample, row in self._samples(data, kind, split):
                    tracer.add(sample, row, self._group(kind, split, sample.meta))
                    if judged is not None and (kind, split) in _JUDGED:
                        judged.add(sample, name)
                    if kind == "mixed":
                        mix.add(sample)
        except BuildError as error:
            self._problem(name, str(error), after=2)
        num_bytes = path.stat().st_size if path.is_file() else 0
        self.counts.update(num_shards=1, num_bytes=num_bytes)
        if path.is_file() and self.paths.entry is not None:
            self._against_manifest(self.paths.entry, num_bytes)
        self._against_index()
        return Checked(
            name=name,
            num_bytes=num_bytes,
            problems=self.problems,
            counts=self.counts,
            dtypes=self.dtypes,
            traces=tracer.traces(),
            mix=mix,
            judged=judged.without_rules() if judged else None,
        )

    def _samples(
        self, data: Data, kind: str, split: str
    ) -> Iterator[tuple[Sample, dict[str, Any]]]:
        """The samples that can be read, and their index rows; the rest are noted."""
        name = self.paths.name

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
            for what in meta_faults(key, sample.meta, kind, split, self.rules.manifest):
                self._problem(name, what, key)
            meta = sample.meta
            if meta.source == "real" and place.txt_length != meta.end - meta.start:
                what = "the text is not as long as start and end say"
                self._problem(name, what, key, after=2)
            self.dtypes.add(sample.ids.dtype.name)
            self._count(kind, split, row["num_tokens"])
            yield sample, row
            self.rows.append(row)

    def _group(self, kind: str, split: str, meta: Meta) -> str:
        """What a sample belongs to: "<kind>-<split>", or the other corpus that decoded it."""
        if kind != "synthetic" or self.rules.manifest is None:
            return f"{kind}-{split}"
        label = label_of(meta, self.rules.manifest)
        return label if label.startswith("also-") else f"{kind}-{split}"

    def _count(self, kind: str, split: str, tokens: int) -> None:
        self.counts.update(num_samples=1, num_tokens=tokens)
        self.counts.update({f"{kind}_{split}_samples": 1, f"{kind}_{split}_tokens": tokens})

    def _against_manifest(self, entry: ManifestShard, num_bytes: int) -> None:
        rows = self.rows
        sums = {
            "num_bytes": num_bytes,
            "num_samples": len(rows),
            "num_tokens": sum(row["num_tokens"] for row in rows),
            "num_text_bytes": sum(row["txt_length"] for row in rows),
            "num_synthetic_tokens": sum(
                r["num_tokens"] for r in rows if r["source"] == "synthetic"
            ),
        }
        for name in COUNTS:
            if sums[name] != getattr(entry, name):
                what = f"{name} is {sums[name]}, {getattr(entry, name)} in the manifest"
                self._problem(entry.name, what, after=2)
        self._same_hash(self.paths.shard, entry.sha256)
        if self.paths.index.is_file():
            self._same_hash(self.paths.index, entry.index.sha256)

    def _same_hash(self, path: Path, sha256: str) -> None:
        try:
            found = sha256_file(path)
        except BuildError as error:
            self._problem(path.name, str(error), after=2)
            return
        if found != sha256:
            what = f"its SHA-256 is {found[:12]}…, {sha256[:12]}… in the manifest"
            self._problem(path.name, what, after=2)

    def _against_index(self) -> None:
        file, path = index_name(self.paths.name), self.paths.index
        if not path.is_file():
            self._problem(file, "the index is missing", after=2)
            return
        try:
            table = read_index(path)
        except BuildError as error:
            self._problem(file, str(error), after=2)
            return
        if table.equals(pa.Table.from_pylist(self.rows, schema=INDEX_SCHEMA)):
            return
        for key, what in _index_faults(table.to_pylist(), self.rows):
            self._problem(file, what, key, after=2)


_JUDGED = (("real", "train"), ("synthetic", "train"))


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
