"""`cdgen mix`: another mix of a finished corpus, in a folder of its own. Nothing is read again, trained or decoded.

The new corpus has the real and synthetic shards of the old one (hard links, or copies where there can be none), its
own verdicts, mixed shards and manifest. They are what a build of the same recipe with the same changes would make.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from cdgen.builders.bring import bring
from cdgen.builders.describe import LOCK, describe
from cdgen.builders.evaluation import evaluation, known_evaluation
from cdgen.builders.finish import move_aside
from cdgen.builders.mixing import Ingredients, Mixed, beside_of, mix_info, mix_stage
from cdgen.builders.run import check_folder, check_removed
from cdgen.corpus import Corpus, open_folder
from cdgen.errors import BuildError, UsageError
from cdgen.progress import Progress, Quiet
from cdgen.recipes.digests import mix_digest
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.shards.layout import parse_name
from cdgen.shards.licensing import corpus_license
from cdgen.shards.manifest import Manifest, ManifestShard, MixPart, write_manifest
from cdgen.shards.receipts import shard_of
from cdgen.shards.verdicts import REASONS
from cdgen.storage import (
    Receipt,
    atomic_write,
    hold,
    parse_json,
    reading,
    remove_temporaries,
    typed,
)

RECIPE = "recipe.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixReport:
    """What `cdgen mix` made.

    Attributes:
        source: the corpus that was mixed anew.
        parts: the sources of the mix, each with its share, its bound and its passes.
        dropped: documents and pieces that are not mixed, by reason.
    """

    folder: str
    source: str
    manifest_digest: str
    num_shards: int
    num_mixed_documents: int
    num_mixed_tokens: int
    nominal_share: float
    realised_share: float
    unit: str
    materialized: bool
    parts: tuple[MixPart, ...]
    dropped: dict[str, int]


def mix(
    folder: str | Path,
    out: str | Path,
    *,
    synthetic: float,
    seed: int | None = None,
    size: str | int | None = None,
    repeat: str | None = None,
    materialize: bool | None = None,
    progress: Progress | None = None,
) -> MixReport:
    """Mix a finished corpus anew.

    Args:
        folder: the corpus; it is only read.
        out: the new corpus's folder. Doing the same again finishes what was interrupted.
        synthetic, seed, size, repeat, materialize: as in a recipe's mix section; what is None stays as it is.
        progress: told of every long step.

    Raises:
        UsageError: a wrong folder or value, before anything is written.
        BuildError: the corpus is damaged, or its text is too short for this mix.
    """
    corpus, out = open_folder(folder), Path(out)
    changes = {
        "synthetic": synthetic,
        "seed": seed,
        "size": size,
        "repeat": repeat,
        "materialize": materialize,
    }
    file = _changed_recipe(corpus, {name: to for name, to in changes.items() if to is not None})
    check_beside(corpus, out)
    with hold(out, f"mix {corpus.manifest.name}"):
        remove_temporaries(out)
        return _mix(corpus, file, out, progress or Quiet())


def check_beside(corpus: Corpus, out: Path, gone: Iterable[str] = ()) -> None:
    """Refuse an output folder that holds something else, or this very corpus. Raises UsageError.

    Args:
        corpus: that is read.
        out: the folder to write.
        gone: documents that are taken out on the way.
    """
    source, target = corpus.folder.resolve(), out.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise UsageError(
            f"{out}: would change {corpus.where}; choose a folder beside it with --out"
        )
    check_folder(out)
    earlier = corpus.manifest.removed.documents if corpus.manifest.removed else ()
    check_removed(out, {*earlier, *gone})


def kept_recipe(corpus: Corpus) -> RecipeFile:
    """The corpus's recipe; UsageError if it is not the one that the corpus was mixed by."""
    path, manifest = corpus.folder / RECIPE, corpus.manifest
    kept = load_recipe(path)
    also = len(manifest.also) == len(kept.recipe.mix.also)
    mixed = (manifest.removed.mix if manifest.removed else "") or manifest.digests.get("mix")
    if not also or digest_of(kept, manifest) != mixed:
        raise UsageError(
            f"{path}: is not the recipe that this corpus was mixed by, so the rest of it cannot be trusted; "
            "get the corpus again, or build the recipe"
        )
    return kept


def _changed_recipe(corpus: Corpus, changes: dict[str, Any]) -> RecipeFile:
    """The corpus's recipe with another mix, after checking that it is the corpus's recipe."""
    kept_recipe(corpus)
    settings = [f"mix.{name}={_yaml(to)}" for name, to in changes.items()]
    return load_recipe(corpus.folder / RECIPE, settings)


def _yaml(value: Any) -> str:
    """A value as YAML reads it: numbers without an exponent, which YAML 1.1 takes for text."""
    return f"{Decimal(str(value)):f}" if isinstance(value, float) else str(value).lower()


def digest_of(file: RecipeFile, manifest: Manifest) -> str:
    """The mix digest that a recipe has on the shards of a corpus."""
    return mix_digest(
        file.recipe,
        text=manifest.named("text"),
        decode=manifest.named("decode"),
        also=[info.corpus for info in manifest.also],
        evaluation=[one.sha256 for one in known_evaluation(manifest)],
    )


def _mix(corpus: Corpus, file: RecipeFile, out: Path, progress: Progress) -> MixReport:
    digest = digest_of(file, corpus.manifest)
    held = _bring(corpus, out, progress)
    _bring_findings(corpus, out)
    ingredients = ingredients_of(file, corpus.manifest, held)
    if not ingredients.real:
        raise BuildError(f"{corpus.folder}: holds no real train text, so there is nothing to mix")
    with beside_of(out, file.recipe, ingredients) as beside:
        made = mix_stage(out, file.recipe, digest, ingredients, beside=beside, progress=progress)
    manifest = _manifest(corpus.manifest, file, digest, [*held.values(), *made.shards], made)
    describe_copy(corpus, file, out, manifest)
    write_manifest(out, manifest)
    move_aside(out, manifest)
    return _report(corpus, out, file, manifest, made)


def ingredients_of(file: RecipeFile, manifest: Manifest, held: dict[str, Receipt]) -> Ingredients:
    """What is mixed, of the real and synthetic shards of a corpus, by name."""
    return Ingredients(
        real=_of(held, f"real-train-{manifest.named('text')[:8]}-"),
        synthetic=_of(held, f"synthetic-train-{manifest.named('decode')[:8]}-"),
        also=[(info, _of(held, f"synthetic-train-{info.named[:8]}-")) for info in manifest.also],
        evaluation=evaluation(
            file.recipe,
            known_evaluation(manifest),
            text=manifest.named("text"),
            decode=manifest.named("decode"),
            also=[info.corpus for info in manifest.also],
        ),
    )


def _of(held: dict[str, Receipt], start: str) -> list[Receipt]:
    """The shards whose names begin so, in the order of their numbers."""
    names = [name for name in held if name.startswith(start)]
    return [held[name] for name in sorted(names, key=lambda name: parse_name(name)[3])]


def _bring(corpus: Corpus, out: Path, progress: Progress) -> dict[str, Receipt]:
    """Every real and synthetic shard, by name, in order."""
    entries = [entry for entry in corpus.manifest.shards if entry.kind != "mixed"]
    held = {}
    with progress.stage("bring shards", total=len(entries), unit="shard") as advance:
        for entry in entries:
            digest = named_digest(entry, corpus.manifest)
            held[entry.name] = bring(corpus.folder, entry, out, digest=digest)
            advance(1)
    return held


def _bring_findings(corpus: Corpus, out: Path) -> None:
    """What the search for evaluation sets found: the shards are the same, and the sets need not be at hand."""
    filters = corpus.manifest.filters
    if filters is not None and filters.contamination is not None:
        path = corpus.folder / "index" / filters.contamination.findings.name
        with reading(path):
            atomic_write(out / "index" / path.name, path.read_bytes())


def named_digest(entry: ManifestShard, manifest: Manifest) -> str:
    """The digest of which a shard's name has the first 8 digits."""
    every = [
        *(manifest.named(stage) for stage in ("text", "decode", "mix")),
        *(info.named for info in manifest.also),
    ]
    short = parse_name(entry.name)[2]
    found = next((digest for digest in every if digest.startswith(short)), None)
    if found is None:
        raise BuildError(f"{entry.name}: belongs to no digest of its manifest; run cdgen verify")
    return found


def _manifest(
    old: Manifest, file: RecipeFile, digest: str, shards: list[Receipt], made: Mixed
) -> Manifest:
    dropped = {reason: count for reason, count in old.dropped.items() if reason not in REASONS}
    return replace(
        old,
        digests={**old.digests, "mix": digest},
        removed=replace(old.removed, mix="") if old.removed else None,
        shards=tuple(map(shard_of, shards)),
        mix=mix_info(file.recipe, made.result),
        filters=made.filters,
        dropped=dropped | made.dropped,
        totals={},
        digest="",
        **asdict(corpus_license(file.recipe, old.also)),
    )


def describe_copy(corpus: Corpus, file: RecipeFile, out: Path, manifest: Manifest) -> None:
    """Tokenizer, recipe and lock, card and croissant.json."""
    for path in sorted((corpus.folder / "tokenizer").glob("*")):
        with reading(path):
            atomic_write(out / "tokenizer" / path.name, path.read_bytes())
    atomic_write(out / RECIPE, file.text.encode())
    lock = corpus.folder / LOCK
    if lock.is_file():
        with reading(lock):
            facts = typed(dict[str, Any], parse_json(lock.read_bytes(), lock), str(lock))
        facts["digests"] = dict(manifest.digests)
        text = json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False)
        atomic_write(out / LOCK, text.encode() + b"\n")
    describe(out, manifest, file.recipe)


def _report(
    corpus: Corpus, out: Path, file: RecipeFile, manifest: Manifest, made: Mixed
) -> MixReport:
    result = made.result
    return MixReport(
        folder=str(out),
        source=str(corpus.folder),
        manifest_digest=manifest.digest,
        num_shards=len(manifest.shards),
        num_mixed_documents=result.num_documents,
        num_mixed_tokens=result.num_real_tokens + result.num_synthetic_tokens,
        nominal_share=manifest.mix.nominal if manifest.mix else 0.0,
        realised_share=result.realised,
        unit=result.unit,
        materialized=file.recipe.mix.materialize,
        parts=result.parts,
        dropped=manifest.dropped,
    )
