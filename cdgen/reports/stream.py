"""`cdgen stream`: what the blocks of a corpus are made of, how exact the mix is, and how fast they come here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from cdgen.errors import UsageError
from cdgen.streaming.dataset import BlockDataset
from cdgen.text.tokenizer import Tokenizer

BATCH_TOKENS = 32_768
"""Tokens per batch of the measurement, about."""
SHOWN_IDS = 12
"""Ids of a piece that people see; programs get all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a block takes from one document: its ids [start, stop)."""

    source: str
    shard: str
    key: str
    start: int
    stop: int
    input_ids: list[int]
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block and the documents that it is cut from, in order."""

    number: int
    pieces: list[Piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Delivery in this process, `input_ids` and `labels`, with one prefetch thread.

    Attributes:
        first_block_s: from the call that opens the corpus to the first block.
        tokens_per_s: after the first batch.
        num_tokens, seconds: what that was measured on; a short run is read several times.
        batch_size: blocks per batch.
    """

    first_block_s: float
    tokens_per_s: float
    num_tokens: int
    seconds: float
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A source of a run.

    Attributes:
        source: its name.
        share: asked of it, of all tokens.
        low, high: how far its tokens may be from that at any document boundary.
        passes: how often it is read.
    """

    source: str
    share: float
    low: float
    high: float
    passes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What `cdgen stream` shows of one epoch."""

    corpus: str
    split: str
    seed: int
    block: int
    num_blocks: int
    num_left_tokens: int
    shares: list[Share]
    blocks: list[Block]
    speed: Speed | None = None


def look(
    blocks: BlockDataset,
    numbers: Sequence[int],
    *,
    corpus: str,
    split: str,
    seed: int,
    tokenizer: Tokenizer | None,
    speed: Speed | None,
) -> Look:
    """Look at some blocks of a run.

    Args:
        blocks: of one epoch.
        numbers: which.
        corpus: its folder or address.
        split, seed: of the run.
        tokenizer: decodes the pieces; None for ids alone.
        speed: if it was measured.
    """
    passes = blocks.passes()
    return Look(
        corpus=corpus,
        split=split,
        seed=seed,
        block=blocks.block,
        num_blocks=len(blocks),
        num_left_tokens=blocks.num_left_tokens,
        shares=[
            Share(
                source=bound.source,
                share=bound.share,
                low=bound.low,
                high=bound.high,
                passes=passes[bound.source],
            )
            for bound in blocks.bounds()
        ],
        blocks=[_block(blocks, number, tokenizer) for number in numbers],
        speed=speed,
    )


def _block(blocks: BlockDataset, number: int, tokenizer: Tokenizer | None) -> Block:
    ids = blocks[number]["input_ids"].numpy()
    pieces, place = [], 0
    for found in blocks.at(number):
        count = found["stop"] - found["start"]
        own = ids[place : place + count]
        place += count
        pieces.append(
            Piece(
                source=found["source"],
                shard=found["shard"],
                key=found["key"],
                start=found["start"],
                stop=found["stop"],
                input_ids=own.tolist(),
                text=None if tokenizer is None else _decoded(tokenizer, own),
            )
        )
    return Block(number=number, pieces=pieces)


def _decoded(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    return tokenizer.decode([ids])[0]


def measure(
    opened: Callable[[], BlockDataset], *, seconds: float, clock: Callable[[], float]
) -> Speed:
    """How soon the first block comes, and how fast the rest.

    Args:
        opened: opens the run.
        seconds: how long to read.
        clock: seconds, rising.

    Raises:
        UsageError: there is no block.
    """
    begin = clock()
    blocks = opened()
    if not len(blocks):
        raise UsageError(
            f"nothing to measure: an epoch has {blocks.stop:,} tokens, no block of {blocks.block:,}"
        )
    _ = blocks[0]
    first_block_s = clock() - begin
    batch_size = max(1, min(len(blocks), BATCH_TOKENS // blocks.block))
    loader = blocks.loader(batch_size, rank=0, world_size=1)
    for _ in islice(loader, 1):
        pass
    num_tokens, begin = 0, clock()
    while (took := clock() - begin) < seconds:
        for batch in loader:
            num_tokens += batch["input_ids"].numel()
            if clock() - begin >= seconds:
                break
    return Speed(
        first_block_s=first_block_s,
        tokens_per_s=num_tokens / took,
        num_tokens=num_tokens,
        seconds=took,
        batch_size=batch_size,
    )


def stream_text(found: Look) -> str:
    """For people: the run, its sources, the blocks, the speed."""
    left = f", {found.num_left_tokens:,} tokens left over" if found.num_left_tokens else ""
    what = f"{found.corpus}, {found.split} split, seed {found.seed}"
    lines = [f"{what}: {found.num_blocks:,} blocks of {found.block:,} tokens in an epoch{left}"]
    width = max(len(share.source) for share in found.shares)
    lines += [
        f"  {share.source:<{width}}  {share.share:.4%} of all tokens, within {share.low:+,.0f} and {share.high:+,.0f} "
        f"tokens at every document boundary; read {share.passes:.2f} times"
        for share in found.shares
    ]
    for block in found.blocks:
        lines += ["", f"block {block.number:,}"]
        for piece in block.pieces:
            lines.append(
                f"  {piece.source} {piece.key}, tokens {piece.start:,} to {piece.stop:,} ({piece.shard})"
            )
            lines += [f"    {line}" for line in _body(piece)]
    if found.speed is not None:
        lines += ["", *_speed_lines(found.speed)]
    return "\n".join(lines)


def _body(piece: Piece) -> list[str]:
    if piece.text is None:
        shown = " ".join(map(str, piece.input_ids[:SHOWN_IDS]))
        return [shown + (" …" if len(piece.input_ids) > SHOWN_IDS else "")]
    lines = (
        "".join(c if c.isprintable() else " " for c in line) for line in piece.text.split("\n")
    )
    return [line.rstrip() for line in lines if line.strip()]


def _speed_lines(speed: Speed) -> list[str]:
    of = f"{speed.num_tokens:,} tokens in {speed.seconds:.1f} s"
    how = f"in batches of {speed.batch_size:,} blocks, in one process"
    return [
        f"first block after {speed.first_block_s:.3f} s",
        f"{speed.tokens_per_s / 1e6:,.1f} million tokens/s: {of}, {how}",
    ]


def tokenizer_of(folder: Path) -> Tokenizer:
    """The corpus's own. UsageError where it has none."""
    return Tokenizer.load(folder / "tokenizer")
