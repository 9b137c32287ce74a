"""Documents instead of blocks: ids, text and provenance in the global order, each rank its own."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from cdgen.errors import BuildError, UsageError
from cdgen.streaming.gather import checked_on_damage
from cdgen.streaming.merged import Merged
from cdgen.streaming.sampler import check_not_dispatched, checked_batch_size
from cdgen.streaming.sources import ShardSource
from cdgen.streaming.state import block_of, state_of

Document = dict[str, Any]
_Place = tuple[int, int, int, int]
"""(source, shard, row, the token after it in the global order)."""


class DocumentStream(IterableDataset[Any]):
    """The documents of one rank in global order; `cdgen.stream(..., block=None)` opens one.

    An item is a dict: input_ids (int64 `[tokens]`), text, meta (provenance), key and source. A round is one batch of
    every rank; rank r of n takes documents r, r + n, ... of it, and a last round that is not full is dropped. The state
    is a token: where the first document begins that was not taken.

    Args:
        merged: the global order.
        sources: its lines.
        stop: tokens of the run; None for an endless one.
        rank, world_size: which of how many.
        batch_size: documents per batch of this rank; items are lists then. Needed with more than one worker.
        batched: False gives single documents for DataLoader(stream, batch_size=batch_size, collate_fn=...).
        verify: compare every document's ids with their hash.
        on_damage: stop, or skip: a document that cannot be read comes without ids, text and provenance, so that all
            ranks still see equally many, and its shard is reported in `damage`.
        fingerprint: what the order is a function of.
    """

    def __init__(
        self,
        merged: Merged,
        sources: Sequence[ShardSource],
        *,
        stop: int | None,
        rank: int,
        world_size: int,
        batch_size: int | None,
        batched: bool,
        verify: bool,
        on_damage: str,
        fingerprint: Mapping[str, Any],
    ) -> None:
        self._merged, self._sources, self._stop, self._verify = merged, sources, stop, verify
        self._skip = checked_on_damage(on_damage) == "skip"
        self.damage: dict[str, str] = {}
        """By shard: what is wrong with it, as far as it was met; only with on_damage="skip"."""
        self.rank, self.world_size = rank, world_size
        self.batch_size = None if batch_size is None else checked_batch_size(batch_size)
        self.batched = batched and batch_size is not None
        self.fingerprint = dict(fingerprint)
        self.num_dropped = 0
        """Documents at the end that filled no round; known when the end was reached."""
        self._start = self._next = 0
        self._worker: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:
        """From the loaded state, or from the start, to the end; the next time from the start."""
        info = get_worker_info()
        worker = (0, 1) if info is None else (info.id, info.num_workers)
        if worker[1] > 1 and self.batch_size is None:
            raise UsageError(
                f"a stream of single documents cannot tell {worker[1]} workers which are theirs: give batch_size, "
                "and DataLoader(…, batch_size=None)"
            )
        check_not_dispatched(self.rank, self.world_size)
        if self._worker not in (None, (0, 1), worker):
            raise UsageError(f"the state was left by worker {self._worker}, here is {worker}")
        # A worker's own state stands after its last round: those of the other workers come first.
        skip = worker[1] - 1 if self._worker == worker and worker[1] > 1 else worker[0]
        start, self._start, self._worker = self._start, 0, worker
        for number, places in enumerate(self._rounds(start)):
            if number % worker[1] != skip:
                continue
            batch = [self._read(*place) for place in places[self.rank :: self.world_size]]
            last = places[-1][3]
            if self.batched:
                self._next = last
                yield batch
                continue
            for item in batch:
                self._next = last if item is batch[-1] else self._next
                yield item
        self._next, self._worker = 0, None

    def _rounds(self, start: int) -> Iterator[list[_Place]]:
        """The documents of each whole round from token `start` on."""
        size = (self.batch_size or 1) * self.world_size
        places = self._places(start)
        while len(places_of_round := list(islice(places, size))) == size:
            yield places_of_round
        self.num_dropped = len(places_of_round)

    def _places(self, token: int) -> Iterator[_Place]:
        while self._stop is None or token < self._stop:
            segment = self._merged.segment_at(token)
            first = int(np.searchsorted(segment.starts, token))
            documents = segment.documents
            columns = (segment.source, documents.shard, documents.row, segment.starts[1:])
            rows = zip(*(column[first:].tolist() for column in columns), strict=True)
            for place in rows:
                if self._stop is not None and place[3] > self._stop:
                    return
                yield place
            token = int(segment.starts[-1])

    def _read(self, source: int, shard: int, row: int, _: int) -> Document:
        try:
            document = self._sources[source].document(shard, row, verify=self._verify)
        except BuildError as error:
            if not self._skip:
                raise
            return self._lost(self._sources[source], shard, str(error))
        ids = torch.from_numpy(document.pop("ids").astype(np.int64))
        return {"input_ids": ids, **document}

    def _lost(self, source: ShardSource, shard: int, what: str) -> Document:
        """What comes in place of a document that cannot be read."""
        name = source.shard_name(shard)
        if name not in self.damage:
            self.damage[name] = what
            warnings.warn(f"skipped: {what}", stacklevel=2)
        ids = torch.empty(0, dtype=torch.int64)
        return {"input_ids": ids, "key": "", "source": source.name, "text": "", "meta": {}}

    def state_dict(self) -> dict[str, Any]:
        """The token where the first document begins that was not taken, and the fingerprint."""
        state = state_of(self._next, self.fingerprint)
        if self._worker is not None and self._worker != (0, 1):
            state["worker"] = list(self._worker)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` says, in constant time. UsageError for a state of another stream."""
        self._start = self._next = block_of(state, self.fingerprint)
        worker = state.get("worker")
        self._worker = None if worker is None else (int(worker[0]), int(worker[1]))

    def joined(self, states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """One state of those that all workers of a loader left, for any number of workers.

        Each names the end of the worker's last round: the last of those is the end of all that was delivered.
        """
        return state_of(
            max(block_of(state, self.fingerprint) for state in states), self.fingerprint
        )
