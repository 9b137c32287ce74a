"""Which blocks a rank reads, in which batches; and a loader that counts what was delivered.

A global batch is batch_size * world_size consecutive blocks of the global order; rank r of n takes blocks r, r + n, ...
of it. The last global batch that is not full is dropped, so that all ranks see equally many.
"""

import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler as TorchSampler

from cdgen.errors import UsageError
from cdgen.streaming.dataset import BlockDataset


def this_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world size): as given, else of torch.distributed, else of RANK and WORLD_SIZE, else (0, 1)."""
    if (rank is None) != (world_size is None):
        raise UsageError(f"give rank and world_size together, found {rank!r} and {world_size!r}")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world_size = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    if not 0 <= rank < world_size:
        raise UsageError(
            f"rank must lie between 0 and world_size - 1, found {rank} of {world_size}"
        )
    return rank, world_size


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"))


@dataclass(frozen=True, slots=True)
class Share:
    """The blocks of one rank, in batches.

    Attributes:
        rank, world_size: which of how many.
        batch_size: blocks per batch of a rank.
        first: the run's first block.
        num_blocks: blocks of the run from 0 on; None for an endless one.
    """

    rank: int
    world_size: int
    batch_size: int
    first: int
    num_blocks: int | None

    @property
    def global_batch(self) -> int:
        """Blocks of a batch of all ranks."""
        return self.batch_size * self.world_size

    @property
    def num_batches(self) -> int | None:
        """Whole global batches that are left."""
        if self.num_blocks is None:
            return None
        return max(self.num_blocks - self.first, 0) // self.global_batch

    @property
    def num_dropped(self) -> int:
        """Blocks at the end that fill no global batch."""
        if self.num_blocks is None:
            return 0
        return max(self.num_blocks - self.first, 0) % self.global_batch

    def batch(self, number: int) -> range:
        """The blocks of this rank's batch `number`."""
        start = self.first + number * self.global_batch + self.rank
        return range(start, start + self.global_batch, self.world_size)

    def batches(self, first: int = 0, step: int = 1) -> Iterator[tuple[int, range]]:
        """(number, blocks) of batches first, first + step, ..."""
        number, total = first, self.num_batches
        while total is None or number < total:
            yield number, self.batch(number)
            number += step


class Sampler(TorchSampler[int]):
    """The block numbers of one rank, for a DataLoader over blocks; goes on where its state says.

    The state counts what was handed out here. A DataLoader with workers asks ahead of what it delivers: there,
    `blocks.loader` counts what was delivered, or make the state with `blocks.state_at`.

    Args:
        blocks: the dataset.
        batch_size: blocks per batch of one rank; it decides which blocks at the end are dropped.
        rank, world_size: as of `this_rank`.
    """

    def __init__(
        self,
        blocks: BlockDataset,
        *,
        batch_size: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self._blocks = blocks
        self._rank, self._world_size = this_rank(rank, world_size)
        self._batch_size = checked_batch_size(batch_size)
        self._start = self._next = 0
        self._begun: Share | None = None

    @property
    def share(self) -> Share:
        """What is left for this rank."""
        return share_of(self._blocks, self._rank, self._world_size, self._batch_size, self._start)

    @property
    def num_dropped(self) -> int:
        """Blocks at the end that fill no global batch, counted from where the run goes on, or last went on."""
        return (self._begun or self.share).num_dropped

    def __len__(self) -> int:
        """Blocks of this rank in the whole run, wherever it goes on. TypeError for an endless stream."""
        whole = share_of(self._blocks, self._rank, self._world_size, self._batch_size, 0)
        batches = whole.num_batches
        if batches is None:
            raise TypeError("an endless stream of blocks has no length")
        return batches * self._batch_size

    def __iter__(self) -> Iterator[int]:
        """From the loaded state, or from the start, to the end; the next time from the start."""
        share, self._start = self.share, 0
        self._begun, self._next = share, share.first
        for _, numbers in share.batches():
            for place, number in enumerate(numbers, 1):
                if place == len(numbers):
                    self._next += share.global_batch
                yield number
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        """The first block of the first global batch that was not handed out whole, and the fingerprint."""
        return self._blocks.state_at(self._next)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` says, in constant time. UsageError for a state of another stream."""
        self._start = self._next = self._blocks.block_at(state)
        self._begun = None


def check_not_dispatched(rank: int, world_size: int) -> None:
    """Refuse that Accelerate, and so the Trainer, share out a stream that is one rank's already.

    By default it reads an iterable dataset on rank 0 and sends parts of its batches to the others, or else gives each
    rank every n-th batch of its own: either way most of the corpus would never be seen, without a word.
    """
    frame = inspect.currentframe() if world_size > 1 else None
    while frame is not None:
        wrapper = type(frame.f_locals.get("self")).__name__
        if wrapper in _SHARERS and frame.f_globals.get("__name__") == "accelerate.data_loader":
            raise UsageError(
                f"Accelerate's {wrapper} shares this stream out among the ranks, but it is that of rank {rank} of "
                f"{world_size} already: do not prepare its loader, or open it with rank=0, world_size=1"
            )
        frame = frame.f_back


_SHARERS = ("DataLoaderDispatcher", "IterableDatasetShard")


def checked_batch_size(batch_size: int) -> int:
    """`batch_size`, if it can be one."""
    if type(batch_size) is not int or batch_size < 1:
        raise UsageError(f"batch_size must be a whole number from 1, found {batch_size!r}")
    return batch_size


def share_of(
    blocks: BlockDataset, rank: int, world_size: int, batch_size: int, first: int
) -> Share:
    """The share of a rank in what is left of `blocks` from `first` on."""
    return Share(rank, world_size, batch_size, first, None if blocks.stop is None else len(blocks))
