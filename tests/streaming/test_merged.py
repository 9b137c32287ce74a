"""The global order by address: what a merge of everything in memory gives, wherever one begins."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_corpora import ListSource, Sizes

from cdgen.mixing.order import Supply, mix_order, weights_of
from cdgen.recipes.schema import Mix
from cdgen.streaming import merged as merged_module
from cdgen.streaming.bounds import bounds_of
from cdgen.streaming.cut import cut
from cdgen.streaming.line import Line, Rows
from cdgen.streaming.merged import Merged
from cdgen.streaming.mixture import merge
from cdgen.streaming.order import WINDOW_SHARDS, document_order
from cdgen.streaming.shares import extent_of

NAMES = ("real", "synthetic", "also-00000000")
SHARDS = st.lists(st.lists(st.integers(0, 30), max_size=6), min_size=1, max_size=20).filter(
    lambda shards: sum(map(sum, shards)) >= 20
)
SOURCES = st.lists(SHARDS, min_size=1, max_size=3)
SHUFFLES = st.sampled_from(["windows", "corpus", False])
UNTIL = 500

Document = tuple[int, int, int, int]
"""(source, shard, row, tokens)."""


def naive_line(
    sizes: Sizes, name: str, shuffle: str | bool, until: int
) -> list[tuple[int, int, int]]:
    """A source's documents pass after pass; one of no tokens is left out."""
    found: list[tuple[int, int, int]] = []
    for epoch in itertools.count():
        order = document_order(
            [len(shard) for shard in sizes],
            source=name,
            seed=3,
            epoch=epoch if shuffle else 0,
            window_shards=len(sizes) if shuffle == "corpus" else WINDOW_SHARDS,
        ).tolist()
        order = order if shuffle else sorted(order)
        found += [(s, r, sizes[s][r]) for s, r in order if sizes[s][r]]
        if sum(tokens for *_, tokens in found) >= until:
            return found
    raise AssertionError


def naive_order(
    sources: Sequence[Sizes], weights: Sequence[int], shuffle: str | bool, until: int
) -> list[Document]:
    """All documents until then, merged in memory."""
    lines = [naive_line(s, n, shuffle, 2 * until) for s, n in zip(sources, NAMES, strict=False)]
    which, place = merge([np.array([t for *_, t in line]) for line in lines], weights)
    order = [(s, *lines[s][p]) for s, p in zip(which.tolist(), place.tolist(), strict=True)]
    ends = np.cumsum([tokens for *_, tokens in order])
    return order[: int(np.searchsorted(ends, until)) + 1]


def merged_of(
    sources: Sequence[Sizes],
    schedule: Sequence[tuple[int, Sequence[int]]],
    shuffle: str | bool = "windows",
) -> Merged:
    lines = [
        Line(ListSource(name, sizes), 3, shuffle=shuffle)
        for name, sizes in zip(NAMES, sources, strict=False)
    ]
    return Merged(lines, schedule)


def read(merged: Merged, start: int, until: int) -> list[Document]:
    """The documents of the segments that hold [start, until)."""
    found: list[Document] = []
    for segment in merged.segments(start, until):
        documents = segment.documents
        columns = (segment.source, documents.shard, documents.row, documents.num_tokens)
        found += zip(*(column.tolist() for column in columns), strict=True)
    return found


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of them, so that their borders are met."""
    monkeypatch.setattr(merged_module, "SEGMENT_TOKENS", 97)


@given(SOURCES, SHUFFLES, st.data())
@settings(max_examples=30, deadline=None)
def test_the_order_is_the_merge_of_everything_in_memory(
    sources: list[Sizes], shuffle: str | bool, data: st.DataObject
) -> None:
    """Read from front to back, and looked up at any token, in any sequence."""
    weights = [data.draw(st.integers(1, 9)) for _ in sources]
    want = naive_order(sources, weights, shuffle, UNTIL)
    starts = np.cumsum([0, *(tokens for *_, tokens in want)])
    merged = merged_of(sources, [(0, weights)], shuffle)

    for token in data.draw(st.lists(st.integers(0, UNTIL - 1), max_size=6)):
        segment = merged.segment_at(token)
        place = int(np.searchsorted(segment.starts, token, side="right")) - 1
        number = int(np.searchsorted(starts, token, side="right")) - 1
        documents = segment.documents
        assert segment.starts[place] == starts[number]
        assert want[number] == (
            segment.source[place], documents.shard[place], documents.row[place], documents.num_tokens[place]
        )  # fmt: skip
        boundary = merged.boundary(token)
        assert boundary == starts[np.searchsorted(starts, token)]
        before = want[: int(np.searchsorted(starts, boundary))]
        assert merged.given(boundary) == tuple(
            sum(t for source, *_, t in before if source == n) for n in range(len(sources))
        )
    found = read(merged, 0, UNTIL)
    assert found[: len(want)] == want


@given(SOURCES, st.integers(1, 40), st.data())
@settings(max_examples=30, deadline=None)
def test_blocks_are_the_order_cut_at_every_length(
    sources: list[Sizes], block: int, data: st.DataObject
) -> None:
    """Any blocks in any sequence: each token is the one that stands there in the order written out."""
    weights = [data.draw(st.integers(1, 9)) for _ in sources]
    want = naive_order(sources, weights, "windows", UNTIL)
    tokens = [(s, shard, row, i) for s, shard, row, n in want for i in range(n)]
    numbers = data.draw(st.lists(st.integers(0, UNTIL // block - 1), min_size=1, max_size=8))
    pieces = cut(merged_of(sources, [(0, weights)]), np.array(numbers) * block, block)

    found = [
        (place[0], place[1], place[2], i)
        for place in zip(*(column.tolist() for column in pieces.places()), strict=True)
        for i in range(place[3], place[3] + place[4])
    ]
    assert found == [token for j in numbers for token in tokens[j * block : (j + 1) * block]]
    assert (
        pieces.block.tolist()
        == np.repeat(np.arange(len(numbers)), np.bincount(pieces.block)).tolist()
    )
    firsts = np.searchsorted(pieces.block, range(len(numbers)))
    assert np.add.reduceat(pieces.count, firsts).tolist() == [block] * len(numbers)


@given(SOURCES, st.lists(st.integers(1, 300), min_size=1, max_size=3, unique=True), st.data())
@settings(max_examples=30, deadline=None)
def test_a_schedule_keeps_each_share_within_its_piece_and_loses_nothing(
    sources: list[Sizes], changes: list[int], data: st.DataObject
) -> None:
    """Every source's documents come in their own order, and every piece is within the bound that is published."""
    weights = st.lists(st.integers(0, 9), min_size=len(sources), max_size=len(sources)).filter(any)
    schedule = [(token, data.draw(weights)) for token in (0, *sorted(changes))]
    merged = merged_of(sources, schedule)
    found = read(merged, 0, UNTIL)

    for number, sizes in enumerate(sources):
        mine = [(shard, row, tokens) for source, shard, row, tokens in found if source == number]
        assert mine == naive_line(sizes, NAMES[number], "windows", 3 * UNTIL)[: len(mine)]
    source = np.array([document[0] for document in found])
    tokens = np.array([document[3] for document in found])
    starts = np.cumsum(tokens) - tokens
    bounds = bounds_of(merged)
    for piece, (asked, _) in zip(merged.pieces, schedule, strict=True):
        assert piece.start >= asked and piece.start in [*starts.tolist(), int(tokens.sum())]
        if piece.start == piece.stop:
            continue
        inside = (starts >= piece.start) & (starts < (piece.stop or UNTIL))
        total = np.cumsum(tokens[inside])
        for bound in (bound for bound in bounds if bound.first_token == piece.start):
            own = np.cumsum((tokens * (source == NAMES.index(bound.source)))[inside])
            error = own - bound.share * total
            assert error.min(initial=0) >= bound.low - 1e-6
            assert error.max(initial=0) <= bound.high + 1e-6


@given(
    st.lists(
        st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=9), min_size=1, max_size=3),
        min_size=2,
        max_size=3,
    ),
    st.sampled_from(["real_once", "synthetic_once", 1, 300, 900]),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_the_mixed_shards_are_the_stream_at_the_seed_of_the_mix(
    sources: list[Sizes], size: str | int, data: st.DataObject
) -> None:
    """The same documents in the same order, whatever the size, repeats and dropped samples included."""
    masks = [[[data.draw(st.booleans()) for _ in shard] for shard in sizes] for sizes in sources]
    for mask in masks:
        mask[0][0] = True
    shares = [0.3, 0.15][: len(sources) - 1]
    mix = Mix.model_construct(
        synthetic=shares[0],
        also=tuple(_Also(share) for share in shares[1:]),
        unit="tokens", size=size, repeat="allow", materialize=True, seed=3,
    )  # fmt: skip
    supplies = [
        Supply(
            name=name,
            num_tokens=[np.array(shard, np.int64) for shard in sizes],
            kept=[np.array(shard, bool) for shard in mask],
        )
        for name, sizes, mask in zip(NAMES, sources, masks, strict=False)
    ]
    order, _ = mix_order(supplies, mix)
    kept = [
        [[t * k for t, k in zip(*pair, strict=True)] for pair in zip(sizes, mask, strict=True)]
        for sizes, mask in zip(sources, masks, strict=True)
    ]
    merged = merged_of(kept, [(0, weights_of(mix))])
    stop = extent_of(merged, size, 1).stop

    assert stop is not None
    want = list(zip(order.source.tolist(), order.shard.tolist(), order.row.tolist(), strict=True))
    found = read(merged, 0, stop)
    assert [document[:3] for document in found[: len(want)]] == want
    assert sum(tokens for *_, tokens in found[: len(want)]) == stop


class _Also:
    def __init__(self, share: float) -> None:
        self.share = share


class Vast:
    """10^9 documents in 10^5 shards of 10^4, whose lengths are a cheap function."""

    num_documents = np.full(100_000, 10_000, np.int64)

    def __init__(self, name: str) -> None:
        self.name = name
        self._lengths = 300 + np.arange(10_000, dtype=np.int64) * 37 % 201
        self.num_tokens = np.full(100_000, self._lengths.sum(), np.int64)
        self.num_read = 0

    def rows(self, shards: Sequence[int]) -> list[Rows]:
        self.num_read += len(shards)
        nothing = np.zeros(10_000, np.int64)
        return [Rows(np.roll(self._lengths, shard), nothing, nothing) for shard in shards]

    def longest(self) -> int:
        return 500

    def release(self, shards: Sequence[int]) -> None:
        pass


def test_a_block_of_a_vast_corpus_touches_a_handful_of_shards() -> None:
    """10^9 documents a source: what is loaded does not depend on where the block is, nor on the corpus."""
    sources = [Vast("real"), Vast("synthetic")]
    merged = Merged([Line(source, 1, kept_documents=400_000) for source in sources], [(0, (7, 3))])
    for block in (0, 10, 10**6, 10**9):
        for source in sources:
            source.num_read = 0
        pieces = cut(merged, np.array([block * 2048]), 2048)
        assert pieces.count.sum() == 2048
        assert all(source.num_read <= 2 * WINDOW_SHARDS for source in sources)


def test_windows_that_are_left_are_let_go_and_their_shards_released() -> None:
    source = ListSource("real", [[10] * 4] * (4 * WINDOW_SHARDS))
    line = Line(source, 1, kept_documents=4 * WINDOW_SHARDS)
    line.documents(0, line.pass_tokens)

    assert sorted(source.read) == list(range(4 * WINDOW_SHARDS))
    assert sorted(source.released) == sorted(source.read[: 3 * WINDOW_SHARDS])
