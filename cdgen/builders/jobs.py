"""A recipe's decoding as fixed jobs: which prefixes, in which batches, into which shard.

The geometry comes from the recipe alone. How many workers there are, and in which order they work, changes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cdgen.recipes.schema import Generate
from cdgen.shards.layout import shard_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The beginning of a held-out chunk, which the expert continues.

    Attributes:
        document: id of the parent document.
        source, license: of the parent.
        chunk: number of the chunk in its parent.
        start, end: bytes of the prefix's text in the parent.
        ids: `[prefix_tokens]`, BOS first where the tokenizer has one.
    """

    document: str
    source: str
    license: str
    chunk: int
    start: int
    end: int
    ids: np.ndarray

    @property
    def id(self) -> str:
        """What the randomness of its completions is keyed by: document and offset."""
        return f"{self.document}:{self.start}"


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The prefixes of a build, and how many chunks were too short to give one."""

    kept: Sequence[Prefix]
    num_too_short: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One synthetic shard: prefixes [first, last) in fixed batches."""

    number: int
    shard: str
    first: int
    last: int


def read_prefixes(table: Path, generate: Generate) -> Prefixes:
    """The first `prefix_tokens` tokens of every chunk that has as many, in source order, capped by `limit_prefixes`."""
    kept: list[Prefix] = []
    num_too_short = 0
    for row in _rows(table):
        if len(row["ids"]) < generate.prefix_tokens:
            num_too_short += 1
            continue
        ids = np.asarray(row.pop("ids")[: generate.prefix_tokens], dtype=np.int64)
        end = row["start"] + row.pop("ends")[generate.prefix_tokens - 1]
        kept.append(Prefix(**{**row, "ids": ids, "end": end}))
    return Prefixes(kept[: generate.limit_prefixes], num_too_short)


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    """The rows of a prefix table, a few at a time: whole chunks as Python lists would fill the memory."""
    with pq.ParquetFile(table) as file:
        for batch in file.iter_batches(1024):
            yield from batch.to_pylist()


def jobs(num_prefixes: int, generate: Generate, *, decode_digest: str) -> Iterator[Job]:
    """The jobs of a build, in order."""
    per_job = prefixes_per_batch(generate) * generate.batches_per_shard
    for number, first in enumerate(range(0, num_prefixes, per_job)):
        yield Job(
            number=number,
            shard=shard_name("synthetic", "train", decode_digest, number),
            first=first,
            last=min(first + per_job, num_prefixes),
        )


def batches(job: Job, generate: Generate) -> Iterator[tuple[np.ndarray, int]]:
    """The batches of a job: (prefix numbers `[P]`, how many of them count).

    The last batch is padded by repeating its last prefix, so that every batch has the same shape.
    """
    size = prefixes_per_batch(generate)
    for first in range(job.first, job.last, size):
        numbers = np.arange(first, first + size)
        yield np.minimum(numbers, job.last - 1), min(size, job.last - first)


def prefixes_per_batch(generate: Generate) -> int:
    """P: prefixes whose completions fill one batch."""
    return generate.rows_per_batch // generate.completions
