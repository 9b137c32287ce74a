"""The mix of a corpus without some documents: cut where it was written, made anew where it was not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdgen.builders.evaluation import Evaluation
from cdgen.builders.mixing import Filtered, beside_of, filter_stage, mix_info, mix_stage
from cdgen.builders.remix import digest_of, ingredients_of
from cdgen.builders.rest import Rest
from cdgen.corpus import Corpus
from cdgen.mixing.remaining import remaining_mix
from cdgen.progress import Progress
from cdgen.recipes.load import RecipeFile
from cdgen.shards.findings import FINDING_SCHEMA, read_findings, write_findings
from cdgen.shards.index import read_index
from cdgen.shards.layout import parse_name
from cdgen.shards.manifest import Manifest, ManifestShard, Mix
from cdgen.shards.provenance import label_of
from cdgen.shards.receipts import shard_of
from cdgen.shards.removing import digest_without
from cdgen.shards.sample import Meta, split_repeat
from cdgen.shards.verdicts import REASONS, read_verdicts
from cdgen.storage import Receipt

_COLUMNS = ("key", "source", "decode", "num_tokens")


@dataclass(slots=True)
class RestOfMix:
    """What is left of the mix of a corpus.

    Attributes:
        corpus, file: it, and its recipe.
        out: the folder that the rest is written to.
        wanted: the documents that go.
        rest: of its shards.
        progress: told of every long step.
        num_gone: mixed samples that went.
    """

    corpus: Corpus
    file: RecipeFile
    out: Path
    wanted: tuple[str, ...]
    rest: Rest
    progress: Progress
    num_gone: int = 0

    def manifest(self, draft: Manifest, held: dict[str, Receipt]) -> Manifest:
        """The manifest with the mix of what is left, after writing it.

        Args:
            draft: the manifest, as far as it is known before.
            held: the real and synthetic shards that are left, by name.
        """
        mixed = [entry for entry in self.corpus.manifest.shards if entry.kind == "mixed"]
        return self._cut(draft, held, mixed) if mixed else self._anew(draft, held)

    def _cut(
        self, draft: Manifest, held: dict[str, Receipt], entries: list[ManifestShard]
    ) -> Manifest:
        """The mixed shards without the documents, and without what the filters drop now that others are gone."""
        old = self.corpus.manifest
        digest = digest_without(old.digests["mix"], self.wanted)
        ingredients = ingredients_of(self.file, draft, held)
        self._findings(ingredients.evaluation)
        recipe = self.file.recipe
        with beside_of(self.out, recipe, ingredients) as beside:
            filtered = filter_stage(
                self.out, recipe, digest, ingredients, beside=beside, progress=self.progress
            )
        dropped = self._dropped(filtered, digest)
        entries = sorted(entries, key=lambda entry: parse_name(entry.name)[3])
        goes, left = {}, []
        for entry in entries:
            table = read_index(self.corpus.files.index(entry), _COLUMNS)
            late = [split_repeat(key)[0] in dropped for key in table["key"].to_pylist()]
            goes[entry.name] = self.rest.found[entry.name].goes | np.array(late, bool)
            left.append(table.filter(pa.array(~goes[entry.name])))
        self.num_gone = sum(int(mask.sum()) for mask in goes.values())
        shards = self.rest.group(entries, goes, digest)
        assert old.mix is not None, "it has mixed shards"
        mix = _remaining(old, old.mix, pa.concat_tables(left))
        assert draft.removed is not None
        removed = replace(draft.removed, mix=digest_of(self.file, draft))
        return self._with_mix(replace(draft, removed=removed), digest, mix, filtered, shards)

    def _anew(self, draft: Manifest, held: dict[str, Receipt]) -> Manifest:
        """A mix that is not written has no order to keep: it is what the recipe makes of what is left."""
        digest = digest_of(self.file, draft)
        ingredients = ingredients_of(self.file, draft, held)
        self._findings(ingredients.evaluation)
        recipe = self.file.recipe
        with beside_of(self.out, recipe, ingredients) as beside:
            made = mix_stage(
                self.out, recipe, digest, ingredients, beside=beside, progress=self.progress
            )
        mix = mix_info(recipe, made.result)
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
        gone = self.rest.gone()
        rows = [
            row | {"shard": self.rest.moved[row["shard"]]}
            for row in table.to_pylist()
            if (row["shard"], row["key"]) not in gone
        ]
        rows.sort(
            key=lambda row: (row["source"], row["shard"])
        )  # samples and sets stay in their order
        write_findings(self.out, pa.Table.from_pylist(rows, schema=FINDING_SCHEMA), wanted.digest)


def _remaining(manifest: Manifest, mix: Mix, table: pa.Table) -> Mix:
    """The mix of the samples in a table of `_COLUMNS`."""
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
