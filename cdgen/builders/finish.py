"""The end of a build: what describes the corpus, then the manifest, then what no longer belongs is moved aside."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from cdgen import __version__
from cdgen.builders.describe import describe
from cdgen.builders.mixing import Mixed, mix_info
from cdgen.builders.model_stage import Model, Models
from cdgen.builders.numeric_class import decoding_class, training_class
from cdgen.builders.prefixes import Prefixes
from cdgen.builders.stages import Build, TextRecord
from cdgen.decode import ENGINE_VERSION
from cdgen.errors import BuildError
from cdgen.recipes.addresses import address_of
from cdgen.shards.layout import shard_path
from cdgen.shards.licensing import corpus_license
from cdgen.shards.manifest import AlsoInfo, Manifest, SourceInfo, write_manifest
from cdgen.shards.receipts import shard_of
from cdgen.storage import Receipt, atomic_write, canonical_json, sha256_file
from cdgen.storage.places import ASIDE, Folder

PACKAGES = ("numpy", "pyarrow", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the stages of a build made."""

    text: TextRecord
    prefixes: Prefixes
    models: Models
    synthetic: Sequence[Receipt]
    also: Sequence[tuple[AlsoInfo, Sequence[Receipt]]]
    mixed: Mixed

    @property
    def receipts(self) -> list[Receipt]:
        """All shards, in the manifest's order."""
        also = (receipt for _, held in self.also for receipt in held)
        return [*self.text.receipts, *self.synthetic, *also, *self.mixed.shards]


def finish(work: Build, made: Made) -> Manifest:
    """Write everything that describes the corpus; the manifest last.

    Raises:
        BuildError: a shard is not there any more.
    """
    classes = {canonical_json(kept.numeric_class): kept.numeric_class for kept in made.synthetic}
    also = tuple(info for info, _ in made.also)
    manifest = Manifest(
        name=work.recipe.name,
        digests=asdict(work.digests),
        engine=str(ENGINE_VERSION),
        shards=tuple(map(shard_of, made.receipts)),
        mix=mix_info(work.recipe, made.mixed.result),
        also=also,
        filters=made.mixed.filters,
        sources=tuple(
            _source(work, made.text, number) for number in range(len(work.recipe.text.sources))
        ),
        dropped=_dropped(made) | made.mixed.dropped,
        numeric_classes=tuple(classes[key] for key in sorted(classes)),
        **asdict(corpus_license(work.recipe, also)),
    )
    lock = json.dumps(
        _lock(work, made.models, list(classes.values())),
        indent=1,
        sort_keys=True,
        ensure_ascii=False,
    )
    atomic_write(work.out / "recipe.yaml", work.file.text.encode())
    atomic_write(work.out / "recipe.lock.json", lock.encode() + b"\n")
    describe(work.out, manifest, work.recipe)
    _check_there(work.out, made)
    write_manifest(work.out, manifest)
    move_aside(work.out, manifest)
    return manifest


def _check_there(out: Path, made: Made) -> None:
    """A copy of a job that came late, with other bytes, may have put one aside in the very last moment."""
    folder = Folder(out)
    gone = next((kept.name for kept in made.receipts if not folder.has(kept)), None)
    if gone is not None:
        raise BuildError(
            f"{shard_path(out, gone)}: is not there any more as it was made, or its index; see {folder.where}/{ASIDE}; "
            "no manifest was written, and the same command makes it anew"
        )


def _source(work: Build, text: TextRecord, number: int) -> SourceInfo:
    source = work.recipe.text.sources[number]
    counts = text.sources.get(source.name, {})
    return SourceInfo(
        name=source.name,
        license=source.license,
        num_documents=counts.get("documents", 0),
        num_tokens=counts.get("tokens", 0),
    )


def _dropped(made: Made) -> dict[str, int]:
    """By reason: chunks of the prefix split that were too short, parts of rows that had no text, copies left out."""
    dropped = Counter(prefixes_too_short=made.prefixes.num_too_short)
    for receipt in made.synthetic:
        dropped["empty_parts"] += receipt.counts.get("empty_parts", 0)
    if made.text.counts.get("left_out"):
        dropped["copies_of_kept_documents"] = made.text.counts["left_out"]
    return dict(dropped)


def _lock(work: Build, models: Models, decoded: Sequence[dict[str, str]]) -> dict[str, object]:
    """Every resolved input, by content: no path of this machine, no time, no host."""
    recipe, hashes = work.recipe, work.inputs.hashes
    used: dict[str, tuple[Model, object]] = {"expert": (models.expert, recipe.expert)}
    if models.amateur is not None:
        used["amateur"] = (models.amateur, recipe.amateur)
    for number, pair in enumerate(zip(models.further, recipe.decode.further, strict=True), 1):
        used[f"further-{number}"] = pair
    # Whoever decoded: on a cluster that was not this machine.
    classes = {"decoding": decoded[0] if len(decoded) == 1 else decoding_class(recipe)}
    for name, train in (
        ("training", recipe.expert.train),
        ("amateur_training", recipe.amateur_training()),
    ):
        if train is not None:
            classes[name] = training_class(train)
    return {
        "format": 1,
        "cdgen": __version__,
        "engine": ENGINE_VERSION,
        "digests": asdict(work.digests),
        "sources": {
            source.name: {
                "sha256": hashes.sources[source.name],
                "license": source.license,
                **_named(source),
            }
            for source in recipe.text.sources
        },
        "tokenizer": {
            "sha256": sha256_file(work.out / "tokenizer/tokenizer.json"),
            **_named(recipe.tokenizer),
        },
        "models": {
            role: {"step": model.step, "sha256": model.sha256, **_named(given)}
            for role, (model, given) in used.items()
        },
        "also": [asdict(corpus.info) for corpus in work.inputs.also],
        **_evaluation(work),
        "packages": {name: version(name) for name in PACKAGES},
        "numeric_class": classes,
    }


def _evaluation(work: Build) -> dict[str, object]:
    sets = {one.name: {"sha256": one.sha256} for one in work.inputs.evaluation}
    return {"evaluation": sets} if sets else {}


def _named(given: object) -> dict[str, object]:
    """What a source, tokenizer or model was called on the Hub, with its commit; or its address in an object store."""
    hub, address = getattr(given, "hf", None), address_of(given)
    if address:
        return {"address": address}
    return {} if hub is None else {"hub": hub.model_dump(mode="json")}


def move_aside(out: Path, manifest: Manifest) -> None:
    """Shards and verdicts of earlier digests go to work/old/, with their indexes and receipts."""
    keep = {shard.name.removesuffix(".tar") for shard in manifest.shards}
    if manifest.filters is not None:
        keep |= {file.name.removesuffix(".parquet") for file in manifest.filters.files()}
    for path in (
        *out.glob("data/*/*.tar"),
        *out.glob("index/*.parquet"),
        *out.glob("work/receipts/*.tar.json"),
    ):
        if path.name.partition(".")[0] not in keep:
            target = out / "work/old" / path.relative_to(out)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
