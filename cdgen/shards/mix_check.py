"""What the mixed shards hold, against what the manifest says of the mix."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cdgen.shards.manifest import Manifest, Mix
from cdgen.shards.provenance import label_of
from cdgen.shards.sample import Sample, split_repeat

_TOLERANCE = 1e-9


@dataclass(slots=True)
class MixCheck:
    """Counts the mixed samples by the source they belong to."""

    manifest: Manifest | None = None
    tokens: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    passes: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Take in a mixed sample."""
        meta = sample.meta
        source = label_of(meta, self.manifest) if self.manifest else meta.source
        self.tokens[source] += meta.num_tokens
        self.documents[source] += 1
        self.passes[source] = max(self.passes[source], split_repeat(sample.key)[1])

    def join(self, other: "MixCheck") -> None:
        """Take in the samples of another shard."""
        self.tokens.update(other.tokens)
        self.documents.update(other.documents)
        for source, n in other.passes.items():
            self.passes[source] = max(self.passes[source], n)

    def faults(self) -> Iterator[str]:
        """What is wrong with the manifest's word on the mix."""
        if self.manifest is None or not self.documents:
            return
        mix = self.manifest.mix
        if mix is None:
            yield "there are mixed shards, but the manifest has no mix"
            return
        real = self.tokens["real"]
        for source, found in (("real", real), ("synthetic", self.tokens.total() - real)):
            given = getattr(mix, f"num_{source}_tokens")
            if found != given:
                yield f"the mixed shards hold {found} {source} tokens, not {given}"
        counts = self.tokens if mix.unit == "tokens" else self.documents
        realised = (counts.total() - counts["real"]) / max(counts.total(), 1)
        if not abs(realised - mix.realised) <= _TOLERANCE:
            yield f"the realised share is {realised!r}, {mix.realised!r} in the manifest"
        yield from self._part_faults(mix, counts)

    def _part_faults(self, mix: Mix, counts: Counter[str]) -> Iterator[str]:
        named = {part.source for part in mix.parts}
        for source in sorted(counts):
            if mix.parts and counts[source] and source not in named:
                yield f"the mixed shards hold text of {source}, which is not a part of the mix"
        for part in mix.parts:
            found = (
                self.documents[part.source],
                self.tokens[part.source],
                self.passes[part.source],
            )
            given = (part.num_documents, part.num_tokens, part.num_passes)
            if found != given:
                yield (
                    f"of {part.source} the mixed shards hold {found[0]} documents, {found[1]} tokens in {found[2]} "
                    f"passes; {given[0]}, {given[1]} and {given[2]} in the manifest"
                )
            share = counts[part.source] / max(counts.total(), 1)
            if not abs(share - part.realised) <= _TOLERANCE:
                yield f"the share of {part.source} is {share!r}, {part.realised!r} in the manifest"
