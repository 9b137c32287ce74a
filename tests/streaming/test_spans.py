"""Blocks shuffled among their neighbours, against the plain order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_corpora import make_corpus

import cdgen
from cdgen.errors import UsageError
from cdgen.streaming.dataset import BlockDataset
from cdgen.streaming.order import permutation
from cdgen.streaming.spans import Spans

RNG = np.random.Generator(np.random.Philox(key=29))
SIZES = {
    "real": RNG.integers(20, 400, (20, 4)).tolist(),
    "synthetic": RNG.integers(60, 140, (9, 5)).tolist(),
}
BLOCK = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), SIZES, 0.3)


def ids(blocks: BlockDataset, numbers: range | None = None) -> torch.Tensor:
    return blocks.batch(numbers or range(len(blocks)))["input_ids"]


def slow_order(num_blocks: int, span_blocks: int, seed: int) -> list[int]:
    """Span after span, each permuted."""
    order: list[int] = []
    for number, first in enumerate(range(0, num_blocks, span_blocks)):
        size = min(span_blocks, num_blocks - first)
        order += (first + permutation(size, "blocks", seed, number)).tolist()
    return order


@given(
    num_blocks=st.integers(1, 300),
    span_blocks=st.integers(1, 70),
    seed=st.integers(0, 2**32),
    asked=st.lists(st.integers(0, 299), min_size=1, max_size=50),
)
def test_any_blocks_are_found_where_the_slow_order_has_them(
    num_blocks: int, span_blocks: int, seed: int, asked: list[int]
) -> None:
    slow = slow_order(num_blocks, span_blocks, seed) if span_blocks > 1 else list(range(num_blocks))
    numbers = np.array(asked) % num_blocks
    spans = Spans(span_blocks, seed, num_blocks)

    assert spans.blocks(numbers).tolist() == [slow[number] for number in numbers]
    assert sorted(slow) == list(range(num_blocks))


def test_an_endless_order_begins_like_a_finite_one() -> None:
    numbers = np.arange(64)
    assert np.array_equal(Spans(16, 3, None).blocks(numbers), Spans(16, 3, 64).blocks(numbers))


@settings(max_examples=20)
@given(span_blocks=st.integers(2, 200), seed=st.integers(0, 5), asked=st.data())
def test_blocks_are_those_of_the_plain_order_in_another_one(
    folder: Path, span_blocks: int, seed: int, asked: st.DataObject
) -> None:
    """In one gather, and in small ones from anywhere; every field moves with its block."""
    fields = ("input_ids", "labels", "position_ids", "document_ids", "source_ids")
    plain = cdgen.blocks(folder, block=BLOCK, seed=seed, fields=fields)
    moved = cdgen.blocks(folder, block=BLOCK, seed=seed, fields=fields, shuffle_blocks=span_blocks)
    order = slow_order(len(plain), span_blocks, seed)
    every = plain.batch(range(len(plain)))
    some = asked.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=9))

    assert len(moved) == len(plain)
    for name, value in moved.batch(range(len(moved))).items():
        assert torch.equal(value, every[name][order]), name
    for name, value in moved.batch(some).items():
        assert torch.equal(value, every[name][[order[j] for j in some]]), name
    assert moved.at(some[0]) == plain.at(order[some[0]])


def test_the_mix_is_counted_exactly_before_every_block(folder: Path) -> None:
    fields = ("input_ids", "source_ids")
    blocks = cdgen.blocks(folder, block=BLOCK, fields=fields, shuffle_blocks=50)
    synthetic = blocks.batch(range(len(blocks)))["source_ids"].sum(1).tolist()

    for block in (0, 1, 37, 50, 99, 100, 170, len(blocks)):
        before = blocks.tokens_before(block)
        assert before["synthetic"] == sum(synthetic[:block])
        assert sum(before.values()) == block * BLOCK
    plain = cdgen.blocks(folder, block=BLOCK)
    assert blocks.tokens_before(100) == plain.tokens_before(100)  # where a span ends


def test_ranks_workers_and_resumes_divide_the_shuffled_order(folder: Path) -> None:
    whole = ids(cdgen.blocks(folder, block=BLOCK, shuffle_blocks=64))
    first = cdgen.stream(folder, block=BLOCK, shuffle_blocks=64, batch_size=3)
    batches = iter(first)
    read = [next(batches)["input_ids"] for _ in range(5)]
    state = first.state_dict()

    rest = []
    for rank in range(2):
        stream = cdgen.stream(
            folder, block=BLOCK, shuffle_blocks=64, batch_size=2, rank=rank, world_size=2
        )
        loader = stream.loader(num_workers=rank)
        loader.load_state_dict(state)
        rest.append(list(loader))
    together = [
        torch.stack([batch["input_ids"] for batch in pair], 1).flatten(0, 1)
        for pair in zip(*rest, strict=True)
    ]

    seen = torch.cat(read + together)
    assert torch.equal(seen, whole[: len(seen)]) and len(whole) - len(seen) < 4


def test_a_state_of_another_span_is_refused(folder: Path) -> None:
    plain = cdgen.blocks(folder, block=BLOCK)
    state = cdgen.blocks(folder, block=BLOCK, shuffle_blocks=64).state_at(3)

    assert "shuffle_blocks" not in plain.state_at(3)["fingerprint"]  # states of before still hold
    with pytest.raises(UsageError, match="its shuffle_blocks is 64, here it is None"):
        plain.block_at(state)
    with pytest.raises(UsageError, match="shuffle_blocks must be a number of blocks, or 0"):
        cdgen.blocks(folder, block=BLOCK, shuffle_blocks=-1)
    with pytest.raises(UsageError, match="documents have no shuffle_blocks"):
        cdgen.stream(folder, block=None, shuffle_blocks=64)
