"""What the filters have to know of one shard, found from that shard alone.

This is nearly all of their work, and none of it waits for another shard: it is done beside the decoding, in whatever
process and order (`cdgen.builders.beside`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdgen.mixing.contamination import search
from cdgen.mixing.eval_sets import items
from cdgen.mixing.near import Signatures, signatures
from cdgen.mixing.word_grams import WordGrams
from cdgen.recipes.schema import Filters
from cdgen.shards.findings import FINDING_SCHEMA
from cdgen.shards.layout import parse_name
from cdgen.shards.reader import MappedShard
from cdgen.shards.repetition import repetition
from cdgen.shards.similarity import shingles


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """Evaluation sets to search for: (name, file or folder, its fields or None) of each, and words in a row."""

    sets: tuple[tuple[str, Path, tuple[str, ...] | None], ...]
    ngram: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of every shard, besides the repetition in drawn text."""

    signatures: bool = False
    evaluation: EvaluationFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What was found of a shard's samples.

    Attributes:
        repetition_S: the measure of each, float64 `[samples]`; empty for real text, which is never judged.
        signatures_SK: MinHash signatures, uint32 `[samples, orders]`; without samples where they were not asked for.
        findings: of evaluation sets, a table of `FINDING_SCHEMA`; without rows where none was searched for.
    """

    repetition_S: npt.NDArray[np.float64]
    signatures_SK: Signatures
    findings: pa.Table


TraitsOf = Callable[[MappedShard], Traits]
"""`traits` with what is wanted, or what remembers its results."""


def wanted_of(filters: Filters, evaluation: EvaluationFiles | None = None) -> Wanted:
    """What a recipe's filters ask of every shard."""
    return Wanted(signatures=filters.near_dedup is not None, evaluation=evaluation)


def traits(shard: MappedShard, wanted: Wanted) -> Traits:
    """What there is to know of a shard by itself.

    Raises:
        BuildError: it is damaged.
        UsageError: an evaluation set cannot be read any more.
    """
    is_drawn = parse_name(shard.path.name)[0] == "synthetic"
    return Traits(
        repetition_S=_repetition(shard) if is_drawn else np.empty(0),
        signatures_SK=signatures(
            shingles(shard.text(row)) for row in range(len(shard) if wanted.signatures else 0)
        ),
        findings=_findings(shard, wanted.evaluation),
    )


def _repetition(shard: MappedShard) -> npt.NDArray[np.float64]:
    ids = [np.empty(0, shard.dtype), *(shard.ids(row) for row in range(len(shard)))]
    return repetition(np.concatenate(ids), shard.num_tokens)


def _findings(shard: MappedShard, evaluation: EvaluationFiles | None) -> pa.Table:
    if evaluation is None:
        return FINDING_SCHEMA.empty_table()
    return search(_grams(evaluation), [name for name, _, _ in evaluation.sets], [shard])


@lru_cache(maxsize=1)
def _grams(evaluation: EvaluationFiles) -> WordGrams:
    """Made once in a process."""
    return WordGrams([items(path, fields) for _, path, fields in evaluation.sets], evaluation.ngram)
