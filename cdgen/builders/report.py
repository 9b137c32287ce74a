"""What a build made, in numbers: printed at its end, kept, and printed again by a repeated build."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cdgen.builders.finish import Made
from cdgen.builders.model_stage import Model
from cdgen.builders.preflight import Measured, findings, read_measured
from cdgen.builders.stages import Build
from cdgen.errors import BuildError
from cdgen.shards.layout import shard_path
from cdgen.shards.manifest import Manifest, MixPart
from cdgen.shards.reader import samples
from cdgen.shards.sample import Sample
from cdgen.storage import Receipt, atomic_write, parse_json, reading, typed
from cdgen.text.tokenizer import Tokenizer

REPORT = Path("work/report.json")
SAMPLE_CHARACTERS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A model on the eval split; step is 0 for a given model, and the measures are None without an eval split."""

    step: int
    perplexity: float | None
    bits_per_byte: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a build made.

    Attributes:
        decode_tokens_per_s: tokens drawn per second, in the run that decoded them; 0 when nothing was decoded.
        build_s: seconds of the run that wrote the manifest.
        num_synthetic_documents, num_synthetic_tokens: of this corpus's own decoding.
        amateur: of one with weights or counts of its own; None for the expert, weakened.
        num_mixed_documents, num_mixed_tokens: of the mix, whether it is written or not.
        parts: the sources of the mix, each with its share, its bound and its passes.
        dropped: documents and pieces that are not mixed, by reason.
        sample_prefix, sample_text: one synthetic document: what was given, and what was drawn.
        preflight: what the look before decoding saw; None without one.
        preflight_findings: what it found dead or degenerate.
        up_to_date: true when there was nothing to do.
    """

    folder: str
    manifest_digest: str
    expert: Quality
    amateur: Quality | None
    num_real_documents: int
    num_real_tokens: int
    num_synthetic_documents: int
    num_synthetic_tokens: int
    num_mixed_documents: int
    num_mixed_tokens: int
    num_shards: int
    nominal_share: float
    realised_share: float
    num_prefixes: int
    num_prefixes_too_short: int
    num_spare_synthetic_tokens: int
    decode_tokens_per_s: float
    build_s: float
    sample_key: str
    sample_prefix: str
    sample_text: str
    unit: str = "tokens"
    materialized: bool = True
    amateur_kind: str = "none"
    parts: tuple[MixPart, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    preflight: Measured | None = None
    preflight_findings: tuple[str, ...] = ()
    up_to_date: bool = False


def make_report(
    work: Build,
    made: Made,
    manifest: Manifest,
    *,
    decode_tokens_per_s: float,
    build_s: float,
) -> Report:
    """Gather the numbers of a finished build; a run that decoded nothing keeps the earlier run's speed."""
    real, mix = manifest.totals["real-train"], made.mixed.result
    sample = _first_sample(work.out, made.synthetic)
    head = _prefix_text(work.out, sample)
    earlier = read_report(work.out)
    seen, found = _preflight(work)
    return Report(
        folder=work.place.where,
        manifest_digest=manifest.digest,
        expert=_quality(made.models.expert),
        amateur=_quality(made.models.amateur) if made.models.amateur else None,
        amateur_kind=work.recipe.amateur.kind,
        num_real_documents=real["num_samples"],
        num_real_tokens=real["num_tokens"],
        num_synthetic_documents=sum(receipt.num_samples for receipt in made.synthetic),
        num_synthetic_tokens=sum(receipt.num_tokens for receipt in made.synthetic),
        num_mixed_documents=mix.num_documents,
        num_mixed_tokens=mix.num_real_tokens + mix.num_synthetic_tokens,
        num_shards=len(manifest.shards),
        nominal_share=manifest.mix.nominal if manifest.mix else 0.0,
        realised_share=mix.realised,
        num_prefixes=len(made.prefixes.kept),
        num_prefixes_too_short=made.prefixes.num_too_short,
        num_spare_synthetic_tokens=mix.num_unused_synthetic_tokens,
        decode_tokens_per_s=decode_tokens_per_s
        or (earlier.decode_tokens_per_s if earlier else 0.0),
        build_s=build_s,
        sample_key=sample.key if sample else "",
        sample_prefix=head,
        sample_text=sample.text[len(head) : SAMPLE_CHARACTERS] if sample else "",
        unit=mix.unit,
        materialized=work.recipe.mix.materialize,
        parts=mix.parts,
        dropped=manifest.dropped,
        preflight=seen,
        preflight_findings=found,
    )


def _preflight(work: Build) -> tuple[Measured | None, tuple[str, ...]]:
    """What was measured before decoding, and how it stands against the recipe's limits."""
    limits = work.recipe.preflight
    seen = None if limits is None else read_measured(work.out, work.digests.decode)
    if limits is None or seen is None:
        return None, ()
    return seen, tuple(findings(seen, limits, work.recipe.decode))


def write_report(out: Path, report: Report) -> None:
    """Keep a report in work/."""
    atomic_write(out / REPORT, json.dumps(asdict(report), indent=1).encode())


def read_report(out: Path) -> Report | None:
    """The kept report, as of a build that found nothing to do; None when there is none that can be read."""
    path = out / REPORT
    if not path.is_file():
        return None
    try:
        with reading(path):
            report: Report = typed(Report, parse_json(path.read_bytes(), path), str(path))
    except BuildError:
        return None
    return replace(report, folder=str(out), up_to_date=True)


def _quality(model: Model) -> Quality:
    return Quality(step=model.step, perplexity=model.perplexity, bits_per_byte=model.bits_per_byte)


def _first_sample(out: Path, synthetic: Sequence[Receipt]) -> Sample | None:
    return next(
        (sample for receipt in synthetic for sample in samples(shard_path(out, receipt.name))), None
    )


def _prefix_text(out: Path, sample: Sample | None) -> str:
    if sample is None or not sample.meta.prefix_tokens:
        return ""
    return Tokenizer.load(out / "tokenizer").decode([sample.ids[: sample.meta.prefix_tokens]])[0]
