"""A build from recipe to manifest: every stage in order, each skipped where its result is already there.

Text → models → jobs → mixed shards → manifest. Nothing later writes to anything earlier; the manifest is written
last, so a folder without one is an unfinished build, and doing the same again finishes it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cdgen import __version__
from cdgen.builders.also import TOKENIZER, bring_also, check_also, check_tokenizer
from cdgen.builders.decoding import decode_stage
from cdgen.builders.destination import begin, check_address, destination, fetch_all, held
from cdgen.builders.evaluation import evaluation
from cdgen.builders.events import Recorded
from cdgen.builders.finish import Made, finish
from cdgen.builders.inputs import resolve
from cdgen.builders.mixing import Ingredients, beside_of, mix_stage
from cdgen.builders.model_stage import model_stage, note_models, untrained
from cdgen.builders.needs import Amount, check_space
from cdgen.builders.numeric_class import decoding_class
from cdgen.builders.prefixes import Prefixes, read_prefixes
from cdgen.builders.preflight import LookAt, preflight
from cdgen.builders.preflight import check_possible as check_preflight
from cdgen.builders.profile import Profile
from cdgen.builders.reach import check_reachable
from cdgen.builders.report import Report, make_report, read_report, write_report
from cdgen.builders.sending import Sending, send_rest
from cdgen.builders.stages import (
    Build,
    TextRecord,
    known_tokenizer,
    mapped,
    open_text,
    prefix_table,
    text_stage,
    tokenizer_stage,
)
from cdgen.builders.worker import Context
from cdgen.decode import ENGINE_VERSION
from cdgen.errors import BuildError, UsageError
from cdgen.mixing.order import check_possible
from cdgen.progress import Progress, Quiet
from cdgen.recipes.digests import digests
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.shards.layout import MANIFEST
from cdgen.shards.licensing import corpus_license
from cdgen.shards.manifest import AlsoInfo, read_manifest
from cdgen.storage import Receipt, remove_temporaries, sha256_file
from cdgen.storage.cache import default_cache
from cdgen.storage.places import Folder, clear_staging
from cdgen.text.tokenizer import Tokenizer

_COPIED_BY_RAY = "_ray_pkg_"


def build(
    recipe: str | Path | RecipeFile,
    out: str | Path | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    accept_class: bool = False,
    profile: Profile | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Build a recipe's corpus, or finish a build that was interrupted.

    Args:
        recipe: a checked recipe, or the path of one.
        out: the corpus folder, or s3:// or gs:// as text; shards/<recipe name> by default.
        cache: where tokenizers and trained weights are kept; $CDGEN_CACHE by default.
        progress: told of every long step.
        accept_class: go on with shards that another numeric class decoded.
        profile: where it is built; in this process by default.
        clock: seconds, for the speeds in the report.

    Raises:
        UsageError: a wrong recipe or folder, before anything is written.
        BuildError: a build that could not be finished; doing the same again goes on from there.
    """
    file = recipe if isinstance(recipe, RecipeFile) else load_recipe(recipe)
    if profile is not None:
        out, cache = profile.placed(file.recipe.name, out, cache)
    work = open_build(file, out, cache, progress)
    if isinstance(work.place, Folder) and not work.out.exists():
        check_cluster(work, profile)  # and nothing is written
    with held(work, f"build {file.recipe.name}") as work:
        remove_temporaries(work.out)
        clear_staging(work.out)
        begin(work)
        check_removed(work.out)
        return _finished(work) or _build(
            work, accept_class=accept_class, profile=profile, clock=clock
        )


def open_build(
    file: RecipeFile,
    out: str | Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Build:
    """Resolve a recipe's inputs and digests; reads and hashes files, writes nothing.

    Raises:
        UsageError: an input is missing, or the output folder holds something that is not a corpus.
    """
    folder, place = destination(out, file.recipe.name, cache)
    inputs = resolve(file, cache, progress)
    check_folder(folder)
    check_address(place)
    check_removed(folder)
    work = Build(
        file=file,
        inputs=inputs,
        digests=digests(file.recipe, inputs.hashes, engine=ENGINE_VERSION),
        out=folder,
        place=place,
        cache=cache or default_cache(),
        progress=progress or Quiet(),
    )
    check_also(inputs.also, folder, work.digests.decode)
    tokenizer = known_tokenizer(work)
    if tokenizer is not None:
        check_tokenizer(inputs.also, sha256_file(tokenizer))
    return work


def check_folder(out: Path) -> None:
    """Refuse an output folder that holds something else. Raises UsageError."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; choose another folder with --out")
    if any(part.startswith(_COPIED_BY_RAY) for part in out.absolute().parts):
        raise UsageError(
            f"{out}: lies in the copy of a working directory that Ray made for a job, and deletes after it; "
            "choose a folder that every node sees, or an address such as s3://bucket/name, with --out"
        )
    if (
        out.is_dir()
        and any(out.iterdir())
        and not (out / "work").is_dir()
        and not (out / "manifest.json").is_file()
    ):
        raise UsageError(
            f"{out}: holds files that are not a cdgen corpus; choose another folder with --out"
        )


def check_cluster(work: Build, profile: Profile | None) -> None:
    """Refuse a cluster that is not there, where text or training come before it: they may take hours.

    Raises:
        UsageError: nobody answers at the profile's address.
    """
    if profile is not None and profile.engine == "ray" and (not open_text(work) or untrained(work)):
        check_reachable(profile)


def check_removed(out: Path, gone: Iterable[str] = ()) -> None:
    """Refuse to write over a corpus that documents were taken out of, unless these `gone` are among them.

    Raises:
        UsageError: some would come back.
    """
    if not (out / MANIFEST).is_file():
        return
    removed = read_manifest(out).removed
    back = set(removed.documents if removed else ()) - set(gone)
    if back:
        raise UsageError(
            f"{out}: cdgen remove took documents out of this corpus, and {len(back):,} of them would come back; "
            "choose another folder with --out"
        )


def _finished(work: Build) -> Report | None:
    """The report of this very corpus, if it is complete."""
    report = read_report(work.out)
    if report is None or not (work.out / "manifest.json").is_file():
        return None
    manifest = read_manifest(work.out)
    if manifest.digests.get("mix") != work.digests.mix or manifest.digest != report.manifest_digest:
        return None
    told = asdict(corpus_license(work.recipe, [also.info for also in work.inputs.also]))
    if any(getattr(manifest, name) != value for name, value in told.items()):
        return None  # everything is there, and is described anew
    receipts = work.place.receipts()
    for shard in manifest.shards:
        receipt = receipts.get(shard.name)
        if receipt is None or receipt.sha256 != shard.sha256:
            return None
    return replace(report, folder=work.place.where)


def _build(
    work: Build, *, accept_class: bool, profile: Profile | None, clock: Callable[[], float]
) -> Report:
    log = Recorded(work.progress, work.out)
    log.event("build", recipe=work.recipe.name, digests=asdict(work.digests), cdgen=__version__)
    with log.failing():
        return _every_stage(
            replace(work, progress=log),
            log,
            accept_class=accept_class,
            profile=profile,
            clock=clock,
        )


def _every_stage(
    work: Build,
    log: Recorded,
    *,
    accept_class: bool,
    profile: Profile | None,
    clock: Callable[[], float],
) -> Report:
    started = clock()
    check_cluster(work, profile)
    ready = _prepared(work)
    ingredients = _ingredients(work, ready)
    drawn = _drawn(work, len(ready.prefixes.kept))
    with (
        Sending(work) as sending,
        beside_of(work.out, work.recipe, ingredients, drawn, profile) as beside,
    ):
        sending.begin(*ready.made)
        models = model_stage(work, ready.text, ready.tokenizer)
        note_models(work, models)

        def on_shard(receipt: Receipt) -> None:
            sending.look()
            beside.begin(receipt)

        synthetic, tokens_per_s = decode_stage(
            work,
            _context(work, ready),
            models,
            log,
            accept_class=accept_class,
            clock=clock,
            on_shard=on_shard,
            before=_preflight(work, ready.text, ready.prefixes, log),
            profile=profile,
        )
        fetch_all(work, synthetic)
        beside.begin(*synthetic)
        mixed = mix_stage(
            work.out,
            work.recipe,
            work.digests.mix,
            replace(ingredients, synthetic=synthetic),
            beside=beside,
            on_shard=sending.begin,
            progress=work.progress,
        )
    made = Made(
        text=ready.text,
        prefixes=ready.prefixes,
        models=models,
        synthetic=synthetic,
        also=ready.also,
        mixed=mixed,
    )
    manifest = finish(work, made)
    report = make_report(
        work, made, manifest, decode_tokens_per_s=tokens_per_s, build_s=clock() - started
    )
    write_report(work.out, report)
    send_rest(work, manifest)
    log.event("built", manifest=manifest.digest)
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What is there before any model is: text, tokenizer, prefixes, other corpora."""

    tokenizer: Tokenizer
    text: TextRecord
    prefixes: Prefixes
    also: Sequence[tuple[AlsoInfo, Sequence[Receipt]]]

    @property
    def made(self) -> list[Receipt]:
        """All shards that are there."""
        return [*self.text.receipts, *(kept for _, held in self.also for kept in held)]


def _prepared(work: Build) -> _Prepared:
    """Everything before training and decoding. BuildError: these cannot give what is asked for."""
    tokenizer = tokenizer_stage(work)
    check_tokenizer(work.inputs.also, sha256_file(work.out / TOKENIZER))
    text = text_stage(work, tokenizer)
    prefixes = read_prefixes(prefix_table(work.out, work.digests), work.recipe.generate)
    _check_enough(work, text, prefixes)
    check_preflight(work.recipe, text)
    check_space(work, tokenizer, _amount(text), _drawn(work, len(prefixes.kept)).num_tokens)
    held_out = [receipt.name for receipt in text.split("eval")]
    brought = bring_also(work.inputs.also, work.out, held_out)
    also = [(a.info, held) for a, held in zip(work.inputs.also, brought, strict=True)]
    return _Prepared(tokenizer=tokenizer, text=text, prefixes=prefixes, also=also)


def _context(work: Build, ready: _Prepared) -> Context:
    return Context(
        out=work.out,
        generate=work.recipe.generate,
        digests=work.digests,
        tokenizer=ready.tokenizer,
        prefixes=ready.prefixes.kept,
        numeric_class=decoding_class(work.recipe),
    )


def _ingredients(work: Build, ready: _Prepared) -> Ingredients:
    """What is mixed, as far as it is there before decoding."""
    return Ingredients(
        real=ready.text.split("train"),
        synthetic=(),
        also=ready.also,
        num_prefixes=len(ready.prefixes.kept),
        evaluation=evaluation(
            work.recipe,
            work.inputs.evaluation,
            text=work.digests.text,
            decode=work.digests.decode,
            also=work.inputs.hashes.also,
        ),
    )


def _preflight(
    work: Build, text: TextRecord, prefixes: Prefixes, log: Recorded
) -> Callable[[LookAt], object] | None:
    """The look at the models that the recipe asks for, if it does."""
    if work.recipe.preflight is None:
        return None
    return lambda look_at: preflight(
        work, look_at, prefixes.kept, [mapped(work.out, kept) for kept in text.split("eval")], log
    )


def _amount(text: TextRecord) -> Amount:
    return Amount(
        num_samples=sum(receipt.num_samples for receipt in text.receipts),
        num_tokens=sum(receipt.num_tokens for receipt in text.receipts),
        num_text_bytes=sum(receipt.num_text_bytes for receipt in text.receipts),
    )


def _drawn(work: Build, num_prefixes: int) -> Amount:
    """What decoding will give, at most; of its text nothing is known."""
    return Amount(
        num_samples=num_prefixes * work.recipe.generate.completions,
        num_tokens=num_prefixes * tokens_per_prefix(work),
        num_text_bytes=0,
    )


def tokens_per_prefix(work: Build) -> int:
    """Synthetic tokens that one prefix yields, at most."""
    generate = work.recipe.generate
    kept = generate.prefix_tokens if generate.keep_prefix else 0
    return generate.completions * (kept + generate.new_tokens)


def most_per_prefix(work: Build) -> int:
    """What one prefix yields at most, in `mix.unit`: every token it draws could end a document."""
    if work.recipe.mix.unit == "tokens":
        return tokens_per_prefix(work)
    return work.recipe.generate.completions * work.recipe.generate.new_tokens


def _check_enough(work: Build, text: TextRecord, prefixes: Prefixes) -> None:
    """Say before training and decoding, not after, that the text cannot suffice."""
    unit = work.recipe.mix.unit
    count = "num_tokens" if unit == "tokens" else "num_samples"
    real = sum(getattr(receipt, count) for receipt in text.split("train"))
    if real == 0:
        raise BuildError(
            "the train split has no documents; raise text.splits.train or give more text"
        )
    also = [sum(getattr(shard, count) for shard in corpus.shards) for corpus in work.inputs.also]
    per_prefix = most_per_prefix(work)
    check_possible(work.recipe.mix, [real, len(prefixes.kept) * per_prefix, *also], per_prefix)
