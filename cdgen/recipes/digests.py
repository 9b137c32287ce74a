"""Names for what a recipe computes: sha256 over canonical JSON of everything that can change the result.

text → training → expert and amateur → decode → mix: each digest covers the ones before it, so a change is seen
exactly where it matters. Workers, paths, folders, the recipe's name and description are in none of them.
All digests are known before any work.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdgen.recipes.schema import (
    CheckpointAmateur,
    Contamination,
    Filters,
    ModelAmateur,
    ModelTraining,
    NgramAmateur,
    NoAmateur,
    Recipe,
)
from cdgen.storage import canonical_json

DIGEST_FORMAT = 1
"""Raised when the same recipe must no longer reuse what an earlier version made."""

NGRAM_VERSION = 1
"""Raised by every change of `cdgen.decode.ngram` that can change a count or a probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Content hashes (sha256 hex) of everything a recipe reads."""

    sources: Mapping[str, str]
    """By source name: the file's bytes."""
    tokenizer: str | None = None
    """Of a given tokenizer."""
    expert: str | None = None
    """Of a given expert's config and weights."""
    amateur: str | None = None
    """Of a given amateur's config and weights."""
    models: tuple[str | None, ...] = ()
    """Of config and weights of each of `decode.models`, in the recipe's order; None for one that is not given there."""
    also: tuple[str, ...] = ()
    """Of the synthetic shards of each corpus in `mix.also`, in the recipe's order."""
    evaluation: tuple[str, ...] = ()
    """Of each evaluation set in `filters.contamination.against`, in the recipe's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """sha256 hex of each stage's whole input."""

    tokenizer: str
    """Of a tokenizer trained here; empty for a given one."""
    text: str
    training: str
    """The expert's training run (all of its checkpoints); empty for a given expert."""
    expert: str
    amateur: str
    """Empty when there is no amateur."""
    decode: str
    mix: str


def digest(stage: str, /, **content: Any) -> str:
    """sha256 hex of a stage's whole input, under the stage's name and the digest format."""
    return hashlib.sha256(canonical_json([DIGEST_FORMAT, stage, content])).hexdigest()


def digests(recipe: Recipe, inputs: Inputs, *, engine: int) -> Digests:
    """All digests of a recipe.

    Args:
        recipe: the checked recipe.
        inputs: content hashes of what it reads.
        engine: version of the decode engine, whose change may change tokens.
    """
    tokenizer = "" if inputs.tokenizer else digest("tokenizer", **_tokenizer(recipe, inputs))
    text = digest("text", **_text(recipe, inputs, tokenizer))
    training, expert = _expert(recipe, inputs, text)
    amateur = _amateur(recipe, inputs, text=text, training=training, expert=expert)
    decode = digest(
        "decode",
        text=text,
        expert=expert,
        amateur=amateur,
        decode=_decode(recipe, inputs),
        generate=_plain(recipe.generate),
        engine=engine,
    )
    mix = mix_digest(
        recipe, text=text, decode=decode, also=inputs.also, evaluation=inputs.evaluation
    )
    return Digests(
        tokenizer=tokenizer,
        text=text,
        training=training,
        expert=expert,
        amateur=amateur,
        decode=decode,
        mix=mix,
    )


def mix_digest(
    recipe: Recipe, *, text: str, decode: str, also: Sequence[str], evaluation: Sequence[str] = ()
) -> str:
    """The digest of a recipe's mix.

    Args:
        recipe: of which the sections mix, filters and shards count.
        text, decode: the digests of what is mixed.
        also: of the synthetic shards of each corpus in `mix.also`.
        evaluation: of each evaluation set in `filters.contamination.against`.
    """
    content = {"mix": _plain(recipe.mix), "shards": _plain(recipe.shards)}
    content["mix"]["also"] = [
        {"corpus": corpus, "share": spec.share}  # what it is, not where it lies
        for corpus, spec in zip(also, recipe.mix.also, strict=True)
    ]
    if recipe.filters is not None:  # without filters the digest is that of versions that had none
        content["filters"] = _filters(recipe.filters, evaluation)
    return digest("mix", text=text, decode=[decode], **content)


def contamination_digest(
    found: Contamination, evaluation: Sequence[str], *, text: str, decode: str, also: Sequence[str]
) -> str:
    """The digest of a search for evaluation sets: what is looked for, and in which shards."""
    sets = [[spec.label, sha256] for spec, sha256 in zip(found.against, evaluation, strict=True)]
    return digest(
        "contamination", ngram=found.ngram, sets=sets, text=text, decode=decode, also=list(also)
    )


def _filters(filters: Filters, evaluation: Sequence[str]) -> dict[str, Any]:
    """Evaluation sets count by what they say, not by where they lie."""
    content = _plain(filters)
    if filters.near_dedup is None:
        del content["near_dedup"]  # the digest is that of versions that had none
    if filters.contamination is not None:
        content["contamination"]["against"] = [
            {"name": spec.label, "sha256": sha256}
            for spec, sha256 in zip(filters.contamination.against, evaluation, strict=True)
        ]
    return content


def _tokenizer(recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    return {
        "sources": _sources(recipe, inputs),
        "splits": _plain(recipe.text.splits),
        "train": _plain(recipe.tokenizer_training()),
    }


def _text(recipe: Recipe, inputs: Inputs, tokenizer: str) -> dict[str, Any]:
    return {
        "sources": _sources(recipe, inputs),
        "max_document_tokens": recipe.text.max_document_tokens,
        "splits": _plain(recipe.text.splits),
        "tokenizer": inputs.tokenizer or tokenizer,
        "shards": _plain(recipe.shards),
    }


def _sources(recipe: Recipe, inputs: Inputs) -> list[dict[str, Any]]:
    return [
        {
            "name": source.name,
            "sha256": inputs.sources[source.name],
            **source.reading(),
            "license": source.license,
            "only": source.only,
        }
        for source in recipe.text.sources
    ]


def _expert(recipe: Recipe, inputs: Inputs, text: str) -> tuple[str, str]:
    """(digest of the training run or "", digest of the expert)."""
    if recipe.expert.train is None:
        return "", digest("expert", sha256=inputs.expert)
    training = training_digest(text, recipe.expert.train)
    return training, digest(
        "expert", training=training, checkpoint=recipe.expert.checkpoint or "best"
    )


def training_digest(text: str, train: ModelTraining) -> str:
    """The digest of a training run (all of its checkpoints), whichever model it is for."""
    return digest("training", text=text, train=_plain(train))


def ngram_digest(text: str, order: int) -> str:
    """The digest of the n-gram counts of a train split."""
    return digest("ngram", text=text, order=order, version=NGRAM_VERSION)


def _amateur(recipe: Recipe, inputs: Inputs, *, text: str, training: str, expert: str) -> str:
    """An amateur counts by what it is made of: a training run, weights, the train split, or the expert."""
    amateur = recipe.amateur
    match amateur:
        case NoAmateur():
            return ""
        case CheckpointAmateur():
            return digest("amateur", training=training, **_plain(amateur))
        case NgramAmateur():
            counts = ngram_digest(text, amateur.order)
            return digest("amateur", counts=counts, **_plain(amateur))
        case ModelAmateur():
            made: dict[str, Any] = {"sha256": inputs.amateur}
            if amateur.train is not None:
                made = {
                    "training": training_digest(text, amateur.train),
                    "checkpoint": amateur.checkpoint or "best",
                }
            return digest("amateur", kind="model", temperature=amateur.temperature, **made)
        case _:
            return digest("amateur", expert=expert, **_plain(amateur))


def _decode(recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    """Models count by what they are, not by where they lie."""
    content = _plain(recipe.decode)
    for found, sha256 in zip(content["models"] or (), inputs.models, strict=True):
        del found["path"], found["hf"], found["license"]
        found["sha256"] = sha256
    return content


def _plain(spec: Any) -> dict[str, Any]:
    return spec.model_dump(mode="json", by_alias=True)  # type: ignore[no-any-return]
