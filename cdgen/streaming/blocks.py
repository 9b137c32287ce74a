"""Blocks of mapped shards, for training the expert before there is a corpus: the same order, as plain arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cdgen.shards.reader import MappedShard
from cdgen.streaming.cut import cut
from cdgen.streaming.line import Line, Rows
from cdgen.streaming.merged import Merged
from cdgen.streaming.order import permutation


@dataclass(frozen=True)
class Blocks:
    """Blocks of one source in training order; every epoch is shuffled anew.

    Attributes:
        shards: the source's shards, mapped.
        block: L, tokens per block.
        seed: key of the order.
        shuffle: False keeps the order of the files, in every epoch.
    """

    shards: Sequence[MappedShard]
    block: int
    seed: int
    shuffle: bool = True

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of one epoch."""
        return int(sum(shard.num_tokens.sum() for shard in self.shards))

    def __getitem__(self, j: int) -> np.ndarray:
        """Block j, int64 `[block]`."""
        return self.tokens(j * self.block, self.block)

    def shuffled(self, j: int) -> np.ndarray:
        """Step j of a run that reads each epoch's whole blocks in an order of their own, int64 `[block]`.

        Neighbouring blocks are often one document: a small batch of them would say the same thing twice.
        """
        num_blocks = self.num_tokens // self.block
        epoch, place = divmod(j, num_blocks)
        chosen = int(self._block_order(epoch, num_blocks)[place])
        return self.tokens(epoch * self.num_tokens + chosen * self.block, self.block)

    def _block_order(self, epoch: int, num_blocks: int) -> np.ndarray:
        kept = self.__dict__.get("_kept_blocks")
        if kept is None or kept[0] != epoch:
            kept = (epoch, permutation(num_blocks, "blocks", self.seed, epoch))
            self.__dict__["_kept_blocks"] = kept
        order: np.ndarray = kept[1]
        return order

    def tokens(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count) of the endless stream, int64 `[count]`."""
        pieces = cut(self._merged, np.array([start]), count)
        places = zip(*(column.tolist() for column in pieces.places()), strict=True)
        ids = [self.shards[shard].ids(row)[skip : skip + n] for _, shard, row, skip, n in places]
        return np.concatenate(ids).astype(np.int64)

    @cached_property
    def _merged(self) -> Merged:
        line = Line(_Mapped(self.shards), self.seed, shuffle="windows" if self.shuffle else False)
        return Merged([line], [(0, (1,))])


@dataclass(frozen=True, slots=True)
class _Mapped:
    """Mapped shards as the one source of a stream."""

    shards: Sequence[MappedShard]
    name: str = "real"

    @property
    def num_documents(self) -> np.ndarray:
        return np.array([len(shard) for shard in self.shards], np.int64)

    @property
    def num_tokens(self) -> np.ndarray:
        return np.array([shard.num_tokens.sum() for shard in self.shards], np.int64)

    def rows(self, shards: Sequence[int]) -> list[Rows]:
        every = (self.shards[shard].num_tokens for shard in shards)
        return [
            Rows(t, np.zeros_like(t), np.zeros_like(t)) for t in every
        ]  # read by row, unchecked

    def longest(self) -> int:
        return max(int(shard.num_tokens.max(initial=0)) for shard in self.shards)

    def release(self, shards: Sequence[int]) -> None:
        """The shards stay mapped."""
