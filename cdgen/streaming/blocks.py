"""Training blocks: block j is tokens [j L, (j+1) L) of the endless stream of epochs. No buffers, no state."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cdgen.shards.reader import MappedShard
from cdgen.streaming.order import document_order, permutation


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
        parts: list[np.ndarray] = []
        while count:
            epoch, offset = divmod(start, self.num_tokens)
            part = self._within_epoch(epoch, offset, min(count, self.num_tokens - offset))
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)

    def _within_epoch(self, epoch: int, start: int, count: int) -> np.ndarray:
        documents, starts = self._order(epoch)
        first = int(np.searchsorted(starts, start, side="right")) - 1
        last = int(np.searchsorted(starts, start + count, side="left"))
        ids = np.concatenate([self.shards[shard].ids(row) for shard, row in documents[first:last]])
        offset = start - int(starts[first])
        return ids[offset : offset + count].astype(np.int64)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(documents `[n, 2]`, first token of each `[n]`) of an epoch; the last one asked for is kept."""
        kept = self.__dict__.get("_kept")
        if kept is None or kept[0] != epoch:
            sizes = [len(shard.num_tokens) for shard in self.shards]
            documents = document_order(
                sizes, source="real", seed=self.seed, epoch=epoch if self.shuffle else 0
            )
            if not self.shuffle:
                documents = documents[np.lexsort((documents[:, 1], documents[:, 0]))]
            tokens = np.concatenate([shard.num_tokens for shard in self.shards])
            firsts = np.cumsum([0, *sizes[:-1]])
            tokens = tokens[firsts[documents[:, 0]] + documents[:, 1]]
            kept = (epoch, documents, np.cumsum(tokens) - tokens)
            self.__dict__["_kept"] = kept
        return kept[1], kept[2]
