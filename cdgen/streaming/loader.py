"""Delivery: an IterableDataset in global order for any number of workers, and a loader that knows where it stands."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data import Sampler as TorchSampler

from cdgen.errors import UsageError
from cdgen.streaming.dataset import BlockDataset, Item
from cdgen.streaming.sampler import (
    Share,
    check_not_dispatched,
    checked_batch_size,
    share_of,
    this_rank,
)

PREFETCHED = 2
"""Reads that the thread of a loader without workers keeps ready."""

_GATHERED_TOKENS = 1 << 20
"""Of batches that are read together: enough that what a read costs besides its tokens is little."""

_READ_AHEAD = 32
"""Single blocks that are read at a time, about."""


_LEFT_AFTER_S = 1.0
"""How long a consumer that leaves waits for the thread: its last read may be a download."""


class StreamDataset(IterableDataset[Item]):
    """The blocks of one rank in global order; `cdgen.stream` opens one.

    A DataLoader takes one batch from each worker in turn, so a worker must know which batches are its own:

    - batch_size=None: items are single blocks. Right without workers and with one; with more it is refused.
    - batch_size=B: items are batches `[B, L]`: for DataLoader(stream, batch_size=None, num_workers=any).
    - batch_size=B, batched=False: items are single blocks for DataLoader(stream, batch_size=B, num_workers=any).

    Args:
        blocks: what is read.
        batch_size: blocks per batch of this rank.
        rank, world_size: which of how many.
        batched: whether items are batches.
    """

    def __init__(
        self,
        blocks: BlockDataset,
        *,
        batch_size: int | None,
        rank: int,
        world_size: int,
        batched: bool = True,
    ) -> None:
        self.blocks, self.batched = blocks, batched and batch_size is not None
        self.batch_size = None if batch_size is None else checked_batch_size(batch_size)
        self.rank, self.world_size = rank, world_size
        self._start = self._next = 0
        self._begun: Share | None = None
        self._worker: tuple[int, int] | None = None

    @property
    def share(self) -> Share:
        """What is left for this rank."""
        return share_of(self.blocks, self.rank, self.world_size, self.batch_size or 1, self._start)

    @property
    def num_dropped(self) -> int:
        """Blocks at the end that fill no global batch, counted from where the run goes on, or last went on."""
        return (self._begun or self.share).num_dropped

    def __len__(self) -> int:
        """Items of the whole run, wherever it goes on. TypeError for an endless stream."""
        whole = share_of(self.blocks, self.rank, self.world_size, self.batch_size or 1, 0)
        batches = whole.num_batches
        if batches is None:
            raise TypeError("an endless stream has no length")
        return batches if self.batched else batches * (self.batch_size or 1)

    def __iter__(self) -> Iterator[Item]:
        """From the loaded state, or from the start, to the end; the next time from the start."""
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        if num_workers > 1 and self.batch_size is None:
            raise UsageError(
                f"a stream of single blocks cannot tell {num_workers} workers which batches are theirs: use "
                "stream.loader(batch_size=…, num_workers=…), or cdgen.stream(…, batch_size=B) with "
                "DataLoader(…, batch_size=None)"
            )
        check_not_dispatched(self.rank, self.world_size)
        first = 0 if self._resumes(worker, num_workers) else worker
        share, self._start, self._worker = self.share, 0, (worker, num_workers)
        self._begun, self._next = share, share.first + first * share.global_batch
        for number, item in self._items(share, first, num_workers):
            if number is not None:
                self._next = share.first + (number + num_workers) * share.global_batch
            yield item
        self._next, self._worker = 0, None

    def _resumes(self, worker: int, num_workers: int) -> bool:
        """Whether a loaded state is this worker's own, which goes on with its own next batch."""
        if self._worker is None or self._worker == (0, 1):
            return False
        if self._worker != (worker, num_workers):
            raise UsageError(
                f"the state was left by worker {self._worker[0]} of {self._worker[1]}, here is worker {worker} of "
                f"{num_workers}: use the state of stream.loader, or make one with stream.joined(states)"
            )
        return True

    def _items(self, share: Share, first: int, step: int) -> Iterator[tuple[int | None, Item]]:
        """Items, each with the number of the batch that it completes, or None."""
        batches = share.batches(first, step)
        if self.batched:
            for number, blocks in batches:
                yield number, self.blocks.batch(blocks)
            return
        # Single blocks are read several at a time: one gather costs little more than a block.
        while run := list(islice(batches, max(1, _READ_AHEAD // share.batch_size))):
            items = self.blocks.__getitems__([block for _, numbers in run for block in numbers])
            for place, item in enumerate(items, 1):
                whole = place % share.batch_size == 0
                yield run[(place - 1) // share.batch_size][0] if whole else None, item

    def state_dict(self) -> dict[str, Any]:
        """The first block of this rank's first global batch that was not yielded whole, and the fingerprint."""
        state = self.blocks.state_at(self._next)
        if self._worker is not None and self._worker != (0, 1):
            state["worker"] = list(self._worker)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` says, in constant time. UsageError for a state of another stream."""
        self._start = self._next = self.blocks.block_at(state)
        self._begun = None
        worker = state.get("worker")
        self._worker = None if worker is None else (int(worker[0]), int(worker[1]))

    def joined(self, states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """One state of those that all workers of a loader left: where the run goes on, with any number of workers.

        Each names the worker's own next batch: the first of those is the first that was not delivered.
        """
        return self.blocks.state_at(min(self.blocks.block_at(state) for state in states))

    def loader(
        self, batch_size: int | None = None, *, num_workers: int = 0, **options: Any
    ) -> "Loader":
        """A loader of this rank's batches, in global order for any number of workers."""
        made = Loader(
            self.blocks,
            batch_size or self.batch_size or 1,
            rank=self.rank,
            world_size=self.world_size,
            num_workers=num_workers,
            **options,
        )
        if self._start:
            made.load_state_dict(self.blocks.state_at(self._start))
        return made


class Loader(DataLoader[Item]):
    """Batches of one rank in global order, from any number of workers; its state counts what was delivered.

    Args:
        blocks: what is read.
        batch_size: blocks per batch of this rank.
        rank, world_size: as of `this_rank`.
        num_workers: processes. None is usually fastest: a thread prefetches, and nothing is copied between processes.
        prefetch: reads that the thread keeps ready, of a batch or of several small ones; 0 for no thread.
        options: further arguments of torch's DataLoader, such as pin_memory.
    """

    def __init__(
        self,
        blocks: BlockDataset,
        batch_size: int,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        num_workers: int = 0,
        prefetch: int = PREFETCHED,
        **options: Any,
    ) -> None:
        self._numbers = _Batches(blocks, batch_size, *this_rank(rank, world_size))
        self._prefetch = 0 if num_workers else prefetch
        self._gathers = not num_workers and not options and not blocks.is_ragged
        self._next = 0
        self._begun: Share | None = None
        super().__init__(
            blocks, sampler=self._numbers, batch_size=None, num_workers=num_workers, **options
        )

    @property
    def num_dropped(self) -> int:
        """Blocks at the end that fill no global batch, counted from where the run goes on, or last went on."""
        return (self._begun or self._numbers.share).num_dropped

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]
        """From the loaded state, or from the start, to the end; the next time from the start."""
        share = self._begun = self._numbers.share
        self._next = share.first
        reads: Iterator[Item] = self._gathered(share) if self._gathers else super().__iter__()
        if (
            self._prefetch
        ):  # the first read is the consumer's own: the two would only be in each other's way
            reads = chain(islice(reads, 1), _prefetched(reads, self._prefetch))
        self._numbers.first = 0
        for read in reads:
            for batch in self._batches_of(read):
                self._next += share.global_batch
                yield batch
        self._next = 0

    def _gathered(self, share: Share) -> Iterator[Item]:
        """One batch, then two, then four read together, and so on: the first comes soon, the others fast."""
        most = max(1, _GATHERED_TOKENS // (share.batch_size * self._numbers.blocks.block))
        batches, several = (numbers for _, numbers in share.batches()), 1
        while run := list(islice(batches, several)):
            yield self._numbers.blocks.batch([block for numbers in run for block in numbers])
            several = min(2 * several, most)

    def _batches_of(self, read: Item) -> Iterator[Item]:
        """The batches that were read together; they share their memory."""
        size, some = self._numbers.batch_size, next(iter(read.values()))
        if not self._gathers or len(some) == size:
            yield read
            return
        columns = (torch.split(value, size) for value in read.values())
        for batch in zip(*columns, strict=True):
            yield dict(zip(read, batch, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The first block that was not delivered to any rank, and the fingerprint."""
        return self._numbers.blocks.state_at(self._next)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` says, in constant time. UsageError for a state of another stream."""
        self._numbers.first = self._next = self._numbers.blocks.block_at(state)
        self._begun = None


class _Batches(TorchSampler[range]):
    """The block numbers of each batch."""

    def __init__(self, blocks: BlockDataset, batch_size: int, rank: int, world_size: int) -> None:
        self.blocks, self.first = blocks, 0
        self.batch_size = checked_batch_size(batch_size)
        self._rank, self._world_size = rank, world_size

    @property
    def share(self) -> Share:
        return share_of(self.blocks, self._rank, self._world_size, self.batch_size, self.first)

    def __len__(self) -> int:
        """Of the whole run, wherever it goes on: a trainer that resumes adds what it has done to what it gets."""
        batches = share_of(
            self.blocks, self._rank, self._world_size, self.batch_size, 0
        ).num_batches
        if batches is None:
            raise TypeError("an endless stream of blocks has no length")
        return batches

    def __iter__(self) -> Iterator[range]:
        return (numbers for _, numbers in self.share.batches())


def _prefetched(batches: Iterator[Item], ready: int) -> Iterator[Item]:
    """The same batches, made by a thread while the consumer works; an error in it is raised here."""
    queue: Queue[tuple[str, Any]] = Queue(ready)
    stop = Event()

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            with suppress(Full):
                queue.put((kind, value), timeout=0.1)
                return

    def work() -> None:
        try:
            for batch in batches:
                put("batch", batch)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 - it is raised in the consumer
            put("error", error)

    thread = Thread(target=work, name="cdgen-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = queue.get()
            if kind == "batch":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        stop.set()
        thread.join(_LEFT_AFTER_S)
