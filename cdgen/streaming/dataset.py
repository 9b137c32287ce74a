"""Training blocks as a map-style dataset: block j is tokens [j L, (j + 1) L) of the global order.

Shapes: B blocks of L tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cdgen.errors import UsageError
from cdgen.streaming.bounds import Bound, bounds_of
from cdgen.streaming.cut import Pieces, cut
from cdgen.streaming.gather import Gather
from cdgen.streaming.lock import Lock
from cdgen.streaming.merged import Merged, Segment
from cdgen.streaming.spans import Spans
from cdgen.streaming.state import block_of, state_of

if TYPE_CHECKING:
    from cdgen.streaming.loader import Loader
    from cdgen.streaming.sampler import Sampler

IGNORED = -100
"""The label of a token that is not learned."""

FIELDS = (
    "input_ids", "labels", "position_ids", "document_ids", "source_ids", "cu_seqlens", "span_sources",
)  # fmt: skip
_DTYPES = {"int64": torch.int64, "int32": torch.int32}

Item = dict[str, Tensor]


class BlockDataset(Dataset[Item]):
    """Blocks of a corpus; `cdgen.blocks` opens one.

    `blocks[j]` is a dict of tensors `[L]`; `blocks[[j, ...]]` and `blocks.batch` give `[B, L]` with one gather. Where
    block j lies is computed, in the same time for every j. input_ids and labels may share their memory: clone what you
    write to.

    Args:
        merged: the global order.
        gather: reads ids.
        block: L, tokens per block.
        stop: tokens of the run; None for an endless one.
        shuffle_blocks, seed: blocks are read in an order of their own, within spans of so many (`Spans`).
        fields: what an item has, of `FIELDS`.
        dtype: of ids and labels, int64 or int32.
        fingerprint: what the order is a function of.
        ahead: told a token of each new stretch of the run: what comes with it can be fetched.
    """

    def __init__(
        self,
        merged: Merged,
        gather: Gather,
        *,
        block: int,
        stop: int | None,
        shuffle_blocks: int,
        seed: int,
        fields: Sequence[str],
        dtype: str,
        fingerprint: Mapping[str, Any],
        ahead: Callable[[int], None],
    ) -> None:
        _check(block, shuffle_blocks, fields, dtype)
        self.merged, self.block, self.stop = merged, block, stop
        self.spans = Spans(shuffle_blocks, seed, None if stop is None else stop // block)
        self.fields, self.fingerprint = tuple(fields), dict(fingerprint)
        self.first_block = 0
        self._gather, self._dtype, self._ahead = gather, _DTYPES[dtype], ahead
        self._stretch: Segment | None = None
        self._lock = Lock()  # a prefetch thread and its consumer may both ask

    @property
    def is_ragged(self) -> bool:
        """Whether an item has a field that is not one row for each block."""
        return not _RAGGED.isdisjoint(self.fields)

    def __len__(self) -> int:
        """Whole blocks of the run. TypeError for an endless one."""
        if self.stop is None:
            raise TypeError("an endless stream of blocks has no length: give epochs, or a sampler")
        return max(self.stop // self.block - self.first_block, 0)

    def __getitem__(self, j: int | Sequence[int]) -> Item:
        """Block j, or the batch of several. IndexError beyond the end."""
        if isinstance(j, int | np.integer):
            item = self.batch([int(j)])
            return {name: value[0] if name in _ROWS else value for name, value in item.items()}
        return self.batch(j)

    def __getitems__(self, js: Sequence[int]) -> list[Item]:
        """Several items at once: what a DataLoader asks for before it collates them."""
        if not self.is_ragged:
            batch = self.batch(js)
            return [{name: value[i] for name, value in batch.items()} for i in range(len(js))]
        return [self[j] for j in js]

    def batch(self, js: Sequence[int]) -> Item:
        """Blocks js: a dict of tensors `[B, L]`; cu_seqlens and span_sources run over all B L tokens."""
        starts = self._starts(js)
        with self._lock:
            self._hint(int(starts[0]))
            pieces = self._cut(starts)
            ids, damaged = self._gather(pieces)
        made = self._ids(pieces, ids, damaged) | _marks(pieces, self.fields)
        return {
            name: made[name].view(len(js), self.block) if name in _ROWS else made[name]
            for name in self.fields
        }

    def pieces(self, js: Sequence[int]) -> Pieces:
        """Which parts of which documents blocks js are."""
        with self._lock:
            return self._cut(self._starts(js))

    def skip(self, num_blocks: int) -> Self:
        """The same blocks without the first ones: a trainer resumes on this without reading what it skips."""
        other = copy(self)  # it shares what was loaded, and the lock
        other.first_block = self.first_block + num_blocks
        return other

    def tokens(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count) of the global order, int64 `[count]`: for what is not cut into blocks."""
        with self._lock:
            ids, _ = self._gather(cut(self.merged, np.array([start]), count))
        return ids.astype(np.int64)

    def tokens_before(self, block: int) -> dict[str, int]:
        """By source: its tokens before a block, exactly."""
        number = block + self.first_block
        token = self.spans.begin(number) * self.block
        with self._lock:
            end = self.merged.boundary(token)
            given = list(self.merged.given(end))
            if end > token:  # the last document was begun, not finished
                segment = self.merged.segment_at(token)
                row = int(np.searchsorted(segment.starts, token, side="right")) - 1
                given[int(segment.source[row])] -= end - token
            if others := range(self.spans.begin(number), number):  # of a span that is read in part
                part = self._cut(self._starts_of(np.array(others)))
                for source in range(len(given)):
                    given[source] += int(part.count[part.source == source].sum())
        return {line.source.name: n for line, n in zip(self.merged.lines, given, strict=True)}

    def bounds(self) -> tuple[Bound, ...]:
        """How exact the mix is: per piece of the run and source. Looks into every index once."""
        return bounds_of(self.merged)

    def passes(self, block: int | None = None) -> dict[str, float]:
        """How often each source was read before a block; by default, at the end of the run."""
        if block is not None:
            given = self.tokens_before(block)
        elif self.stop is None:
            raise UsageError("an endless run has no end: say before which block")
        else:
            with self._lock:
                ends = self.merged.given(self.merged.boundary(self.stop))
            given = dict(zip((line.source.name for line in self.merged.lines), ends, strict=True))
        return {
            line.source.name: given[line.source.name] / line.pass_tokens
            for line in self.merged.lines
        }

    def at(self, j: int) -> list[dict[str, Any]]:
        """Which documents block j is cut from: source, shard, row, key, and its ids [start, stop) of each."""
        pieces = self.pieces([j])
        return [
            {
                "source": self._gather.shelves[source].name,
                "shard": self._gather.shelves[source].shard_name(shard),
                "row": row,
                "key": self._gather.shelves[source].key(shard, row),
                "start": skip,
                "stop": skip + count,
            }
            for source, shard, row, skip, count in zip(
                *(column.tolist() for column in pieces.places()), strict=True
            )
        ]

    def sampler(
        self, batch_size: int = 1, *, rank: int | None = None, world_size: int | None = None
    ) -> "Sampler":
        """The block numbers of a rank, for a DataLoader over these blocks."""
        from cdgen.streaming.sampler import Sampler

        return Sampler(self, batch_size=batch_size, rank=rank, world_size=world_size)

    def loader(self, batch_size: int, **options: Any) -> "Loader":
        """Batches of a rank in global order; options as of `Loader`."""
        from cdgen.streaming.loader import Loader

        return Loader(self, batch_size, **options)

    @property
    def num_left_tokens(self) -> int:
        """Tokens at the end of the run that fill no block."""
        return 0 if self.stop is None else self.stop % self.block

    @property
    def damage(self) -> dict[str, str]:
        """By shard: what is wrong with it, as far as it was met; only with on_damage="skip"."""
        return self._gather.damage

    def state_at(self, block: int) -> dict[str, Any]:
        """The state of a run that goes on with block `block`."""
        return state_of(block + self.first_block, self.fingerprint)

    def block_at(self, state: Mapping[str, Any]) -> int:
        """The block that a state goes on with. UsageError for a state of another stream."""
        block = block_of(state, self.fingerprint) - self.first_block
        if block < 0:
            raise UsageError(
                f"the state is of block {block + self.first_block}, before the first one here"
            )
        return block

    def _starts(self, js: Sequence[int]) -> np.ndarray:
        numbers = np.asarray(js, np.int64)
        if numbers.ndim != 1 or not len(numbers):
            raise UsageError(f"a batch is a list of block numbers, found {js!r}"[:200])
        if (numbers < 0).any() and self.stop is not None:
            numbers = np.where(numbers < 0, numbers + len(self), numbers)
        if (numbers < 0).any() or (self.stop is not None and (numbers >= len(self)).any()):
            raise IndexError(
                f"blocks run from 0 to {len(self) - 1 if self.stop is not None else 'infinity'}"
            )
        return self._starts_of(numbers + self.first_block)

    def _starts_of(self, numbers: np.ndarray) -> np.ndarray:
        """Where the run's blocks `numbers` begin in the global order, in tokens."""
        starts: np.ndarray = self.spans.blocks(numbers) * self.block
        return starts

    def _cut(self, starts: np.ndarray) -> Pieces:
        if not self.spans.is_shuffled:
            return cut(self.merged, starts, self.block)
        order = np.argsort(starts)  # neighbours are found together
        return cut(self.merged, starts[order], self.block).placed(order)

    def _hint(self, token: int) -> None:
        segment = self.merged.segment_at(token)
        if segment is not self._stretch:
            self._stretch = segment
            self._ahead(token)

    def _ids(self, pieces: Pieces, ids: np.ndarray, damaged: np.ndarray | None) -> Item:
        made = {"input_ids": _tensor(ids, self._dtype)}
        if "labels" in self.fields:
            made["labels"] = made[
                "input_ids"
            ]  # the same memory: a copy would cost a fifth of the time
            if damaged is not None and damaged.any():
                lost = torch.from_numpy(np.repeat(damaged, pieces.count))
                made["labels"] = made["input_ids"].masked_fill(lost, IGNORED)
        return made


_ROWS = frozenset(FIELDS[:5])
_RAGGED = frozenset(FIELDS[5:])


def _tensor(ids: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64 if dtype == torch.int64 else np.int32))


def _marks(pieces: Pieces, fields: Sequence[str]) -> Item:
    """Document boundaries and the like of a batch, for the fields that are asked for."""
    made: dict[str, np.ndarray] = {}
    starts = pieces.starts()
    if "position_ids" in fields:
        total = int(pieces.count.sum())
        made["position_ids"] = np.arange(total) - np.repeat(starts, pieces.count)
    if "document_ids" in fields:
        first = np.searchsorted(pieces.block, pieces.block)  # of the block that a piece stands in
        made["document_ids"] = np.repeat(np.arange(len(pieces)) - first, pieces.count)
    if "source_ids" in fields:
        made["source_ids"] = np.repeat(pieces.source, pieces.count)
    if "cu_seqlens" in fields:
        made["cu_seqlens"] = np.append(starts, starts[-1] + pieces.count[-1]).astype(np.int32)
    if "span_sources" in fields:
        made["span_sources"] = pieces.source
    return {name: torch.from_numpy(array) for name, array in made.items()}


def _check(block: int, shuffle_blocks: int, fields: Sequence[str], dtype: str) -> None:
    if type(block) is not int or block < 1:
        raise UsageError(
            f"block must be a number of tokens, found {block!r}; cdgen.stream(…, block=None) gives documents"
        )
    if type(shuffle_blocks) is not int or shuffle_blocks < 0:
        raise UsageError(
            f"shuffle_blocks must be a number of blocks, or 0, found {shuffle_blocks!r}"
        )
    if dtype not in _DTYPES:
        raise UsageError(f"dtype must be {' or '.join(_DTYPES)}, found {dtype!r}")
    odd = [name for name in fields if name not in FIELDS]
    if odd or not fields:
        raise UsageError(
            f"fields must be some of {', '.join(FIELDS)}; found {', '.join(odd) or 'none'}"
        )
