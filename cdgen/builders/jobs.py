"""A recipe's decoding as fixed jobs: which prefixes, in which batches, into which shard.

The geometry comes from the recipe alone. How many workers there are, and in which order they work, changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cdgen.recipes.schema import Generate
from cdgen.shards.layout import shard_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One synthetic shard: prefixes [first, last) in fixed batches."""

    number: int
    shard: str
    first: int
    last: int


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
