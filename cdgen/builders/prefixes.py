"""The prefixes of a build, read from the text stage's table when they are asked for.

A corpus of 10^12 tokens has 300 million of them, so none but the last group of rows is held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cdgen.recipes.schema import Generate


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


def read_prefixes(table: Path, generate: Generate) -> Prefixes:
    """The first `prefix_tokens` tokens of every chunk that has as many, in source order, capped by `limit_prefixes`.

    One pass over the chunks' lengths; the rows are read when a prefix is asked for.
    """
    kept_G, num_rows = _kept_by_group(table, generate.prefix_tokens)
    num_long = int(kept_G.sum())
    capped = num_long if generate.limit_prefixes is None else min(num_long, generate.limit_prefixes)
    kept = KeptRows(table, generate.prefix_tokens, np.cumsum(kept_G), capped)
    return Prefixes(kept, num_rows - num_long)


class KeptRows(Sequence[Prefix]):
    """The rows of a prefix table that have enough tokens, by their number among these.

    Memory: 8 bytes for each group of rows, the table's footer, and the group that was read last. A pickle carries
    the first of these alone.

    Args:
        table: the file.
        num_tokens: of a prefix.
        last_G: kept rows up to the end of each group.
        num_kept: how many of them count.
    """

    def __init__(self, table: Path, num_tokens: int, last_G: np.ndarray, num_kept: int) -> None:
        self._table, self._num_tokens = table, num_tokens
        self._last_G, self._num_kept = last_G, num_kept
        self._footer: pq.FileMetaData | None = None
        self._read: tuple[int, Sequence[Prefix]] = (-1, ())

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptRows, (self._table, self._num_tokens, self._last_G, self._num_kept)

    def __len__(self) -> int:
        return self._num_kept

    @overload
    def __getitem__(self, number: int) -> Prefix: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Prefix]: ...
    def __getitem__(self, number: int | slice) -> Prefix | Sequence[Prefix]:
        if isinstance(number, slice):
            return self._some(range(self._num_kept)[number])
        number = range(self._num_kept)[number]  # from the end, and IndexError beyond it
        group, first = self._place(number)
        return self._group(group)[number - first]

    def _some(self, numbers: range) -> Sequence[Prefix]:
        if numbers.step != 1:
            return [self[number] for number in numbers]
        found: list[Prefix] = []
        while len(found) < len(numbers):
            group, first = self._place(numbers[len(found)])
            found += self._group(group)[numbers[len(found)] - first : numbers.stop - first]
        return found

    def _place(self, number: int) -> tuple[int, int]:
        """The group that has a prefix, and the number of the first one in it."""
        group = int(self._last_G.searchsorted(number, side="right"))
        return group, int(self._last_G[group - 1]) if group else 0

    def _group(self, group: int) -> Sequence[Prefix]:
        read, prefixes = self._read
        if read != group:
            prefixes = self._prefixes(group)
            self._read = group, prefixes
        return prefixes

    def _prefixes(self, group: int) -> Sequence[Prefix]:
        with pq.ParquetFile(self._table, metadata=self._footer) as file:
            self._footer = file.metadata  # of a large table a hundred megabytes: parsed once
            rows = file.read_row_group(group)
        ids, ends = (rows[name].combine_chunks() for name in ("ids", "ends"))
        kept_P = np.flatnonzero(_lengths(ids) >= self._num_tokens)
        first_P = ids.offsets.to_numpy()[kept_P]
        ids_PT = ids.values.to_numpy()[first_P[:, None] + np.arange(self._num_tokens)]
        last_P = ends.offsets.to_numpy()[kept_P] + self._num_tokens - 1
        end_P = ends.values.to_numpy()[last_P]
        told = rows.select(["document", "source", "license", "chunk", "start"]).take(kept_P)
        return [
            Prefix(**row, end=row["start"] + end, ids=ids_T)
            for row, end, ids_T in zip(
                told.to_pylist(), end_P.tolist(), ids_PT.astype(np.int64), strict=True
            )
        ]


def _kept_by_group(table: Path, num_tokens: int) -> tuple[np.ndarray, int]:
    """How many rows of each group have so many tokens, `[G]`; how many rows there are."""
    with pq.ParquetFile(table) as file:
        groups = (
            file.read_row_group(group, columns=["ids"])["ids"].combine_chunks()
            for group in range(file.num_row_groups)
        )
        kept = [int((_lengths(ids) >= num_tokens).sum()) for ids in groups]
        return np.array(kept, np.int64), file.metadata.num_rows


def _lengths(lists: pa.ListArray) -> np.ndarray:
    found: np.ndarray = pc.list_value_length(lists).to_numpy()
    return found
