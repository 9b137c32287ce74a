"""What a build would do, counted without doing it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cdgen.builders.jobs import jobs
from cdgen.builders.run import open_build, tokens_per_prefix
from cdgen.builders.stages import Build
from cdgen.errors import BuildError
from cdgen.mixing.materialize import missing_prefixes, num_mixed_shards
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.recipes.schema import Recipe
from cdgen.streaming.mixture import share_weights
from cdgen.text.prepare import Placed, place, read, train_texts
from cdgen.text.splits import chunks, pieces
from cdgen.text.tokenizer import FILES, Tokenizer, train_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be built: counts are exact, up to where a decoded row ends its documents.

    Attributes:
        num_synthetic_tokens: what all prefixes yield, at most.
        num_needed_tokens: what the mix asks for.
        num_missing_prefixes: 0 when the prefixes suffice.
        training_tokens: what the expert is trained on, repeats included; 0 for a given expert.
    """

    folder: str
    digests: dict[str, str]
    documents: dict[str, int]
    num_real_tokens: int
    num_real_samples: int
    num_eval_tokens: int
    training_tokens: int
    num_prefixes: int
    num_prefixes_too_short: int
    num_rows: int
    num_synthetic_tokens: int
    num_needed_tokens: int
    num_missing_prefixes: int
    num_real_shards: int
    num_synthetic_shards: int
    num_mixed_shards: int


def plan(
    recipe: str | Path | RecipeFile, out: str | Path | None = None, *, cache: Path | None = None
) -> Plan:
    """Count a recipe's documents, tokens, prefixes and shards. Reads the text; writes nothing.

    A tokenizer that is neither given nor cached is trained in memory, as the build would train it.
    """
    file = recipe if isinstance(recipe, RecipeFile) else load_recipe(recipe)
    work = open_build(file, Path(out) if out is not None else None, cache)
    tokenizer = _tokenizer(work)
    counts = _count(work, tokenizer)
    return _plan(work, counts)


def _tokenizer(work: Build) -> Tokenizer:
    if work.inputs.tokenizer is not None:
        return Tokenizer.load(work.inputs.tokenizer)
    cached = work.cache / "tokenizers" / work.digests.tokenizer[:32]
    if all((cached / name).is_file() for name in FILES):
        return Tokenizer.load(cached)
    texts = train_texts(
        place(read(work.recipe.text.sources, work.inputs.sources), work.recipe.text)
    )
    return Tokenizer.trained(train_tokenizer(texts, work.recipe.tokenizer_training()))


def _count(work: Build, tokenizer: Tokenizer) -> Counter[str]:
    recipe = work.recipe
    counts: Counter[str] = Counter()
    special = (tokenizer.bos_id is not None) + (tokenizer.eos_id is not None)
    for item in place(read(recipe.text.sources, work.inputs.sources), recipe.text):
        counts[f"documents_{item.side}"] += 1
        if item.side == "prefix":
            _count_prefixes(item, recipe, tokenizer, counts)
            continue
        spans = pieces(
            item.document.text, tokenizer.num_tokens, recipe.text.max_document_tokens - special
        )
        tokens = sum(tokenizer.num_tokens([span.text for span in spans]))
        has_bos, has_eos = tokenizer.bos_id is not None, tokenizer.eos_id is not None
        counts[f"tokens_{item.side}"] += tokens + len(spans) * has_bos + has_eos
        counts[f"samples_{item.side}"] += len(spans)
    return counts


def _count_prefixes(
    item: Placed, recipe: Recipe, tokenizer: Tokenizer, counts: Counter[str]
) -> None:
    has_bos = tokenizer.bos_id is not None
    for size in tokenizer.num_tokens([span.text for span in chunks(item.document.text)]):
        enough = size + has_bos >= recipe.generate.prefix_tokens
        counts["prefixes" if enough else "prefixes_too_short"] += 1


def _plan(work: Build, counts: Counter[str]) -> Plan:
    recipe, generate = work.recipe, work.recipe.generate
    if not counts["tokens_train"]:
        raise BuildError(
            "the train split has no documents; raise text.splits.train or give more text"
        )
    num_prefixes = min(counts["prefixes"], generate.limit_prefixes or counts["prefixes"])
    per_prefix = tokens_per_prefix(work)
    real, synthetic = share_weights(recipe.mix.synthetic)
    needed = counts["tokens_train"] * synthetic // real
    used = min(needed, num_prefixes * per_prefix)
    per_document = counts["tokens_train"] / counts["samples_train"]
    row_tokens = per_prefix / generate.completions
    mixed_documents = counts["samples_train"] + int(used / min(row_tokens, per_document))
    documents = recipe.shards.documents
    train = recipe.expert.train
    return Plan(
        folder=str(work.out),
        digests={name: getattr(work.digests, name) for name in work.digests.__dataclass_fields__},
        documents={side: counts[f"documents_{side}"] for side in ("train", "eval", "prefix")},
        num_real_tokens=counts["tokens_train"],
        num_real_samples=counts["samples_train"],
        num_eval_tokens=counts["tokens_eval"],
        training_tokens=train.steps * train.batch_tokens if train else 0,
        num_prefixes=num_prefixes,
        num_prefixes_too_short=counts["prefixes_too_short"],
        num_rows=num_prefixes * generate.completions,
        num_synthetic_tokens=num_prefixes * per_prefix,
        num_needed_tokens=needed,
        num_missing_prefixes=missing_prefixes(
            counts["tokens_train"], num_prefixes * per_prefix, recipe.mix.synthetic, per_prefix
        ),
        num_real_shards=-(-counts["samples_train"] // documents)
        + -(-counts["samples_eval"] // documents),
        num_synthetic_shards=sum(
            1 for _ in jobs(num_prefixes, generate, decode_digest=work.digests.decode)
        ),
        num_mixed_shards=num_mixed_shards(mixed_documents, documents)
        if recipe.mix.materialize
        else 0,
    )
