"""The shards of a corpus without some documents: rewritten where they hold some, hard links where they hold none."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdgen.builders.bring import bring
from cdgen.builders.remix import named_digest
from cdgen.corpus import Corpus
from cdgen.progress import Progress
from cdgen.shards.index import read_index
from cdgen.shards.layout import index_path, parse_name, shard_name, shard_path
from cdgen.shards.manifest import ManifestShard
from cdgen.shards.reader import MappedShard
from cdgen.shards.receipts import receipt_of
from cdgen.shards.removing import Hits, digest_without, write_rest
from cdgen.storage import Receipt, find_receipt, matches, write_receipt


@dataclass(slots=True)
class Rest:
    """What is left of the shards of a corpus, and how much was done for it.

    Attributes:
        corpus: it; only read.
        out: the folder that the rest is written to.
        found: what every shard has of the documents, by name.
        num_rewritten, num_linked, num_emptied: shards written again, taken as they are, and gone since empty.
        moved: by the old names of shards the new ones.
    """

    corpus: Corpus
    out: Path
    found: dict[str, Hits]
    num_rewritten: int = 0
    num_linked: int = 0
    num_emptied: int = 0
    moved: dict[str, str] = field(default_factory=dict)

    @property
    def plain(self) -> list[ManifestShard]:
        """Real and synthetic shards."""
        return [entry for entry in self.corpus.manifest.shards if entry.kind != "mixed"]

    def num_gone(self, kind: str, split: str = "train") -> int:
        """Samples of a kind and split that go."""
        return sum(int(self.found[e.name].goes.sum()) for e in self.corpus.shards(kind, split))

    def gone(self) -> frozenset[tuple[str, str]]:
        """(shard, key) of every real and synthetic sample that goes, by the old names."""
        gone: set[tuple[str, str]] = set()
        for entry in self.plain:
            if self.found[entry.name]:
                keys = read_index(self.corpus.files.index(entry), ["key"])["key"]
                mask = pa.array(self.found[entry.name].goes)
                gone.update((entry.name, key) for key in keys.filter(mask).to_pylist())
        return frozenset(gone)

    def new_digests(self) -> dict[str, str]:
        """By the 8 digits in the old names the new digest, of every stage that loses a document."""
        lost: dict[str, set[str]] = {}
        for entry in self.plain:
            if self.found[entry.name]:
                digest = named_digest(entry, self.corpus.manifest)
                lost.setdefault(digest, set()).update(self.found[entry.name].documents)
        return {old[:8]: digest_without(old, documents) for old, documents in lost.items()}

    def write(self, digests: dict[str, str], progress: Progress) -> dict[str, Receipt]:
        """Real and synthetic shards without the documents, by name; their numbers have no gaps."""
        groups: dict[tuple[str, str, str], list[ManifestShard]] = {}
        for entry in sorted(self.plain, key=lambda entry: parse_name(entry.name)):
            groups.setdefault(parse_name(entry.name)[:3], []).append(entry)
        held: dict[str, Receipt] = {}
        with progress.stage("remove", total=len(self.plain), unit="shard") as advance:
            for (_, _, short), group in groups.items():
                digest = digests.get(short) or named_digest(group[0], self.corpus.manifest)
                goes = {entry.name: self.found[entry.name].goes for entry in group}
                for receipt in self.group(group, goes, digest):
                    held[receipt.name] = receipt
                    advance(1)
        return held

    def group(
        self, entries: list[ManifestShard], goes: dict[str, np.ndarray], digest: str
    ) -> list[Receipt]:
        """What is left of the shards of a stage and split, named by `digest`."""
        left = [entry for entry in entries if not goes[entry.name].all()]
        self.num_emptied += len(entries) - len(left)
        return [
            self._shard(entry, shard_name(entry.kind, entry.split, digest, number), goes, digest)
            for number, entry in enumerate(left)
        ]

    def _shard(
        self, entry: ManifestShard, name: str, goes: dict[str, np.ndarray], digest: str
    ) -> Receipt:
        self.moved[entry.name] = name
        if not goes[entry.name].any():
            self.num_linked += 1
            return bring(self.corpus.folder, entry, self.out, digest=digest, name=name)
        self.num_rewritten += 1
        receipts = self.out / "work/receipts"
        kept = find_receipt(receipts, name)
        path = shard_path(self.out, name)
        if kept is not None and kept.digest == digest and matches(kept, path):
            return kept
        with MappedShard(shard_path(self.corpus.folder, entry.name)) as shard:
            info = write_rest(shard, goes[entry.name], path, index_path(self.out, name))
        receipt = receipt_of(info, digest)
        write_receipt(receipts, receipt)
        return receipt
