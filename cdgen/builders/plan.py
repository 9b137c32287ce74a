"""What a build would do, counted without doing it."""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pyarrow.compute as pc

from cdgen.builders.fleet import Fleet, fleet
from cdgen.builders.jobs import jobs
from cdgen.builders.needs import Amount, Needs, needs
from cdgen.builders.profile import Profile
from cdgen.builders.run import open_build, tokens_per_prefix
from cdgen.builders.stages import Build
from cdgen.errors import BuildError
from cdgen.mixing.materialize import num_mixed_shards
from cdgen.mixing.order import SYNTHETIC, demand, missing_prefixes
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.text.prepare import cut_text
from cdgen.text.sides import place, train_texts
from cdgen.text.tokenizer import FILES, Tokenizer, train_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be built: counts are exact, up to where a decoded row ends its documents.

    Attributes:
        num_synthetic_tokens: what all prefixes yield, at most.
        num_needed_tokens: what the mix asks for.
        num_missing_prefixes: 0 when the prefixes suffice.
        training_tokens: what the expert is trained on, repeats included; 0 for a given expert.
        needs: what it takes in one process of this machine.
        fleet: the workers of the builder that was asked about; None without one.
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
    needs: Needs
    fleet: Fleet | None = None


def plan(
    recipe: str | Path | RecipeFile,
    out: str | Path | None = None,
    *,
    cache: Path | None = None,
    timed: bool = False,
    profile: Profile | None = None,
) -> Plan:
    """Count a recipe's documents, tokens, prefixes and shards. Reads the text; writes nothing.

    With `timed`, a few steps of training and decoding are measured here, for the time it will take. With a `profile`,
    the plan says what its workers make of that; a running cluster is asked what fits, and nothing is started.

    A tokenizer that is neither given nor cached is trained in memory, as the build would train it.
    """
    file = recipe if isinstance(recipe, RecipeFile) else load_recipe(recipe)
    if profile is not None:
        out, cache = profile.placed(file.recipe.name, out, cache)
    work = open_build(file, out, cache)
    tokenizer = _tokenizer(work)
    counts = _count(work, tokenizer)
    drawn = _num_prefixes(work, counts) * tokens_per_prefix(work)
    real = Amount(
        num_samples=counts["samples_train"] + counts["samples_eval"],
        num_tokens=counts["tokens_train"] + counts["tokens_eval"],
        num_text_bytes=counts["text_bytes"],
    )
    planned = _plan(work, counts, needs(work, tokenizer, real, drawn, timed=timed))
    if profile is None:
        return planned
    return replace(planned, fleet=fleet(profile, planned.needs, planned.num_synthetic_shards))


def _num_prefixes(work: Build, counts: Counter[str]) -> int:
    return min(counts["prefixes"], work.recipe.generate.limit_prefixes or counts["prefixes"])


def _tokenizer(work: Build) -> Tokenizer:
    if work.inputs.tokenizer is not None:
        return Tokenizer.load(work.inputs.tokenizer)
    cached = work.cache / "tokenizers" / work.digests.tokenizer[:32]
    if all((cached / name).is_file() for name in FILES):
        return Tokenizer.load(cached)
    texts = train_texts(work.recipe.text, work.inputs.sources)
    return Tokenizer.trained(train_tokenizer(texts, work.recipe.tokenizer_training()))


def _count(work: Build, tokenizer: Tokenizer) -> Counter[str]:
    """Documents, samples and tokens by side, and the prefixes, cut as the build would cut them."""
    text, counts = work.recipe.text, Counter[str]()
    for cut in cut_text(place(text, work.inputs.sources), text.max_document_tokens, tokenizer):
        counts.update(f"documents_{item.side}" for item in cut.batch)
        for sample in cut.samples():
            counts[f"tokens_{sample.meta.split}"] += sample.meta.num_tokens
            counts[f"samples_{sample.meta.split}"] += 1
            counts["text_bytes"] += len(sample.text.encode())
        for size in pc.list_value_length(cut.prefixes["ids"]).to_pylist():
            enough = size >= work.recipe.generate.prefix_tokens
            counts["prefixes" if enough else "prefixes_too_short"] += 1
    return counts


def _plan(work: Build, counts: Counter[str], needed_here: Needs) -> Plan:
    recipe, generate = work.recipe, work.recipe.generate
    if not counts["tokens_train"]:
        raise BuildError(
            "the train split has no documents; raise text.splits.train or give more text"
        )
    num_prefixes = _num_prefixes(work, counts)
    per_prefix = tokens_per_prefix(work)
    needed, missing, mixed_documents = _plan_mix(work, counts, num_prefixes)
    documents = recipe.shards.documents
    train = recipe.expert.train
    return Plan(
        folder=work.place.where,
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
        num_missing_prefixes=missing,
        num_real_shards=-(-counts["samples_train"] // documents)
        + -(-counts["samples_eval"] // documents),
        num_synthetic_shards=sum(
            1 for _ in jobs(num_prefixes, generate, decode_digest=work.digests.decode)
        ),
        num_mixed_shards=num_mixed_shards(mixed_documents, documents)
        if recipe.mix.materialize
        else 0,
        needs=needed_here,
    )


def _plan_mix(work: Build, counts: Counter[str], num_prefixes: int) -> tuple[int, int, int]:
    """(synthetic tokens needed, prefixes missing, about how many documents are mixed), before filters."""
    mix, completions = work.recipe.mix, work.recipe.generate.completions
    per_prefix = tokens_per_prefix(work)
    per_document = counts["tokens_train"] / counts["samples_train"]
    if mix.unit == "tokens":
        real, unit_tokens, count = counts["tokens_train"], 1.0, "num_tokens"
        drawn_document = min(per_prefix / completions, per_document)
    else:  # a row is one document or more
        real, unit_tokens, count = counts["samples_train"], per_prefix / completions, "num_samples"
        per_prefix, per_document, drawn_document = completions, 1.0, 1.0
    drawn = num_prefixes * per_prefix
    also = [sum(getattr(shard, count) for shard in corpus.shards) for corpus in work.inputs.also]
    needs = demand(mix, [real, drawn, *also])
    missing = missing_prefixes(needs[SYNTHETIC], drawn, Fraction(per_prefix))
    synthetic = min(float(needs[SYNTHETIC]), float(drawn)) + float(sum(needs[SYNTHETIC + 1 :]))
    documents = round(float(needs[0]) / per_document) + int(synthetic / drawn_document)
    needed = int(needs[SYNTHETIC] * Fraction(unit_tokens))
    return needed, 0 if mix.repeat == "allow" else missing, documents
