"""`cdgen remove`: a finished corpus without some documents and all that continues them, in a folder of its own.

Shards that hold none of them are hard links, or copies where there can be none; the others are written again without
them, every sample that stays as it was. All shards of a stage that lost a document get new names, since a name must
stand for one content; so does the mix. Nothing is trained or decoded, and the old corpus is only read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdgen.builders.bring import bring
from cdgen.builders.evaluation import Evaluation
from cdgen.builders.finish import move_aside
from cdgen.builders.mixing import Filtered, filter_stage, mix_info, mix_stage
from cdgen.builders.remix import (
    check_beside,
    describe_copy,
    digest_of,
    ingredients_of,
    kept_recipe,
    named_digest,
)
from cdgen.corpus import Corpus, open_folder
from cdgen.errors import UsageError
from cdgen.mixing.remaining import remaining_mix
from cdgen.progress import Progress, Quiet
from cdgen.recipes.load import RecipeFile
from cdgen.shards.findings import FINDING_SCHEMA, read_findings, write_findings
from cdgen.shards.index import read_index
from cdgen.shards.layout import index_path, parse_name, shard_name, shard_path
from cdgen.shards.manifest import (
    AlsoInfo,
    Manifest,
    ManifestShard,
    Mix,
    MixPart,
    Removed,
    SourceInfo,
    manifest_digest,
    write_manifest,
)
from cdgen.shards.provenance import label_of
from cdgen.shards.reader import MappedShard
from cdgen.shards.receipts import receipt_of, shard_of
from cdgen.shards.removing import Hits, digest_without, hits, write_rest
from cdgen.shards.sample import Meta, check_document, split_repeat
from cdgen.shards.verdicts import REASONS, read_verdicts
from cdgen.storage import (
    Receipt,
    hold,
    matches,
    read_receipts,
    remove_temporaries,
    write_receipt,
)

REMOVED = "removed"
"""What the samples that went are called in the manifest's `dropped`."""
_PLAIN = (("real", "train"), ("real", "eval"), ("synthetic", "train"))
_MIX_COLUMNS = ("key", "source", "decode", "num_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveReport:
    """What `cdgen remove` made.

    Attributes:
        source: the corpus that the documents were taken out of.
        documents: which ones.
        copies: documents with the very same text that are still there: each has an id of its own.
        num_samples: that went, by kind; of mixed ones also those that the filters drop now that others are gone.
        num_rewritten, num_linked, num_emptied: shards written again, taken as they are, and gone since empty.
        mix: what the mix is now; its errors are measured, not a bound.
        materialized: whether there are mixed shards; without them the mix was made anew.
    """

    folder: str
    source: str
    manifest_digest: str
    documents: tuple[str, ...]
    copies: tuple[str, ...]
    num_samples: dict[str, int]
    num_rewritten: int
    num_linked: int
    num_emptied: int
    mix: Mix | None
    materialized: bool

    @property
    def parts(self) -> tuple[MixPart, ...]:
        """The sources of the mix."""
        return self.mix.parts if self.mix else ()


def remove(
    folder: str | Path,
    out: str | Path,
    documents: Iterable[str],
    *,
    progress: Progress | None = None,
) -> RemoveReport:
    """Write a corpus anew without some documents and everything that was generated from their prefixes.

    Args:
        folder: the corpus; it is only read.
        out: the new corpus's folder. Doing the same again finishes what was interrupted.
        documents: their ids, as `document` in the provenance of samples.
        progress: told of every long step.

    Raises:
        UsageError: a wrong folder, or a document that is not in the corpus, before anything is written.
        BuildError: the corpus is damaged.
    """
    corpus, out, progress = open_folder(folder), Path(out), progress or Quiet()
    wanted = _checked(documents)
    check_beside(corpus, out)
    file = kept_recipe(corpus)
    found = _find(corpus, wanted, progress)
    _check_found(corpus, wanted, found)
    with hold(out, f"remove from {corpus.manifest.name}"):
        remove_temporaries(out)
        return _Removal(corpus, file, out, wanted, found, progress).run()


def listed(file: Path) -> list[str]:
    """The ids in a file, one on each line; UsageError if it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file}: cannot be read ({error}); a text file of ids is expected"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def _checked(documents: Iterable[str]) -> tuple[str, ...]:
    wanted = tuple(sorted(set(documents)))
    if not wanted:
        raise UsageError(
            "no document is named; --doc takes the id in `document` of a sample's JSON"
        )
    for document in wanted:
        try:
            check_document(document)
        except ValueError as error:
            raise UsageError(f"{error}, as `document` in a sample's JSON") from None
    return wanted


def _find(corpus: Corpus, wanted: tuple[str, ...], progress: Progress) -> dict[str, Hits]:
    """What every shard has of the documents, by name."""
    found = {}
    with progress.stage("find", total=len(corpus.manifest.shards), unit="shard") as advance:
        for entry in corpus.manifest.shards:
            found[entry.name] = hits(corpus.files.index(entry), wanted)
            advance(1)
    return found


def _check_found(corpus: Corpus, wanted: tuple[str, ...], found: dict[str, Hits]) -> None:
    """Every document is there, and something is left. Raises UsageError."""
    known = frozenset().union(*(one.documents for one in found.values()))
    missing = [document for document in wanted if document not in known]
    if missing:
        gone = corpus.manifest.removed.documents if corpus.manifest.removed else ()
        removed = sum(document in gone for document in missing)
        earlier = f"; {removed:,} of them removed earlier" if removed else ""
        raise UsageError(
            f"{corpus.where}: holds nothing of {len(missing):,} of {len(wanted):,} documents, such as "
            f"{missing[0]}{earlier}; nothing was written: leave them out, or look for the id in `document`"
        )
    for kind in ("real", "synthetic"):
        entries = corpus.shards(kind)
        if entries and all(found[entry.name].goes.all() for entry in entries):
            raise UsageError(f"{corpus.where}: nothing would be left of its {kind} train text")


@dataclass(slots=True)
class _Removal:
    """One removal, step by step."""

    corpus: Corpus
    file: RecipeFile
    out: Path
    wanted: tuple[str, ...]
    found: dict[str, Hits]
    progress: Progress
    num_rewritten: int = 0
    num_linked: int = 0
    num_emptied: int = 0
    num_mixed_gone: int = 0
    moved: dict[str, str] = field(default_factory=dict)
    """By the old names of shards the new ones."""

    def run(self) -> RemoveReport:
        old = self.corpus.manifest
        plain = [entry for entry in old.shards if entry.kind != "mixed"]
        names = dict(self._new_digests(plain))
        held = self._shards(plain, names)
        draft = self._draft(held, names)
        mixed = [entry for entry in old.shards if entry.kind == "mixed"]
        manifest = self._mixed(draft, held, mixed) if mixed else self._mixed_anew(draft, held)
        describe_copy(self.corpus, self.file, self.out, manifest)
        write_manifest(self.out, manifest)
        move_aside(self.out, manifest)
        return self._report(manifest)

    # ---- real and synthetic shards ----

    def _new_digests(self, entries: list[ManifestShard]) -> list[tuple[str, str]]:
        """(8 digits of the old names, the new whole digest) of every stage that loses a document."""
        lost: dict[str, set[str]] = {}
        for entry in entries:
            if self.found[entry.name]:
                digest = named_digest(entry, self.corpus.manifest)
                lost.setdefault(digest, set()).update(self.found[entry.name].documents)
        return [(old[:8], digest_without(old, documents)) for old, documents in lost.items()]

    def _shards(self, entries: list[ManifestShard], names: dict[str, str]) -> dict[str, Receipt]:
        """The shards without the documents, by name; their numbers have no gaps."""
        groups: dict[tuple[str, str, str], list[ManifestShard]] = {}
        for entry in sorted(entries, key=lambda entry: parse_name(entry.name)):
            groups.setdefault(parse_name(entry.name)[:3], []).append(entry)
        held: dict[str, Receipt] = {}
        with self.progress.stage("remove", total=len(entries), unit="shard") as advance:
            for (_, _, short), group in groups.items():
                digest = names.get(short) or named_digest(group[0], self.corpus.manifest)
                goes = {entry.name: self.found[entry.name].goes for entry in group}
                for receipt in self._group(group, goes, digest):
                    held[receipt.name] = receipt
                    advance(1)
        return held

    def _group(
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
        kept = read_receipts(receipts).get(name)
        path = shard_path(self.out, name)
        if kept is not None and kept.digest == digest and matches(kept, path):
            return kept
        with MappedShard(shard_path(self.corpus.folder, entry.name)) as shard:
            info = write_rest(shard, goes[entry.name], path, index_path(self.out, name))
        receipt = receipt_of(info, digest)
        write_receipt(receipts, receipt)
        return receipt

    # ---- the manifest, as far as it is known before the mix ----

    def _draft(self, held: dict[str, Receipt], names: dict[str, str]) -> Manifest:
        old = self.corpus.manifest
        before = old.removed
        stages = {
            stage: names[old.named(stage)[:8]]
            for stage in ("text", "decode")
            if old.named(stage)[:8] in names
        }
        removed = Removed(
            documents=tuple(sorted({*self.wanted, *(before.documents if before else ())})),
            source=old.digest,
            names=(before.names if before else {}) | stages,
        )
        went = sum(self._num_gone(*which) for which in _PLAIN)
        return replace(
            old,
            shards=tuple(map(shard_of, held.values())),
            also=tuple(self._also(info, held, names) for info in old.also),
            sources=tuple(map(self._source, old.sources)),
            removed=removed,
            dropped=old.dropped | {REMOVED: old.dropped.get(REMOVED, 0) + went},
            totals={},
            digest="",
        )

    def _num_gone(self, kind: str, split: str = "train") -> int:
        return sum(int(self.found[e.name].goes.sum()) for e in self.corpus.shards(kind, split))

    @staticmethod
    def _also(info: AlsoInfo, held: dict[str, Receipt], names: dict[str, str]) -> AlsoInfo:
        if info.named[:8] not in names:
            return info
        new = names[info.named[:8]]
        shards = [
            shard_of(r) for n, r in held.items() if n.startswith(f"synthetic-train-{new[:8]}-")
        ]
        return replace(info, corpus=manifest_digest(shards), digests={**info.digests, "names": new})

    def _source(self, source: SourceInfo) -> SourceInfo:
        """Its train documents and tokens, without those that went."""
        documents = tokens = 0
        for entry in self.corpus.shards("real"):
            table = read_index(self.corpus.files.index(entry), ["origin", "num_tokens"])
            its = np.array([name == source.name for name in table["origin"].to_pylist()], bool)
            its &= self.found[entry.name].goes
            documents += int(its.sum())
            tokens += int(table["num_tokens"].to_numpy()[its].sum())
        return replace(
            source,
            num_documents=source.num_documents - documents,
            num_tokens=source.num_tokens - tokens,
        )

    # ---- the mix ----

    def _mixed(
        self, draft: Manifest, held: dict[str, Receipt], entries: list[ManifestShard]
    ) -> Manifest:
        """The mixed shards without the documents, and without what the filters drop now that others are gone."""
        old = self.corpus.manifest
        digest = digest_without(old.digests["mix"], self.wanted)
        ingredients = ingredients_of(self.file, draft, held)
        self._findings(ingredients.evaluation)
        filtered = filter_stage(self.out, self.file.recipe, digest, ingredients, self.progress)
        dropped = self._dropped(filtered, digest)
        entries = sorted(entries, key=lambda entry: parse_name(entry.name)[3])
        goes, left = {}, []
        for entry in entries:
            table = read_index(self.corpus.files.index(entry), _MIX_COLUMNS)
            late = [split_repeat(key)[0] in dropped for key in table["key"].to_pylist()]
            goes[entry.name] = self.found[entry.name].goes | np.array(late, bool)
            left.append(table.filter(pa.array(~goes[entry.name])))
        self.num_mixed_gone = sum(int(mask.sum()) for mask in goes.values())
        shards = self._group(entries, goes, digest)
        assert old.mix is not None, "it has mixed shards"
        mix = _remaining(old, old.mix, pa.concat_tables(left))
        assert draft.removed is not None
        removed = replace(draft.removed, mix=digest_of(self.file, draft))
        return self._with_mix(replace(draft, removed=removed), digest, mix, filtered, shards)

    def _mixed_anew(self, draft: Manifest, held: dict[str, Receipt]) -> Manifest:
        """A mix that is not written has no order to keep: it is what the recipe makes of what is left."""
        digest = digest_of(self.file, draft)
        ingredients = ingredients_of(self.file, draft, held)
        self._findings(ingredients.evaluation)
        made = mix_stage(self.out, self.file.recipe, digest, ingredients, self.progress)
        mix = mix_info(self.file.recipe, made.result)
        filtered = Filtered(info=made.filters, dropped=made.dropped)
        return self._with_mix(draft, digest, mix, filtered, made.shards)

    @staticmethod
    def _with_mix(
        draft: Manifest, digest: str, mix: Mix, filtered: Filtered, shards: Sequence[Receipt]
    ) -> Manifest:
        dropped = {reason: n for reason, n in draft.dropped.items() if reason not in REASONS}
        return replace(
            draft,
            digests={**draft.digests, "mix": digest},
            shards=(*draft.shards, *map(shard_of, shards)),
            mix=mix,
            filters=filtered.info,
            dropped=dropped | filtered.dropped,
            totals={},
            digest="",
        )

    def _dropped(self, filtered: Filtered, digest: str) -> frozenset[str]:
        """Keys of the samples that may not be mixed."""
        if filtered.info is None:
            return frozenset()
        table = read_verdicts(self.out / "index" / filtered.info.verdicts.name, digest)
        kept = zip(table["key"].to_pylist(), table["kept"].to_pylist(), strict=True)
        return frozenset(key for key, is_kept in kept if not is_kept)

    def _findings(self, wanted: Evaluation | None) -> None:
        """What the search for evaluation sets found in what is left: the sets need not be at hand."""
        filters = self.corpus.manifest.filters
        if wanted is None or filters is None or filters.contamination is None:
            return
        table = read_findings(self.corpus.folder / "index" / filters.contamination.findings.name)
        gone = self._gone()
        rows = [
            row | {"shard": self.moved[row["shard"]]}
            for row in table.to_pylist()
            if (row["shard"], row["key"]) not in gone
        ]
        rows.sort(
            key=lambda row: (row["source"], row["shard"])
        )  # samples and sets stay in their order
        write_findings(self.out, pa.Table.from_pylist(rows, schema=FINDING_SCHEMA), wanted.digest)

    def _gone(self) -> frozenset[tuple[str, str]]:
        """(shard, key) of every real and synthetic sample that goes, by the old names."""
        gone: set[tuple[str, str]] = set()
        for entry in self.corpus.manifest.shards:
            if entry.kind != "mixed" and self.found[entry.name]:
                keys = read_index(self.corpus.files.index(entry), ["key"])["key"]
                mask = pa.array(self.found[entry.name].goes)
                gone.update((entry.name, key) for key in keys.filter(mask).to_pylist())
        return frozenset(gone)

    def _report(self, manifest: Manifest) -> RemoveReport:
        every = frozenset().union(*(one.copies for one in self.found.values()))
        return RemoveReport(
            folder=str(self.out),
            source=self.corpus.where,
            manifest_digest=manifest.digest,
            documents=self.wanted,
            copies=tuple(sorted(every)),
            num_samples={
                "real": self._num_gone("real") + self._num_gone("real", "eval"),
                "synthetic": self._num_gone("synthetic"),
                "mixed": self.num_mixed_gone,
            },
            num_rewritten=self.num_rewritten,
            num_linked=self.num_linked,
            num_emptied=self.num_emptied,
            mix=manifest.mix,
            materialized=any(entry.kind == "mixed" for entry in manifest.shards),
        )


def _remaining(manifest: Manifest, mix: Mix, table: pa.Table) -> Mix:
    """The mix of the samples in a table of `_MIX_COLUMNS`."""
    labels = [
        label_of(Meta(source=source, decode=decode), manifest)
        for source, decode in zip(
            table["source"].to_pylist(), table["decode"].to_pylist(), strict=True
        )
    ]
    uses = [split_repeat(key)[1] for key in table["key"].to_pylist()]
    return remaining_mix(
        mix, np.array(labels, object), table["num_tokens"].to_numpy(), np.array(uses, np.int64)
    )
