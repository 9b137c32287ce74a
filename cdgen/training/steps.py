"""The blocks of a training run in the order of its steps: step s of B blocks reads blocks [s B, (s + 1) B).

Which block is the j-th is arithmetic, so a run goes on anywhere without reading what it skips, and any number of
processes divide the same blocks among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cdgen.streaming.blocks import Blocks
from cdgen.streaming.dataset import BlockDataset
from cdgen.streaming.state import block_of, state_of


class Order(Protocol):
    """The blocks of a run."""

    def rows(self, js: Sequence[int]) -> Tensor:
        """Blocks js, int64 `[rows, block]`."""

    def state_at(self, block: int) -> dict[str, Any]:
        """The state of a run that goes on with `block`; JSON."""

    def block_at(self, state: Mapping[str, Any]) -> int:
        """The block that a state goes on with. UsageError for a state of another order."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The global order of a corpus."""

    blocks: BlockDataset

    def rows(self, js: Sequence[int]) -> Tensor:
        """Blocks js, int64 `[rows, block]`."""
        return self.blocks.batch(js)["input_ids"]

    def state_at(self, block: int) -> dict[str, Any]:
        """The stream's own state."""
        return self.blocks.state_at(block)

    def block_at(self, state: Mapping[str, Any]) -> int:
        """The block that a state goes on with."""
        return self.blocks.block_at(state)


@dataclass(frozen=True, slots=True)
class ShuffledBlocks:
    """The whole blocks of each epoch in an order of their own: for the training of an expert."""

    blocks: Blocks

    def rows(self, js: Sequence[int]) -> Tensor:
        """Blocks js, int64 `[rows, block]`."""
        return torch.from_numpy(np.stack([self.blocks.shuffled(j) for j in js]))

    def state_at(self, block: int) -> dict[str, Any]:
        """The state of a run that goes on with `block`."""
        return state_of(block, self._fingerprint())

    def block_at(self, state: Mapping[str, Any]) -> int:
        """The block that a state goes on with."""
        return block_of(state, self._fingerprint())

    def _fingerprint(self) -> dict[str, Any]:
        blocks = self.blocks
        return {"num_tokens": blocks.num_tokens, "seed": blocks.seed, "block": blocks.block}


class StepBlocks(Dataset[dict[str, Tensor]]):
    """What is left of a run, as the finite dataset that a Trainer reads from its first item on.

    Args:
        order: of the run.
        first: the run's first block that is not read yet.
        stop: the block after the run's last one.
    """

    def __init__(self, order: Order, first: int, stop: int) -> None:
        self._order, self._first, self._stop = order, first, stop

    def __len__(self) -> int:
        return self._stop - self._first

    def __getitem__(self, j: int) -> dict[str, Tensor]:
        return self.__getitems__([j])[0]

    def __getitems__(self, js: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several items by one gather: what a DataLoader asks for before it collates them."""
        rows = self._order.rows([self._first + j for j in js])
        return [{"input_ids": ids_T, "labels": ids_T} for ids_T in rows]
