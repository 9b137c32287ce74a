"""Prefixes that are read from their table on demand, against all of them in a list."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.builders.prefixes import Prefix, read_prefixes
from cdgen.text.prepare import PREFIX_SCHEMA

NUM_TOKENS = 3


def table(path: Path, groups: list[list[int]]) -> list[dict[str, Any]]:
    """Write a prefix table whose groups have chunks of so many tokens; returns its rows."""
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, PREFIX_SCHEMA, compression="zstd") as file:
        for lengths in groups:
            made = [row(len(rows) + number, length) for number, length in enumerate(lengths)]
            file.write_table(pa.Table.from_pylist(made, schema=PREFIX_SCHEMA))
            rows += made
    return rows


def row(number: int, length: int) -> dict[str, Any]:
    """A chunk; no two have anything in common."""
    start = 1000 * number
    return {
        "document": f"{number:032x}-0",
        "source": f"source{number % 3}",
        "license": "CC0-1.0",
        "chunk": number % 5,
        "start": start,
        "end": start + 10 * length,
        "ids": [start + token for token in range(length)],
        "ends": [10 * (token + 1) for token in range(length)],
    }


def kept(rows: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """The reference: every row in turn."""
    found = []
    for each in rows:
        if len(each["ids"]) >= NUM_TOKENS:
            end = each["start"] + each["ends"][NUM_TOKENS - 1]
            cut = {**each, "ids": each["ids"][:NUM_TOKENS], "end": end}
            found.append({name: value for name, value in cut.items() if name != "ends"})
    return found[:limit]


def plain(prefix: Prefix) -> dict[str, Any]:
    assert prefix.ids.dtype == np.int64
    return {name: getattr(prefix, name) for name in Prefix.__slots__} | {"ids": prefix.ids.tolist()}


def generate(limit: int | None = None) -> Any:
    return SimpleNamespace(prefix_tokens=NUM_TOKENS, limit_prefixes=limit)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 2 * NUM_TOKENS), max_size=6), max_size=6),
    limit=st.none() | st.integers(1, 12),
    asked=st.lists(st.integers(-40, 40), max_size=8),
    cuts=st.lists(
        st.slices(20) | st.builds(slice, st.integers(0, 9), st.integers(0, 40)), max_size=4
    ),
)
def test_rows_on_demand_are_those_of_a_list(
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[list[int]],
    limit: int | None,
    asked: list[int],
    cuts: list[slice],
) -> None:
    """Whole, by number, by range, in any order, from a pickle; groups without a row that is long enough too."""
    path = tmp_path_factory.mktemp("table") / "prefixes.parquet"
    rows = table(path, groups)
    want = kept(rows, limit)
    found = read_prefixes(path, generate(limit))
    assert found.num_too_short == len(rows) - len(kept(rows, None))
    assert len(found.kept) == len(want)
    for each in (found.kept, pickle.loads(pickle.dumps(found.kept))):
        for cut in cuts:
            assert [plain(prefix) for prefix in each[cut]] == want[cut]
        for number in asked:
            if -len(want) <= number < len(want):
                assert plain(each[number]) == want[number]
            else:
                with pytest.raises(IndexError):
                    each[number]
        assert [plain(prefix) for prefix in each] == want


class Reads(NamedTuple):
    """What was read of a table: (group, columns)."""

    seen: list[tuple[int, Any]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    seen: list[tuple[int, Any]] = []

    class Watched(pq.ParquetFile):  # type: ignore[misc]
        def read_row_group(self, group: int, columns: Any = None) -> pa.Table:
            seen.append((group, columns))
            return super().read_row_group(group, columns=columns)

    monkeypatch.setattr(pq, "ParquetFile", Watched)
    return Reads(seen)


def test_a_job_reads_the_groups_that_it_touches(tmp_path: Path, reads: Reads) -> None:
    """Jobs one after another read each group once, although their ranges end inside groups."""
    table(tmp_path / "t.parquet", [[NUM_TOKENS] * 10] * 5)
    found = read_prefixes(tmp_path / "t.parquet", generate()).kept
    assert reads.seen == [(group, ["ids"]) for group in range(5)]
    reads.seen.clear()
    for first in range(0, 50, 7):
        found[first : first + 7]
    assert reads.seen == [(group, None) for group in range(5)]
    reads.seen.clear()
    found[12:18]
    assert reads.seen == [(1, None)]


def test_a_pickle_carries_no_prefix(tmp_path: Path) -> None:
    table(tmp_path / "t.parquet", [[NUM_TOKENS] * 200] * 20)
    found = read_prefixes(tmp_path / "t.parquet", generate()).kept
    assert found[3999].chunk == 4
    assert len(pickle.dumps(found)) < 600
