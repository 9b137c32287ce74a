"""A build from recipe to manifest: every stage in order, each skipped where its result is already there.

Text → models → jobs → mixed shards → manifest. Nothing later writes to anything earlier; the manifest is written
last, so a folder without one is an unfinished build, and doing the same again finishes it.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from cdgen import __version__
from cdgen.builders.decoding import decode_stage
from cdgen.builders.events import Recorded
from cdgen.builders.finish import Made, finish
from cdgen.builders.inputs import resolve
from cdgen.builders.jobs import Prefixes, read_prefixes
from cdgen.builders.numeric_class import decoding_class
from cdgen.builders.report import Report, make_report, read_report, write_report
from cdgen.builders.stages import (
    Build,
    TextRecord,
    default_cache,
    mapped,
    model_stage,
    prefix_table,
    text_stage,
    tokenizer_stage,
)
from cdgen.builders.worker import Context
from cdgen.decode import ENGINE_VERSION
from cdgen.errors import BuildError, UsageError
from cdgen.mixing.materialize import MixResult, missing_prefixes, mix_order, too_short, write_mixed
from cdgen.progress import Progress, Quiet
from cdgen.recipes.digests import digests
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.shards.layout import shard_path
from cdgen.shards.manifest import read_manifest
from cdgen.storage import Receipt, hold, matches, read_receipts, remove_temporaries


def build(
    recipe: str | Path | RecipeFile,
    out: str | Path | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    accept_class: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Build a recipe's corpus, or finish a build that was interrupted.

    Args:
        recipe: a checked recipe, or the path of one.
        out: the corpus folder; shards/<recipe name> by default.
        cache: where tokenizers and trained weights are kept; $CDGEN_CACHE by default.
        progress: told of every long step.
        accept_class: go on with shards that another numeric class decoded.
        clock: seconds, for the speeds in the report.

    Raises:
        UsageError: a wrong recipe or folder, before anything is written.
        BuildError: a build that could not be finished; doing the same again goes on from there.
    """
    file = recipe if isinstance(recipe, RecipeFile) else load_recipe(recipe)
    work = open_build(file, Path(out) if out is not None else None, cache, progress)
    with hold(work.out, f"build {file.recipe.name}"):
        remove_temporaries(work.out)
        return _finished(work) or _build(work, accept_class=accept_class, clock=clock)


def open_build(
    file: RecipeFile,
    out: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Build:
    """Resolve a recipe's inputs and digests; reads and hashes files, writes nothing.

    Raises:
        UsageError: an input is missing, or the output folder holds something that is not a corpus.
    """
    inputs = resolve(file)
    out = out or Path("shards") / file.recipe.name
    _check_folder(out)
    return Build(
        file=file,
        inputs=inputs,
        digests=digests(file.recipe, inputs.hashes, engine=ENGINE_VERSION),
        out=out,
        cache=cache or default_cache(),
        progress=progress or Quiet(),
    )


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; choose another folder with --out")
    if (
        out.is_dir()
        and any(out.iterdir())
        and not (out / "work").is_dir()
        and not (out / "manifest.json").is_file()
    ):
        raise UsageError(
            f"{out}: holds files that are not a cdgen corpus; choose another folder with --out"
        )


def _finished(work: Build) -> Report | None:
    """The report of this very corpus, if it is complete."""
    report = read_report(work.out)
    if report is None or not (work.out / "manifest.json").is_file():
        return None
    manifest = read_manifest(work.out)
    if manifest.digests.get("mix") != work.digests.mix or manifest.digest != report.manifest_digest:
        return None
    receipts = read_receipts(work.out / "work/receipts")
    for shard in manifest.shards:
        receipt = receipts.get(shard.name)
        if (
            receipt is None
            or receipt.sha256 != shard.sha256
            or not matches(receipt, shard_path(work.out, shard.name))
        ):
            return None
    return report


def _build(work: Build, *, accept_class: bool, clock: Callable[[], float]) -> Report:
    started = clock()
    log = Recorded(work.progress, work.out)
    work = replace(work, progress=log)
    log.event("build", recipe=work.recipe.name, digests=asdict(work.digests), cdgen=__version__)
    tokenizer = tokenizer_stage(work)
    text = text_stage(work, tokenizer)
    prefixes = read_prefixes(prefix_table(work.out, work.digests), work.recipe.generate)
    _check_enough(work, text, prefixes)
    models = model_stage(work, text, tokenizer)
    context = Context(
        out=work.out,
        generate=work.recipe.generate,
        digests=work.digests,
        tokenizer=tokenizer,
        prefixes=prefixes.kept,
        numeric_class=decoding_class(work.recipe),
    )
    synthetic, tokens_per_s = decode_stage(
        work, context, models, log, accept_class=accept_class, clock=clock
    )
    mixed, mix = _mix_stage(work, text, synthetic)
    made = Made(
        text=text, prefixes=prefixes, models=models, synthetic=synthetic, mixed=mixed, mix=mix
    )
    manifest = finish(work, made)
    report = make_report(
        work, made, manifest, decode_tokens_per_s=tokens_per_s, build_s=clock() - started
    )
    write_report(work.out, report)
    log.event("built", manifest=manifest.digest)
    return report


def tokens_per_prefix(work: Build) -> int:
    """Synthetic tokens that one prefix yields, at most."""
    generate = work.recipe.generate
    kept = generate.prefix_tokens if generate.keep_prefix else 0
    return generate.completions * (kept + generate.new_tokens)


def _check_enough(work: Build, text: TextRecord, prefixes: Prefixes) -> None:
    """Say before training and decoding, not after, that the prefixes cannot suffice."""
    per_prefix, num_real = tokens_per_prefix(work), text.num_tokens("train")
    if num_real == 0:
        raise BuildError(
            "the train split has no documents; raise text.splits.train or give more text"
        )
    most = len(prefixes.kept) * per_prefix
    if missing_prefixes(num_real, most, work.recipe.mix.synthetic, per_prefix):
        raise BuildError(too_short(num_real, most, work.recipe.mix.synthetic, per_prefix))


def _mix_stage(
    work: Build, text: TextRecord, synthetic: list[Receipt]
) -> tuple[list[Receipt], MixResult]:
    sources = [
        [mapped(work.out, receipt) for receipt in kind] for kind in (text.split("train"), synthetic)
    ]
    real_tokens, synthetic_tokens = ([shard.num_tokens for shard in kind] for kind in sources)
    per_prefix = tokens_per_prefix(work)
    order, result = mix_order(
        real_tokens, synthetic_tokens, work.recipe.mix, tokens_per_prefix=per_prefix
    )
    if not work.recipe.mix.materialize:
        return [], result
    with work.progress.stage("mix", total=None, unit="shard") as advance:
        made = write_mixed(
            order,
            sources,
            work.out,
            digest=work.digests.mix,
            documents=work.recipe.shards.documents,
            on_shard=lambda _: advance(1),
        )
    return made, result
