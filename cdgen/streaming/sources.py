"""The sources of a corpus as a stream reads them: shards through their indexes, without what the filters left out."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from cdgen.corpus import Corpus
from cdgen.errors import BuildError, UsageError
from cdgen.shards import npy
from cdgen.shards.files import ShardFiles
from cdgen.shards.index import column_values, index_maximum, read_index
from cdgen.shards.layout import SPLITS, parse_name, series
from cdgen.shards.manifest import Manifest, ManifestShard, manifest_digest
from cdgen.shards.reader import IDS_PLACED, MappedShard, fitting_dtype
from cdgen.shards.sample import split_repeat
from cdgen.shards.verdicts import read_verdicts, stamp
from cdgen.shards.walk import map_file, most_mapped
from cdgen.storage import canonical_json, reading
from cdgen.storage.cache import default_cache
from cdgen.streaming.kept import Kept
from cdgen.streaming.line import Rows
from cdgen.streaming.remembered import remember, remembered

REAL, SYNTHETIC = "real", "synthetic"
_SMALL = 1 << 17
"""Documents of a source whose indexes are read once, and kept: a stretch of the run can be many passes of it."""

_THREADS = 2
"""That decode indexes, unless they have few documents: threads take time to start."""
_FEW_DOCUMENTS = 4096


class ShardSource:
    """A source whose documents lie in shards.

    Args:
        name: real, synthetic or also-<8 digits>.
        entries: its shards in the manifest, in order.
        files: where they are.
        masks: by shard name which samples are read, bool `[samples]`; a shard that is not named is read whole.
        masked_tokens: by shard name the tokens of the samples that its mask lets through.
        series_digests: `manifest_digest` by `series`, of a corpus that has each of these whole or not at all among the
            entries. Left out, it is computed.
    """

    def __init__(
        self,
        name: str,
        entries: Sequence[ManifestShard],
        files: ShardFiles,
        masks: Mapping[str, np.ndarray] | None = None,
        masked_tokens: Mapping[str, int] | None = None,
        *,
        series_digests: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.entries, self.files = name, entries, files
        self.masks, masked = masks or {}, masked_tokens or {}
        self.num_documents = np.array([entry.num_samples for entry in entries], np.int64)
        sizes = [masked.get(entry.name, entry.num_tokens) for entry in entries]
        self.num_tokens = np.array(sizes, np.int64)
        self._series_digests = series_digests or {}
        self._places = default_cache() / "places"
        self._dtypes: dict[int, npy.IdDtype] = {}
        self._rows: dict[int, Rows] = {}
        self._mapped: Kept[MappedShard] = Kept(most_mapped() // 4)

    @property
    def digest(self) -> str:
        """Of what is read, 16 hex digits: the shards' hashes and counts, and the masks."""
        masks = {name: np.packbits(mask).tobytes().hex() for name, mask in self.masks.items()}
        named = {series(entry.name) for entry in self.entries}
        known = self._series_digests.get(named.pop()) if len(named) == 1 else None
        whole = canonical_json([known or manifest_digest(self.entries), masks])
        return hashlib.sha256(whole).hexdigest()[:16]

    def rows(self, shards: Sequence[int]) -> list[Rows]:
        """The documents of shards, from their indexes; BuildError if one is damaged or does not fit the manifest."""
        found: list[Rows] = []
        for shard in shards:
            if (known := self._known(shard)) is None:
                break
            found.append(known)
        # From the first one on that must be decoded, or downloaded, threads are worth what it takes to start them.
        rest = shards[len(found) :]
        if self.num_documents[rest].sum() < _FEW_DOCUMENTS:
            found += map(self._read_rows, rest)
        else:
            with ThreadPoolExecutor(_THREADS) as threads:
                found += threads.map(self._read_rows, rest)
        if self.num_documents.sum() <= _SMALL:
            self._rows |= zip(shards, found, strict=True)
        return found

    def _read_rows(self, shard: int) -> Rows:
        known = self._known(shard)
        if known is None:
            entry = self.entries[shard]
            path = self.files.index(entry)
            rows, dtype = self._parsed(entry, path)
            remember(entry, path, self._places, rows, dtype)
            known = self._masked(shard, rows, dtype)
        return known

    def _known(self, shard: int) -> Rows | None:
        """The documents of a shard that was read before; None where its index must be decoded."""
        if shard in self._rows:
            return self._rows[shard]
        entry = self.entries[shard]
        kept = remembered(entry, self.files.index(entry), self._places)
        return None if kept is None else self._masked(shard, *kept)

    def _masked(self, shard: int, rows: Rows, dtype: npy.IdDtype) -> Rows:
        """What is read of a shard; its ids' dtype is noted."""
        self._dtypes[shard] = dtype
        mask = self.masks.get(self.entries[shard].name)
        return rows if mask is None else replace(rows, num_tokens=rows.num_tokens * mask)

    def _parsed(self, entry: ManifestShard, path: Path) -> tuple[Rows, npy.IdDtype]:
        """All documents of an index, and the dtype of their ids."""
        table = read_index(path, (*IDS_PLACED, "ids_xxh64"))
        placed = {name: column_values(table[name]) for name in IDS_PLACED}
        xxh64 = column_values(table["ids_xxh64"]).view(np.int64)
        tokens: np.ndarray = placed["num_tokens"]
        dtype = fitting_dtype(placed, entry.num_bytes)
        counts = (len(tokens), int(tokens.sum()))
        if dtype is None or counts != (entry.num_samples, entry.num_tokens):
            raise BuildError(
                f"{path} does not fit {entry.name} as the manifest has it: {entry.num_bytes} bytes, "
                f"{entry.num_samples} samples, {entry.num_tokens} tokens; run cdgen verify"
            )
        where = (placed["npy_offset"] + npy.HEADER_BYTES) // dtype.itemsize
        return Rows(tokens, where, xxh64), dtype

    def ids(self, shard: int) -> np.ndarray:
        """The whole file of a shard, mapped, as ids: `Rows.where` counts in them."""
        entry = self.entries[shard]
        path = self.files.shard(entry)
        with reading(path):
            size = path.stat().st_size
        if size != entry.num_bytes:
            raise BuildError(
                f"{path} has {size} bytes, {entry.num_bytes} in the manifest: run cdgen verify"
            )
        if shard not in self._dtypes:
            self.rows([shard])
        ids: np.ndarray = np.frombuffer(map_file(path), self._dtypes[shard])
        return ids

    def longest(self) -> int:
        """Tokens of the longest document that is read: from the indexes' footers, where nothing is left out."""
        return max((self._longest_in(entry) for entry in self.entries), default=0)

    def _longest_in(self, entry: ManifestShard) -> int:
        path, mask = self.files.index(entry), self.masks.get(entry.name)
        if mask is None and (largest := index_maximum(path, "num_tokens")) is not None:
            return largest
        tokens = column_values(read_index(path, ["num_tokens"])["num_tokens"])
        return int((tokens if mask is None else tokens[mask]).max(initial=0))

    def key(self, shard: int, row: int) -> str:
        """The key of a sample."""
        index = read_index(self.files.index(self.entries[shard]), ["key"])
        return str(index["key"][row].as_py())

    def document(self, shard: int, row: int, *, verify: bool) -> dict[str, Any]:
        """A sample's key, source, ids, text and provenance; BuildError if it is damaged."""
        mapped = self._mapped.get(shard, lambda: self._map(shard))
        ids, xxh64 = self._ids_of(mapped, shard, row)
        if verify and xxhash.xxh64_intdigest(ids.tobytes()) != xxh64:
            raise BuildError(
                f"{mapped.path}: the ids of sample {row} are damaged: run cdgen verify"
            )
        key, text, meta = mapped.row(row)["key"], mapped.text(row), mapped.meta(row).columns()
        return {"key": key, "source": self.name, "ids": ids, "text": text, "meta": meta}

    def _ids_of(self, mapped: MappedShard, shard: int, row: int) -> tuple[np.ndarray, int]:
        """(ids of a sample, the hash they must have)."""
        return mapped.ids(row), int(mapped.row(row)["ids_xxh64"])

    def _map(self, shard: int) -> MappedShard:
        entry = self.entries[shard]
        return MappedShard(self.files.shard(entry), self.files.index(entry))

    def shard_name(self, shard: int) -> str:
        """The name of a shard's file."""
        return self.entries[shard].name

    def release(self, shards: Sequence[int]) -> None:
        """These shards are not needed for now."""
        self.files.release([self.entries[shard] for shard in shards])


def open_sources(corpus: Corpus, split: str) -> list[ShardSource]:
    """The sources of a split: real, then this corpus's synthetic text, then that of others, where there is any.

    A corpus that has only mixed shards is separated by the index's column `source`.

    Raises:
        UsageError: no such split, or the corpus has nothing of it.
    """
    if split not in SPLITS:
        raise UsageError(f"split must be one of {', '.join(SPLITS)}, found {split!r}")
    groups: dict[str, list[ManifestShard]] = {}
    for entry in (*corpus.shards(REAL, split), *corpus.shards(SYNTHETIC, split)):
        groups.setdefault(_label(entry, corpus.manifest), []).append(entry)
    if groups:
        masks, tokens = _verdicts(corpus) if set(groups) - {REAL} else ({}, {})
        sources = [
            ShardSource(
                label,
                entries,
                corpus.files,
                {entry.name: masks[entry.name] for entry in entries if entry.name in masks},
                tokens,
                series_digests=corpus.digests,
            )
            for label, entries in groups.items()
        ]
    else:
        sources = list(_separated(corpus, split))
    sources = [source for source in sources if source.num_tokens.sum()]
    if not sources:
        raise UsageError(f"{corpus.where}: no documents of the {split} split")
    order = [REAL, SYNTHETIC, *(also.label for also in corpus.manifest.also)]
    return sorted(sources, key=lambda source: order.index(source.name))


def _label(entry: ManifestShard, manifest: Manifest) -> str:
    """real, synthetic or also-<8 digits>: whose shard it is."""
    short = parse_name(entry.name)[2]
    own = (info.label for info in manifest.also if info.named.startswith(short))
    return next(own, entry.kind) if entry.kind == SYNTHETIC else entry.kind


def _verdicts(corpus: Corpus) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """By synthetic shard: which samples the filters keep, and their tokens."""
    manifest = corpus.manifest
    if manifest.filters is None:
        return {}, {}
    path = corpus.folder / "index" / manifest.filters.verdicts.name
    table = read_verdicts(path, manifest.digests.get("mix", ""))
    if stamp(path) != manifest.filters.verdicts:
        raise BuildError(f"{path}: its size or SHA-256 is not the manifest's; run cdgen verify")
    kept, tokens = column_values(table["kept"]), column_values(table["num_tokens"])
    entries = corpus.shards(SYNTHETIC)
    ends = np.cumsum([entry.num_samples for entry in entries])
    if len(kept) != (ends[-1] if len(ends) else 0):
        raise BuildError(f"{path}: {len(kept)} rows for {ends[-1]} samples; run cdgen verify")
    masks = dict(zip((entry.name for entry in entries), np.split(kept, ends[:-1]), strict=True))
    sums = [int(part.sum()) for part in np.split(tokens * kept, ends[:-1])]
    return masks, dict(zip(masks, sums, strict=True))


def _separated(corpus: Corpus, split: str) -> Iterator[ShardSource]:
    """The sources of the mixed shards: their indexes are read once, here. A sample's second use is left out."""
    entries = corpus.shards("mixed", split)
    masks: dict[str, dict[str, np.ndarray]] = {}
    tokens: dict[str, dict[str, int]] = {}
    for entry in entries:
        columns = ("key", "source", "decode", "num_tokens")
        table = read_index(corpus.files.index(entry), columns)
        labels = np.array(
            [
                _sample_label(source, decode, corpus.manifest)
                for source, decode in zip(
                    table["source"].to_pylist(), table["decode"].to_pylist(), strict=True
                )
            ]
        )
        first = np.array([split_repeat(key)[1] == 1 for key in table["key"].to_pylist()], bool)
        num_tokens = column_values(table["num_tokens"])
        for label in set(labels.tolist()):
            mask = first & (labels == label)
            masks.setdefault(label, {})[entry.name] = mask
            tokens.setdefault(label, {})[entry.name] = int(num_tokens[mask].sum())
    for label, kept in masks.items():
        mine = [entry for entry in entries if entry.name in kept]
        yield ShardSource(label, mine, corpus.files, kept, tokens[label])


def _sample_label(source: str, decode: str, manifest: Manifest) -> str:
    if source == REAL or manifest.digests.get("decode", "").startswith(decode):
        return source
    return f"also-{decode[:8]}"
