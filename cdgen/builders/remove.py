"""`cdgen remove`: a finished corpus without some documents and all that continues them, in a folder of its own.

Shards that hold none of them are hard links, or copies where there can be none; the others are written again without
them, every sample that stays as it was. All shards of a stage that lost a document get new names, since a name must
stand for one content; so does the mix. Nothing is trained or decoded, and the old corpus is only read.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cdgen.builders.finish import move_aside
from cdgen.builders.remix import (
    check_beside,
    describe_copy,
    kept_recipe,
)
from cdgen.builders.rest import Rest
from cdgen.builders.rest_of_mix import RestOfMix
from cdgen.corpus import Corpus, open_folder
from cdgen.errors import UsageError
from cdgen.progress import Progress, Quiet
from cdgen.recipes.load import RecipeFile
from cdgen.shards.index import read_index
from cdgen.shards.manifest import (
    AlsoInfo,
    Manifest,
    Mix,
    MixPart,
    Removed,
    SourceInfo,
    manifest_digest,
    write_manifest,
)
from cdgen.shards.receipts import shard_of
from cdgen.shards.removing import Hits, hits
from cdgen.shards.sample import check_document
from cdgen.storage import (
    Receipt,
    hold,
    remove_temporaries,
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
    check_beside(corpus, out, wanted)
    file = kept_recipe(corpus)
    found = _find(corpus, wanted, progress)
    _check_found(corpus, wanted, found)
    with hold(out, f"remove from {corpus.manifest.name}"):
        remove_temporaries(out)
        return _Removal(corpus, file, out, wanted, Rest(corpus, out, found), progress).run()


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


@dataclass(frozen=True, slots=True)
class _Removal:
    """One removal, step by step."""

    corpus: Corpus
    file: RecipeFile
    out: Path
    wanted: tuple[str, ...]
    rest: Rest
    progress: Progress

    def run(self) -> RemoveReport:
        digests = self.rest.new_digests()
        held = self.rest.write(digests, self.progress)
        mix = RestOfMix(self.corpus, self.file, self.out, self.wanted, self.rest, self.progress)
        manifest = mix.manifest(self._draft(held, digests), held)
        describe_copy(self.corpus, self.file, self.out, manifest)
        write_manifest(self.out, manifest)
        move_aside(self.out, manifest)
        return self._report(manifest, mix.num_gone)

    def _draft(self, held: dict[str, Receipt], digests: dict[str, str]) -> Manifest:
        """The manifest, as far as it is known before the mix."""
        old = self.corpus.manifest
        before = old.removed
        stages = {
            stage: digests[old.named(stage)[:8]]
            for stage in ("text", "decode")
            if old.named(stage)[:8] in digests
        }
        removed = Removed(
            documents=tuple(sorted({*self.wanted, *(before.documents if before else ())})),
            source=old.digest,
            names=(before.names if before else {}) | stages,
        )
        went = sum(self.rest.num_gone(*which) for which in _PLAIN)
        return replace(
            old,
            shards=tuple(map(shard_of, held.values())),
            also=tuple(self._also(info, held, digests) for info in old.also),
            sources=tuple(map(self._source, old.sources)),
            removed=removed,
            dropped=old.dropped | {REMOVED: old.dropped.get(REMOVED, 0) + went},
            totals={},
            digest="",
        )

    @staticmethod
    def _also(info: AlsoInfo, held: dict[str, Receipt], digests: dict[str, str]) -> AlsoInfo:
        if info.named[:8] not in digests:
            return info
        new = digests[info.named[:8]]
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
            its &= self.rest.found[entry.name].goes
            documents += int(its.sum())
            tokens += int(table["num_tokens"].to_numpy()[its].sum())
        return replace(
            source,
            num_documents=source.num_documents - documents,
            num_tokens=source.num_tokens - tokens,
        )

    def _report(self, manifest: Manifest, mixed_gone: int) -> RemoveReport:
        every = frozenset().union(*(one.copies for one in self.rest.found.values()))
        return RemoveReport(
            folder=str(self.out),
            source=self.corpus.where,
            manifest_digest=manifest.digest,
            documents=self.wanted,
            copies=tuple(sorted(every)),
            num_samples={
                "real": self.rest.num_gone("real") + self.rest.num_gone("real", "eval"),
                "synthetic": self.rest.num_gone("synthetic"),
                "mixed": mixed_gone,
            },
            num_rewritten=self.rest.num_rewritten,
            num_linked=self.rest.num_linked,
            num_emptied=self.rest.num_emptied,
            mix=manifest.mix,
            materialized=any(entry.kind == "mixed" for entry in manifest.shards),
        )
