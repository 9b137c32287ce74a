"""Which part of a corpus a report reads: everything where it is small, evenly spread shards where it is not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from cdgen.corpus import Corpus
from cdgen.shards.index import read_index
from cdgen.shards.manifest import Manifest, ManifestShard
from cdgen.shards.reader import MappedShard

MAX_DOCUMENTS = 2_000_000
"""Of each source, whose indexes are read."""
MAX_TOKENS = 10_000_000
"""Of each source, whose ids are read."""

NUMBERS = (
    "num_tokens",
    "prefix_tokens",
    "mean_logp_expert",
    "mean_logp_amateur",
    "mean_head_size",
    "head_of_one_share",
)
"""Columns of an index that the report reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The train shards of one source: real, synthetic, or also-<8 digits> for another corpus's."""

    label: str
    shards: tuple[ManifestShard, ...]
    has_amateur: bool = False

    @property
    def is_real(self) -> bool:
        """Whether it is real text."""
        return self.label == "real"

    @property
    def num_tokens(self) -> int:
        """Of all its shards."""
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def num_documents(self) -> int:
        """Of all its shards."""
        return sum(shard.num_samples for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class Text:
    """The ids of a source's documents, as far as they were read.

    Attributes:
        shards: where they are.
        ids: of all documents, one after the other, `[tokens]`.
        num_tokens, num_prefix: of each document; how many of them are a kept prefix, `[documents]`.
        keys: of the documents.
    """

    shards: tuple[MappedShard, ...]
    ids: np.ndarray
    num_tokens: npt.NDArray[np.int64]
    num_prefix: npt.NDArray[np.int64]
    keys: tuple[str, ...]
    rows: tuple[tuple[int, int], ...] = field(repr=False)
    """(number in `shards`, row in it) of each document."""

    def shuffled(self) -> npt.NDArray[np.int64]:
        """The documents in the order of a hash of their keys: a random order that is the same everywhere."""
        hashes = [xxhash.xxh3_64_intdigest(key.encode()) for key in self.keys]
        return np.argsort(np.array(hashes, np.uint64), kind="stable").astype(np.int64)

    def drawn(self, document: int) -> np.ndarray:
        """The ids of a document after its prefix."""
        end = int(self._ends[document])
        begin = end - int(self.num_tokens[document] - self.num_prefix[document])
        return self.ids[begin:end]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", np.cumsum(self.num_tokens))

    _ends: npt.NDArray[np.int64] = field(init=False, repr=False)


def groups(manifest: Manifest) -> tuple[Group, ...]:
    """The sources of the train text, in order: real, synthetic, then the other corpora."""
    made = {"synthetic": manifest.digests, **{also.label: also.digests for also in manifest.also}}
    found = [_group(manifest, "real", "real-train-", {})]
    found += [
        _group(manifest, label, f"synthetic-train-{digests.get('decode', '')[:8]}-", digests)
        for label, digests in made.items()
    ]
    return tuple(group for group in found if group.shards)


def _group(manifest: Manifest, label: str, start: str, digests: Mapping[str, str]) -> Group:
    return Group(
        label=label,
        shards=tuple(shard for shard in manifest.shards if shard.name.startswith(start)),
        has_amateur=bool(digests.get("amateur")),
    )


def spread(shards: Sequence[ManifestShard], amount: int, limit: int) -> tuple[ManifestShard, ...]:
    """Evenly spread shards that hold about `limit` of an `amount`, at least one; all of them where that is enough."""
    count = len(shards) if amount <= limit else max(1, len(shards) * limit // amount)
    return tuple(shards[number * len(shards) // count] for number in range(count))


def numbers(corpus: Corpus, shards: Sequence[ManifestShard]) -> dict[str, npt.NDArray[Any]]:
    """The columns of NUMBERS over these shards, `[documents]` each."""
    tables = [read_index(corpus.files.index(shard), NUMBERS) for shard in shards]
    return {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in NUMBERS}


def read_text(corpus: Corpus, shards: Sequence[ManifestShard]) -> Text:
    """The ids of these shards' documents; shards of a remote corpus are brought here."""
    corpus.files.ahead(shards)
    mapped = tuple(
        MappedShard(corpus.files.shard(shard), corpus.files.index(shard)) for shard in shards
    )
    tables = [read_index(shard.index_path, ("key", "prefix_tokens")) for shard in mapped]
    return Text(
        shards=mapped,
        ids=np.concatenate([part for shard in mapped for part in _ids(shard)]),
        num_tokens=np.concatenate([shard.num_tokens for shard in mapped]),
        num_prefix=np.concatenate([table["prefix_tokens"].to_numpy() for table in tables]),
        keys=tuple(key for table in tables for key in table["key"].to_pylist()),
        rows=tuple(
            (number, row) for number, shard in enumerate(mapped) for row in range(len(shard))
        ),
    )


def _ids(shard: MappedShard) -> Iterator[np.ndarray]:
    return (shard.ids(row) for row in range(len(shard)))
