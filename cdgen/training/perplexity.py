"""How well a model predicts held-out text: every token once, in windows that overlap by one token."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdgen.streaming.dataset import BlockDataset
from cdgen.training.ranks import ALONE, Ranks

WINDOWS_PER_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """Held-out quality.

    Attributes:
        perplexity: exp of the mean negative log-probability per token.
        bits_per_byte: total negative log2-probability over the text's UTF-8 bytes; comparable between tokenizers.
        num_tokens: tokens predicted (every one but the first).
    """

    perplexity: float
    bits_per_byte: float
    num_tokens: int


class Tokens(Protocol):
    """A text as ids, any of which can be had."""

    @property
    def num_tokens(self) -> int:
        """How many there are."""

    def tokens(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count), int64."""


@dataclass(frozen=True, slots=True)
class StreamTokens:
    """The tokens of a stream that ends."""

    blocks: BlockDataset

    @property
    def num_tokens(self) -> int:
        """Of the whole stream."""
        assert self.blocks.stop is not None
        return self.blocks.stop

    def tokens(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count), int64."""
        return self.blocks.tokens(start, count)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The eval split: its tokens in file order, and the bytes of its text."""

    blocks: Tokens
    num_text_bytes: int

    def windows(self, context: int) -> Iterator[Tensor]:
        """int64 `[rows, context + 1]`: the first token of a window is the last one of the window before it."""
        total = self.blocks.num_tokens
        starts = range(0, total - 1, context)
        whole = [
            self._window(start, context + 1) for start in starts if start + context + 1 <= total
        ]
        for first in range(0, len(whole), WINDOWS_PER_BATCH):
            yield torch.stack(whole[first : first + WINDOWS_PER_BATCH])
        if len(whole) < len(starts):
            yield self._window(starts[-1], total - starts[-1])[None]

    def _window(self, start: int, count: int) -> Tensor:
        return torch.from_numpy(self.blocks.tokens(start, count))


@torch.inference_mode()
def perplexity(
    model: torch.nn.Module,
    held_out: HeldOut,
    *,
    context: int,
    autocast: torch.dtype | None,
    ranks: Ranks = ALONE,
) -> Perplexity:
    """Measure `model` on the eval split.

    Args:
        model: a causal language model of transformers; left in the mode it came in.
        held_out: the eval split.
        context: tokens a prediction may look back on, at most.
        autocast: dtype of the matrix products, or None for the weights' own.
        ranks: the processes that measure together, a batch each in turn; all get the result.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats, num_tokens = 0.0, 0
    for window_BT in islice(held_out.windows(context), ranks.rank, None, ranks.world_size):
        ids_BT = window_BT.to(device)
        with torch.autocast(
            device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None
        ):
            logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
        nats += float(
            F.cross_entropy(
                logits_BTV.float().flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="sum"
            )
        )
        num_tokens += ids_BT[:, 1:].numel()
    model.train(was_training)
    nats, num_tokens = ranks.sum(nats), int(ranks.sum(num_tokens))
    return Perplexity(
        perplexity=math.exp(nats / num_tokens),
        bits_per_byte=nats / math.log(2) / held_out.num_text_bytes,
        num_tokens=num_tokens,
    )
