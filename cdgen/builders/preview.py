"""A few prefixes continued by the recipe's own method, by its head alone and by plain sampling, side by side.

All three draw at the same uniforms, those of the build's first completion, so that what differs comes from the
method. A preview of a recipe goes through the build's own cached stages; what they make, a later build takes over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cdgen.builders.find_models import model_folders
from cdgen.builders.model_stage import Models, model_stage, note_models, untrained
from cdgen.builders.prefixes import Prefix, read_prefixes
from cdgen.builders.preflight import (
    Measured,
    decode_some,
    findings,
    keep,
    look_of,
    measure,
    read_measured,
    spread,
)
from cdgen.builders.run import open_build
from cdgen.builders.stages import (
    Build,
    TextRecord,
    mapped,
    open_text,
    prefix_table,
    text_stage,
    tokenizer_stage,
)
from cdgen.corpus import open_corpus
from cdgen.errors import BuildError, UsageError
from cdgen.progress import Progress, Quiet
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.recipes.schema import Decode, NoAmateur, Preflight, Recipe
from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.reader import MappedShard
from cdgen.shards.repetition import repetition
from cdgen.storage import hold
from cdgen.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cdgen.decode.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What a method made of a prefix, up to its first end-of-text token.

    Attributes:
        ended: whether there was one.
        repetition: share of the tokens in 4-grams that it had before.
    """

    method: str
    text: str
    num_tokens: int
    ended: bool
    repetition: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Previewed:
    """One prefix and its continuations."""

    document: str
    prefix: str
    continuations: tuple[Continuation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A few prefixes, and how the contrast is; health is None without eval text."""

    name: str
    engine: str
    prefixes: tuple[Previewed, ...]
    health: Measured | None
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """What a preview needs of a corpus, finished or not."""

    out: Path
    recipe: Recipe
    decode_digest: str
    prefixes: Path
    eval_shards: Sequence[MappedShard]
    models: Sequence[Path | None]
    """Expert, amateur (or None), further ones."""


def preview(
    recipe: str | Path | RecipeFile,
    out: str | Path | None = None,
    *,
    num_prefixes: int = 4,
    num_tokens: int = 80,
    train: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Preview:
    """Continue a few prefixes of a recipe, or of a corpus that was built here.

    Args:
        recipe: a recipe, or the folder of a finished corpus.
        out: of a recipe: where it is or will be built.
        num_prefixes: spread evenly over those that the build continues.
        num_tokens: drawn per continuation; at most generate.new_tokens.
        train: make what is missing, as a build would; without it nothing is made, and what is missing is named.
        cache: where tokenizers and trained weights are kept; $CDGEN_CACHE by default.
        progress: told of every long step.

    Raises:
        UsageError: a wrong recipe or folder.
        BuildError: text or models are not there yet, or no prefix is long enough.
    """
    if num_prefixes < 1 or num_tokens < 1:
        raise UsageError("a preview needs at least one prefix and one token")
    progress = progress or Quiet()
    if isinstance(recipe, str | Path) and Path(recipe).is_dir():
        if out is not None:
            raise UsageError(f"{recipe}: is a corpus folder, so --out has no meaning")
        ready = _finished(Path(recipe))
    else:
        file = recipe if isinstance(recipe, RecipeFile) else load_recipe(recipe)
        work = open_build(file, out, cache, progress)
        ready = _prepared(work, train=train)
    return _preview(ready, num_prefixes, num_tokens, progress)


def _finished(folder: Path) -> _Ready:
    corpus = open_corpus(folder)
    digests = corpus.manifest.digests
    table = folder / "work" / f"prefixes-{digests['text'][:8]}.parquet"
    models = model_folders(corpus)
    if not table.is_file():
        raise BuildError(
            f"{table}: is not there; build the corpus again here (its shards are kept)"
        )
    names = [shard.name for shard in corpus.manifest.shards if shard.name.startswith("real-eval-")]
    return _Ready(
        out=folder,
        recipe=load_recipe(folder / "recipe.yaml").recipe,
        decode_digest=digests["decode"],
        prefixes=table,
        eval_shards=[
            MappedShard(shard_path(folder, name), index_path(folder, name)) for name in names
        ],
        models=models,
    )


def _prepared(work: Build, *, train: bool) -> _Ready:
    if train:
        with hold(work.out, f"preview {work.recipe.name}"):
            text, models = _stages(work)
            note_models(work, models)
    else:
        _need(work)
        text, models = _stages(work)
    return _Ready(
        out=work.out,
        recipe=work.recipe,
        decode_digest=work.digests.decode,
        prefixes=prefix_table(work.out, work.digests),
        eval_shards=[mapped(work.out, receipt) for receipt in text.split("eval")],
        models=[
            models.expert.folder,
            models.amateur.folder if models.amateur else None,
            *(model.folder for model in models.further),
        ],
    )


def _stages(work: Build) -> tuple[TextRecord, Models]:
    """The build's stages before decoding, each skipped where its result is there."""
    tokenizer = tokenizer_stage(work)
    text = text_stage(work, tokenizer)
    return text, model_stage(work, text, tokenizer)


def _need(work: Build) -> None:
    """Say what a preview would have to make first (BuildError)."""
    runs = {"expert": work.recipe.expert.train, "amateur": work.recipe.amateur_training()}
    missing = [] if open_text(work) is not None else ["the tokenized text"]
    for role in untrained(work):
        spec = runs[role]
        assert spec is not None
        tokens = spec.steps * spec.batch_tokens
        missing.append(f"the {role} ({spec.steps:,} training steps, {tokens:,} tokens)")
    if missing:
        raise BuildError(
            f"{work.recipe.name}: not there yet: {' and '.join(missing)}; --train makes what is missing in "
            f"{work.out}, as cdgen build would, which then goes on from there; cdgen plan tells how long it takes"
        )


def _preview(ready: _Ready, num_prefixes: int, num_tokens: int, progress: Progress) -> Preview:
    from cdgen.builders.engines import open_engine

    recipe = ready.recipe
    prefixes = read_prefixes(ready.prefixes, recipe.generate).kept
    if not prefixes:
        raise BuildError(
            f"no chunk of the prefix split has {recipe.generate.prefix_tokens} tokens; raise text.splits.prefix "
            "or lower generate.prefix_tokens"
        )
    tokenizer = Tokenizer.load(ready.out / "tokenizer")
    expert, amateur, *further = ready.models
    assert expert is not None
    engine = open_engine(
        recipe,
        expert=expert,
        amateur=amateur,
        further=[folder for folder in further if folder is not None],
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
    )
    seen = _health(ready, engine, prefixes, progress)
    chosen = spread(prefixes, num_prefixes)
    methods = _methods(recipe, engine, min(num_tokens, recipe.generate.new_tokens), tokenizer)
    columns = []
    with progress.stage("preview", total=None, unit="step") as advance:
        for name, one in methods.items():
            ids = decode_some(one, recipe, chosen, 1, on_step=advance)
            columns.append([_continuation(name, row, tokenizer) for row in ids])
    limits = recipe.preflight or Preflight()
    return Preview(
        name=recipe.name,
        engine=engine.expert.path,
        prefixes=tuple(
            Previewed(
                document=prefix.document,
                prefix=tokenizer.decode([prefix.ids])[0],
                continuations=row,
            )
            for prefix, row in zip(chosen, zip(*columns, strict=True), strict=True)
        ),
        health=seen,
        findings=() if seen is None else tuple(findings(seen, limits, recipe.decode)),
    )


def _health(
    ready: _Ready, engine: "Engine", prefixes: Sequence[Prefix], progress: Progress
) -> Measured | None:
    """The preflight's measures: kept ones, or taken now."""
    seen = read_measured(ready.out, ready.decode_digest)
    if seen is None and any(len(shard) for shard in ready.eval_shards):
        with progress.stage("preflight", total=None, unit="step") as advance:
            look = look_of(ready.recipe, prefixes, ready.eval_shards)
            seen = measure(engine, ready.recipe, look, on_step=advance)
        keep(ready.out, ready.decode_digest, seen)
    return seen


def _methods(
    recipe: Recipe, engine: "Engine", num_tokens: int, tokenizer: Tokenizer
) -> dict[str, "Engine"]:
    """By name: the recipe's method, and the same expert alone; all else is as the recipe says."""
    own = recipe.decode
    methods: dict[str, Engine] = {own.method: _engine(recipe, engine, own, num_tokens, tokenizer)}
    for method in ("head_only", "sample"):
        alone = own.model_copy(update={"method": method, "lambda_": 1.0, "models": None})
        if method not in methods:
            methods[method] = _engine(recipe, engine, alone, num_tokens, tokenizer)
    return methods


def _engine(
    recipe: Recipe, engine: "Engine", decode: Decode, num_tokens: int, tokenizer: Tokenizer
) -> "Engine":
    """The engine's models under another rule; a row ends at end-of-text, where there is one."""
    from cdgen.decode.engine import Engine

    own, spec = decode is recipe.decode, recipe.amateur
    return Engine(
        engine.expert,
        engine.amateur if own else None,
        decode,
        new_tokens=num_tokens,
        amateur_temperature=1.0 if isinstance(spec, NoAmateur) else spec.temperature,
        stop_at_eos=tokenizer.eos_id is not None,
        eos_id=tokenizer.eos_id,
        further=engine.further if own else (),
        vocab_size=engine.vocab_size,
    )


def _continuation(method: str, ids: np.ndarray, tokenizer: Tokenizer) -> Continuation:
    share = repetition(ids.astype(np.uint32), np.array([len(ids)]))
    return Continuation(
        method=method,
        text=tokenizer.decode([ids])[0],
        num_tokens=len(ids),
        ended=tokenizer.eos_id is not None and int(ids[-1]) == tokenizer.eos_id,
        repetition=float(share[0]),
    )
