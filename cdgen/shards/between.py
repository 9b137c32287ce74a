"""What must hold between the samples of a corpus: keys are unique, splits apart, mixed samples copies, random keys own.

A sample is remembered by hashes of 16 bytes in packed arrays, gathered shard by shard, in any process; then each rule
is one sort of them. Memory: 68 bytes for a real sample, 84 for a synthetic one, 36 for a mixed one, and while a rule
is looked at some 70 for each of the samples that it is about.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import xxhash

from cdgen.shards.index import Row
from cdgen.shards.layout import KINDS
from cdgen.shards.sample import Meta, Sample, repeat_key, split_mixed, split_repeat

_HASH = 16
_MOVING = {"key", "offset", "txt_offset", "json_offset", "npy_offset"}
"""Columns that differ between two places of one sample."""


class Fault(NamedTuple):
    """What is wrong with a sample beside others."""

    shard: int
    """The number of its traces among those that were added."""
    sample: int
    """Its number among the readable samples of its shard."""
    rank: int
    """In which order the faults of one sample are told."""
    what: str
    """`{document}` stands for the sample's parent, `{use}` for the use of it before this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What is remembered of the samples of one shard: hashes `[N, 2]`, uint64.

    Attributes:
        kind: of the shard.
        groups: "<kind>-<split>", or "also-<8 digits>" for samples that another corpus decoded.
        group: which of these each sample belongs to, uint32.
        key, content: of every sample; of a mixed one the content is that of the sample that it copies.
        document: of the parent, copies of it being one; real and synthetic samples.
        text: of real samples.
        unit, rng_key: of synthetic samples: whose completion it is, and what was drawn with.
        repeated, previous: the mixed samples that are repeats, and the keys of the uses before them.
    """

    kind: str
    groups: tuple[str, ...]
    group: np.ndarray
    key: np.ndarray
    content: np.ndarray
    document: np.ndarray
    text: np.ndarray
    unit: np.ndarray
    rng_key: np.ndarray
    repeated: np.ndarray
    previous: np.ndarray


class Tracer:
    """Gathers the traces of one shard."""

    def __init__(self, kind: str) -> None:
        self._kind, self._groups = kind, dict[str, int]()
        self._group, self._repeated = array("I"), array("q")
        names = ("key", "content", "document", "text", "unit", "rng_key", "previous")
        self._hashes = {name: bytearray() for name in names}

    def add(self, sample: Sample, row: Row, group: str) -> None:
        """Take in the next sample, its index row and what it belongs to."""
        number = len(self._group)
        self._group.append(self._groups.setdefault(group, len(self._groups)))
        self._keep("key", sample.key)
        if self._kind == "mixed":
            self._keep("content", _content(split_mixed(sample.key)[0], row))
            first, n = split_repeat(sample.key)
            if n > 1:
                self._repeated.append(number)
                self._keep("previous", repeat_key(first, n - 1))
            return
        meta = sample.meta
        self._keep("content", _content(sample.key, row))
        self._keep("document", meta.document.partition("-")[0])
        if self._kind == "real":
            self._keep("text", sample.text)
        else:
            # One seed and one prefix give the corpora of two decodings the same random key.
            self._keep("unit", _unit(meta))
            self._keep("rng_key", f"{meta.decode} {meta.rng_key}")

    def _keep(self, name: str, text: str) -> None:
        self._hashes[name] += xxhash.xxh3_128_digest(text.encode())

    def traces(self) -> Traces:
        """Of all that was added."""
        return Traces(
            kind=self._kind,
            groups=tuple(self._groups),
            group=np.array(self._group, np.uint32),
            repeated=np.array(self._repeated, np.int64),
            **{name: _packed(bytes(data)) for name, data in self._hashes.items()},
        )


def _packed(hashes: bytes) -> np.ndarray:
    return np.frombuffer(hashes, np.uint64).reshape(-1, _HASH // 8)


def _unit(meta: Meta) -> str:
    return f"{meta.decode} {meta.document} {meta.start} {meta.completion}"


def _content(key: str, row: Row) -> str:
    """A sample's key, text, ids and provenance."""
    return repr((key, [value for name, value in row.items() if name not in _MOVING]))


class Between:
    """The samples of a corpus: of shards in the order in which they are added, real, synthetic, then mixed ones."""

    def __init__(self) -> None:
        self._traces: list[Traces] = []

    def add(self, traces: Traces) -> None:
        """Take in the next shard."""
        self._traces.append(traces)

    def faults(self) -> list[Fault]:
        """All that is wrong, shard by shard, sample by sample."""
        real, synthetic, mixed = (_Samples(self._traces, kind) for kind in KINDS)
        single = _Samples(self._traces, *KINDS[:2])
        found = chain(
            *(_second_keys(samples) for samples in (real, synthetic, mixed)),
            _no_copies(single, mixed),
            _lost_repeats(mixed),
            _in_other_groups(single, "document", 3, "its parent document {document} is also in {other}"),
            _in_other_groups(real, "text", 4, "its text is also in {other}"),
            _two_values(synthetic, "unit", "rng_key", 5, "another part of this completion has another rng_key"),
            _two_values(synthetic, "rng_key", "unit", 6, "another completion has this rng_key"),
        )  # fmt: skip
        return sorted(found, key=lambda fault: fault[:3])

    def in_mix(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that a mixed sample has."""
        asked = list(dict.fromkeys(keys))
        mixed = _Samples(self._traces, "mixed")
        hashes = _packed(b"".join(xxhash.xxh3_128_digest(key.encode()) for key in asked))
        first = first_equal(np.concatenate([mixed["key"], hashes]))[len(mixed) :]
        return {key for key, at in zip(asked, first, strict=True) if at < len(mixed)}


class _Samples:
    """All samples of some kinds, one after another."""

    def __init__(self, traces: Sequence[Traces], *kinds: str) -> None:
        mine = [(number, each) for number, each in enumerate(traces) if each.kind in kinds]
        self.shards = np.array([number for number, _ in mine], np.int64)
        self.traces = [each for _, each in mine]
        self.ends = np.cumsum([len(each.key) for each in self.traces], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, name: str) -> np.ndarray:
        """A column of hashes, `[N, 2]`."""
        return np.concatenate([_packed(b""), *(getattr(each, name) for each in self.traces)])

    def groups(self) -> tuple[list[str], np.ndarray]:
        """The groups, and which of them each sample belongs to, `[N]`."""
        names: dict[str, int] = {}
        codes = [np.empty(0, np.uint32)]
        for each in self.traces:
            codes_here = [names.setdefault(name, len(names)) for name in each.groups]
            codes.append(np.array(codes_here, np.uint32)[each.group])
        return list(names), np.concatenate(codes)

    def fault(self, row: int, rank: int, what: str) -> Fault:
        """A fault of the sample in a row."""
        which = int(np.searchsorted(self.ends, row, side="right"))
        start = int(self.ends[which - 1]) if which else 0
        return Fault(int(self.shards[which]), row - start, rank, what)


def first_equal(hash_N2: np.ndarray) -> np.ndarray:
    """By row the first row that equals it, `[N]`."""
    order = np.lexsort((hash_N2[:, 1], hash_N2[:, 0]))  # equal rows stay in their order
    sorted_N2 = hash_N2[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (sorted_N2[1:] != sorted_N2[:-1]).any(axis=1)
    run = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    first = np.empty(len(order), np.int64)
    first[order] = order[run]
    return first


def _second_keys(samples: _Samples) -> Iterator[Fault]:
    """Two corpora that continue one text give their synthetic samples the same keys."""
    names, group = samples.groups()
    label_of = [name if name.startswith("also") else name.partition("-")[0] for name in names]
    keys = samples["key"]
    for label in dict.fromkeys(label_of):
        codes = [code for code, of_code in enumerate(label_of) if of_code == label]
        mine = np.flatnonzero(np.isin(group, codes))
        for row in mine[first_equal(keys[mine]) != np.arange(len(mine))].tolist():
            yield samples.fault(row, 0, f"a second {label} sample has this key")


def _no_copies(single: _Samples, mixed: _Samples) -> Iterator[Fault]:
    first = first_equal(np.concatenate([single["content"], mixed["content"]]))[len(single) :]
    for row in np.flatnonzero(first >= len(single)).tolist():
        what = "is not, byte for byte, a sample of the real or synthetic train shards"
        yield mixed.fault(row, 1, what)


def _lost_repeats(mixed: _Samples) -> Iterator[Fault]:
    starts = mixed.ends - [len(each.key) for each in mixed.traces]
    rows = [each.repeated + start for each, start in zip(mixed.traces, starts, strict=True)]
    row_R = np.concatenate([np.empty(0, np.int64), *rows])
    previous = mixed["previous"]
    first = first_equal(np.concatenate([mixed["key"], previous]))[len(mixed) :]
    for row in row_R[first > row_R].tolist():
        what = "is a repeat, but use {use} of the sample does not come before it"
        yield mixed.fault(row, 2, what)


def _in_other_groups(samples: _Samples, column: str, rank: int, what: str) -> Iterator[Fault]:
    """No parent document, copies of it included, may feed two of: real train, real eval, prefixes."""
    names, group_N = samples.groups()
    first_N = first_equal(samples[column])
    # Another corpus may have divided the same text otherwise; only what measures perplexity must stay apart.
    also = np.array([name.startswith("also") for name in names], bool)[group_N]
    for code, other in enumerate(names):
        if other.startswith("also"):
            continue
        mine = np.flatnonzero(group_N == code)[::-1]
        seen_N = np.full(len(group_N), len(group_N))
        seen_N[first_N[mine]] = mine  # the first one is written last
        hit = (seen_N[first_N] < np.arange(len(group_N))) & (group_N != code)
        for row in np.flatnonzero(hit if other == "real-eval" else hit & ~also).tolist():
            yield samples.fault(row, rank, what.replace("{other}", other))


def _two_values(
    samples: _Samples, column: str, value: str, rank: int, what: str
) -> Iterator[Fault]:
    """What has one hash in a column must have one hash in the other, that of the first."""
    value_N2 = samples[value]
    first = first_equal(samples[column])
    for row in np.flatnonzero((value_N2[first] != value_N2).any(axis=1)).tolist():
        yield samples.fault(row, rank, what)
