"""Which synthetic samples a mix may use: pure functions of a sample, or (dedup) of all of them in the order of keys.

Real text is never dropped: `mix.size: real_once` means all of it. The filters act in the order min_tokens,
max_repetition, contamination, exact_dedup, near_dedup; a sample is dropped by the first that objects, and does not
stand for its text then.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from cdgen.mixing.near import NUM_ORDERS, near_duplicates
from cdgen.mixing.traits import TraitsOf, traits, wanted_of
from cdgen.recipes.schema import Filters
from cdgen.shards.index import read_index
from cdgen.shards.reader import MappedShard
from cdgen.shards.sample import mixed_key
from cdgen.shards.similarity import Shingles, shingles
from cdgen.shards.verdicts import VERDICT_SCHEMA

_INDEXED = ("key", "text_xxh64", "num_tokens")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A synthetic shard and whose it is: "" for this corpus's own, else the decode digest of its corpus."""

    shard: MappedShard
    decode: str = ""


@dataclass(frozen=True, slots=True)
class _Texts:
    """Samples with their texts' hashes; `[samples]` each."""

    key: np.ndarray
    text_xxh64: np.ndarray
    shard: np.ndarray
    row: np.ndarray


def judge(
    drawn: Sequence[Drawn],
    real: Sequence[MappedShard],
    filters: Filters,
    contaminated: frozenset[tuple[str, str]] = frozenset(),
    traits_of: TraitsOf | None = None,
) -> pa.Table:
    """The verdicts on every sample of the synthetic shards, in their order.

    Args:
        drawn: all synthetic shards, in the order of their names.
        real: the real train shards.
        filters: the recipe's.
        contaminated: (shard, key) of the synthetic samples to drop for it.
        traits_of: what there is to know of each shard by itself; by default found here and now.

    Returns:
        A table of `VERDICT_SCHEMA`.
    """
    traits_of = traits_of or partial(traits, wanted=wanted_of(filters))
    indexes = [read_index(item.shard.index_path, _INDEXED) for item in drawn]
    keys = [
        np.array([mixed_key(key, item.decode) for key in index["key"].to_pylist()], object)
        for item, index in zip(drawn, indexes, strict=True)
    ]
    sizes = [len(index) for index in indexes]
    num_tokens = _joined([item.shard.num_tokens for item in drawn], np.int64)
    repeated = _joined([traits_of(item.shard).repetition_S for item in drawn], np.float64)
    reason = np.full(len(num_tokens), "", object)
    reason[_is_in(contaminated, drawn, indexes)] = "contamination"
    reason[repeated > filters.max_repetition] = "max_repetition"
    reason[num_tokens < filters.min_tokens] = "min_tokens"
    texts = _Texts(
        _joined(keys, object),
        _joined([index["text_xxh64"].to_numpy() for index in indexes], np.uint64),
        np.repeat(np.arange(len(drawn)), sizes),
        _joined([np.arange(size) for size in sizes], np.int64),
    )
    duplicate_of = np.full(len(num_tokens), "", object)
    if filters.exact_dedup:
        passing = np.flatnonzero(reason == "")
        duplicate_of[passing] = _duplicates(texts, passing, [i.shard for i in drawn], real)
        reason[duplicate_of != ""] = "exact_dedup"
    if filters.near_dedup is not None:
        passing = np.flatnonzero(reason == "")
        threshold, shards = filters.near_dedup, [i.shard for i in drawn]
        near = _near(texts, passing, shards, real, threshold=threshold, traits_of=traits_of)
        duplicate_of[passing] = near
        reason[passing[near != ""]] = "near_dedup"
    names = np.array([item.shard.path.name for item in drawn], object)
    columns = [
        texts.key, names[texts.shard], reason == "", reason, num_tokens, repeated, duplicate_of,
    ]  # fmt: skip
    return pa.Table.from_arrays(
        [
            pa.array(column, kind)
            for column, kind in zip(columns, VERDICT_SCHEMA.types, strict=True)
        ],
        schema=VERDICT_SCHEMA,
    )


def kept_rows(table: pa.Table, drawn: Sequence[Drawn]) -> list[np.ndarray]:
    """Per synthetic shard which of its samples stay, bool `[samples]`."""
    kept = table["kept"].to_numpy()
    ends = np.cumsum([len(item.shard) for item in drawn])
    return np.split(kept, ends[:-1]) if len(drawn) else []


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([*parts, np.empty(0, dtype)]).astype(dtype)


def _is_in(
    named: frozenset[tuple[str, str]], drawn: Sequence[Drawn], indexes: Sequence[pa.Table]
) -> np.ndarray:
    """Which samples are named, bool `[samples]`."""
    pairs = zip(drawn, indexes, strict=True)
    found = [
        np.array([(item.shard.path.name, key) in named for key in index["key"].to_pylist()], bool)
        for item, index in pairs
    ]
    return _joined(found, bool)


def _near(
    texts: _Texts,
    passing: np.ndarray,
    drawn: Sequence[MappedShard],
    real: Sequence[MappedShard],
    *,
    threshold: float,
    traits_of: TraitsOf,
) -> np.ndarray:
    """For each passing sample the key of the first that it resembles and that stays, "" where there is none."""
    every = _with_real(texts, passing, drawn, real)
    shards = [*drawn, *real]
    order = np.array(sorted(range(len(every.key)), key=lambda at: str(every.key[at])), np.int64)

    def shingles_of(place: int) -> Shingles:
        at = order[place]
        return shingles(shards[every.shard[at]].text(int(every.row[at])))

    firsts = np.cumsum([0, *map(len, shards)])
    signed = [traits_of(shard).signatures_SK for shard in shards]
    signed_NK = np.concatenate([*signed, np.empty((0, NUM_ORDERS), np.uint32)])
    # Keys of real samples begin with r, those of synthetic ones with s.
    num_real = len(every.key) - len(passing)
    twins = near_duplicates(
        shingles_of,
        signed_NK[(firsts[every.shard] + every.row)[order]],
        threshold=threshold,
        num_fixed=num_real,
    )
    found = np.full(len(every.key), "", object)
    found[order[twins >= 0]] = every.key[order[twins[twins >= 0]]]
    return found[: len(passing)]


def _duplicates(
    texts: _Texts, passing: np.ndarray, drawn: Sequence[MappedShard], real: Sequence[MappedShard]
) -> np.ndarray:
    """For each passing sample the lowest key with the very same text, "" where that is its own."""
    every = _with_real(texts, passing, drawn, real)
    _, group, size = np.unique(every.text_xxh64, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(size[group] > 1)
    lowest: dict[bytes, str] = {}
    found = np.full(len(passing), "", object)
    shards = [*drawn, *real]
    # Few: only samples whose 64-bit hash is another one's. Equal hashes of different texts are told apart here.
    for at in sorted(shared.tolist(), key=lambda at: str(every.key[at])):
        text = shards[every.shard[at]].text(int(every.row[at]))
        stays = lowest.setdefault(hashlib.sha256(text.encode()).digest(), every.key[at])
        if at < len(passing) and stays != every.key[at]:
            found[at] = stays
    return found


def _with_real(
    texts: _Texts, passing: np.ndarray, drawn: Sequence[MappedShard], real: Sequence[MappedShard]
) -> _Texts:
    """The passing samples, then all real ones; shards are numbered on from the drawn ones."""
    indexes = [read_index(shard.index_path, _INDEXED) for shard in real]
    sizes = [len(index) for index in indexes]
    return _Texts(
        np.concatenate(
            [texts.key[passing], *(np.array(i["key"].to_pylist(), object) for i in indexes)]
        ),
        np.concatenate([texts.text_xxh64[passing], *(i["text_xxh64"].to_numpy() for i in indexes)]),
        np.concatenate([texts.shard[passing], np.repeat(np.arange(len(real)), sizes) + len(drawn)]),
        np.concatenate([texts.row[passing], *(np.arange(size) for size in sizes)]),
    )
