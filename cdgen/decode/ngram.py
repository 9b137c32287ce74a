"""An n-gram model with interpolated Kneser-Ney smoothing: the cheapest amateur there is.

The formula (Kneser and Ney 1995; interpolated as in Chen and Goodman 1998, section 3.6): after the context h of
m - 1 tokens,

    p_m(w | h) = max(c_m(h w) - D_m, 0) / c_m(h) + D_m n_m(h) / c_m(h) * p_{m-1}(w | h without its first token)

with p_0 = 1 / V. In the highest order c counts occurrences; below, c(w) counts the different tokens that stand
before w. n_m(h) is the number of different tokens after h, c_m(h) the sum of their counts, and D_m = n1 / (n1 + 2 n2)
from the numbers of sequences that are counted once and twice. Every token has a probability above zero.

The text is counted as trainers read it, documents one after another, and as a ring: the first token follows the
last. So each sequence has a left and a right neighbour, and no order needs an exception at an edge.

Storage: one level per order, sorted, 8 bytes per different sequence and 8 per context. Counting takes about 60 bytes
per token of the text and one sort per order; a step costs one pass over [B, V] and work for the tokens ever seen
after each row's last token.

Shapes: B rows, P prefixes, V vocabulary entries, N tokens of the text, K sequences of a level, C contexts of it.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
from torch import Tensor

from cdgen.decode.models import State
from cdgen.errors import BuildError
from cdgen.storage import atomic_write

FILE = "ngram.safetensors"

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Level:
    """Every sequence of m tokens, sorted by context (its first m - 1 tokens), then by its last token.

    A context is the number of its sequence in the level below; the empty context of the first level is 0.
    """

    token_K: npt.NDArray[np.uint32]
    """Last tokens."""
    count_K: npt.NDArray[np.uint32]
    """Occurrences, or below the highest order different tokens before the sequence; at least 1."""
    start_C: Integers
    """[C + 1]: context c holds sequences start_C[c] to start_C[c + 1]; at least one."""

    @cached_property
    def discount(self) -> float:
        """D; one half where no sequence is counted once, since nothing would be left for the unseen."""
        ones, twos = (int((self.count_K == times).sum()) for times in (1, 2))
        return ones / (ones + 2 * twos) if ones else 0.5

    @cached_property
    def totals(self) -> Integers:
        """c(h) of every context, [C]."""
        return np.add.reduceat(self.count_K, self.start_C[:-1], dtype=np.int64)

    @cached_property
    def rests(self) -> Floats:
        """Weight of the order below, [C]."""
        return self.discount * np.diff(self.start_C) / self.totals

    @cached_property
    def contexts(self) -> Integers:
        """The context of each sequence, [K]."""
        return np.repeat(np.arange(len(self.start_C) - 1), np.diff(self.start_C))

    @cached_property
    def _keys(self) -> Integers:
        return (self.contexts << 32) | self.token_K

    def find(self, context_B: Integers, token_B: Integers) -> Integers:
        """The numbers of sequences (context, token); -1 = not in the text, or no context (-1)."""
        key_B = (context_B << 32) | token_B
        found_B = np.searchsorted(self._keys, key_B).clip(max=len(self.token_K) - 1)
        return np.where((context_B >= 0) & (self._keys[found_B] == key_B), found_B, -1)

    def share(self, sequence_N: Integers, context_N: Integers) -> Floats:
        """What this order itself gives to sequences: max(c(h w) - D, 0) / c(h)."""
        kept_N = np.maximum(self.count_K[sequence_N] - self.discount, 0.0)
        out_N: Floats = kept_N / self.totals[context_N]
        return out_N


def count(text_N: npt.NDArray[np.integer], order: int) -> list[Level]:
    """Count a text, read as a ring.

    Args:
        text_N: token ids below 2^32; at least one.
        order: tokens of the longest sequences, from 1.
    """
    if not len(text_N):
        raise BuildError("the train split is empty: there is nothing to count n-grams in")
    sequence_N = np.zeros(len(text_N), np.int64)  # of the m - 1 tokens that end at each place
    num_contexts = 1
    levels: list[Level] = []
    for _ in range(order):
        key_N = (np.roll(sequence_N, 1) << 32) | text_N.astype(np.int64)
        key_K, first_K, longer_N, count_K = np.unique(
            key_N, return_index=True, return_inverse=True, return_counts=True
        )
        if levels:  # the level below is not the highest: it counts what may stand before
            before_C = np.bincount(sequence_N[first_K], minlength=num_contexts)
            levels[-1] = _level(levels[-1].token_K, before_C, levels[-1].start_C)
        start_C = np.searchsorted(key_K >> 32, np.arange(num_contexts + 1))
        levels.append(_level(key_K & 0xFFFFFFFF, count_K, start_C))
        sequence_N, num_contexts = longer_N.astype(np.int64), len(key_K)
    return levels


def _level(
    token_K: npt.NDArray[np.integer],
    count_K: npt.NDArray[np.integer],
    start_C: npt.NDArray[np.integer],
) -> Level:
    return Level(token_K.astype(np.uint32), count_K.astype(np.uint32), start_C.astype(np.int64))


def save(levels: list[Level], folder: Path) -> Path:
    """Write the counts, complete or not at all: `folder`/ngram.safetensors."""
    arrays = {
        f"{order}.{name}": getattr(level, name)
        for order, level in enumerate(levels, start=1)
        for name in ("token_K", "count_K", "start_C")
    }
    atomic_write(folder / FILE, safetensors.numpy.save(arrays))
    return folder / FILE


def load(folder: Path) -> list[Level]:
    """The counts of a folder.

    Raises:
        BuildError: the file is not there or not what `save` writes.
    """
    path = folder / FILE
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        return [
            Level(*(arrays[f"{order}.{name}"] for name in ("token_K", "count_K", "start_C")))
            for order in range(1, max(1, len(arrays) // 3) + 1)
        ]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise BuildError(f"{path}: cannot be read as n-gram counts: {error}") from None


@dataclass
class NgramState(State):
    """What the model remembers of its rows."""

    context_MB: Integers | None = None
    """Row m: the number of the sequence of each row's last m tokens; -1 = not in the text."""


class NgramModel:
    """An n-gram model behind the engine's interface, on the CPU.

    Args:
        levels: the counts, from order 1.
        vocab_size: V; entries that are not in the text share what the lowest order leaves.
    """

    def __init__(self, levels: list[Level], *, vocab_size: int) -> None:
        self.levels, self.vocab_size = levels, vocab_size
        lowest = levels[0]
        single_K = lowest.share(np.arange(len(lowest.token_K)), lowest.contexts)
        self.single_V = np.full(vocab_size, lowest.rests[0] / vocab_size)
        self.single_V[lowest.token_K] += single_K
        self._log_single_V = np.log(self.single_V)

    @property
    def order(self) -> int:
        """Tokens of the longest sequences."""
        return len(self.levels)

    @property
    def max_positions(self) -> int | None:
        """No bound."""
        return None

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def path(self) -> str:
        """How it runs."""
        return f"{self.order}-gram counts"

    def allocate(self, rows: int, length: int) -> NgramState:
        """A few numbers per row."""
        return NgramState(rows=rows, length=length)

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Start afresh: log-probabilities [P, V]."""
        assert isinstance(state, NgramState)
        ids_PT = prefix_PT.numpy()
        context_MP = self._no_context(len(ids_PT))
        for token_P in ids_PT.T:
            context_MP = self._append(context_MP, token_P)
        state.context_MB = context_MP.repeat(state.rows // len(ids_PT), axis=1)
        return torch.from_numpy(self.log_probs(context_MP, np.float32))

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Append one token per row: log-probabilities [B, V]."""
        assert isinstance(state, NgramState) and state.context_MB is not None
        state.context_MB = self._append(state.context_MB, token_B.numpy())
        return torch.from_numpy(self.log_probs(state.context_MB, np.float32))

    def _no_context(self, rows: int) -> Integers:
        """[order, B]: the empty sequence, which every text has, and none longer."""
        context_MB = np.full((self.order, rows), -1, np.int64)
        context_MB[0] = 0
        return context_MB

    def _append(self, context_MB: Integers, token_B: Integers) -> Integers:
        """Contexts one token later."""
        longer = [
            level.find(context_B, token_B)
            for level, context_B in zip(self.levels[:-1], context_MB[:-1], strict=True)
        ]
        return np.stack([context_MB[0], *longer])

    def log_probs(
        self, context_MB: Integers, dtype: type[np.float32 | np.float64] = np.float64
    ) -> npt.NDArray[np.floating]:
        """log p of every token after each row's context, [B, V], nats; in float64 until it is stored.

        Dense is only what the lowest order gives, scaled; what any higher order has seen after a context it has
        also seen after the context's last token, so those few entries are summed up and put over it.
        """
        rows = context_MB.shape[1]
        tail_B = np.ones(rows)  # weight of the orders not looked at yet, from the highest down
        parts: list[tuple[Integers, Floats]] = []
        for level, context_B in zip(self.levels[:0:-1], context_MB[:0:-1], strict=True):
            row_N, sequence_N = _children(level, context_B)
            share_N = level.share(sequence_N, context_B[row_N]) * tail_B[row_N]
            parts.append((row_N * self.vocab_size + level.token_K[sequence_N], share_N))
            known_B = context_B >= 0
            tail_B[known_B] *= level.rests[context_B[known_B]]
        out_BV: npt.NDArray[np.floating] = np.log(tail_B)[:, None].astype(
            dtype
        ) + self._log_single_V.astype(dtype)
        if parts:
            flat_N, share_N = parts[-1]
            p_N = (
                share_N
                + tail_B[flat_N // self.vocab_size] * self.single_V[flat_N % self.vocab_size]
            )
            for flat_n, share_n in parts[:-1]:
                p_N[np.searchsorted(flat_N, flat_n)] += share_n
            out_BV.reshape(-1)[flat_N] = np.log(p_N)
        return out_BV

    def token_logp(self, text_N: npt.NDArray[np.integer]) -> Floats:
        """log p of each token of a text after all before it, [N], nats."""
        token_N = text_N.astype(np.int64)
        p_N = self.single_V[token_N]
        context_N = np.zeros(len(token_N), np.int64)
        sequence_N = self.levels[0].find(context_N, token_N)
        for level in self.levels[1:]:
            context_N = np.concatenate([[-1], sequence_N[:-1]])  # of the token before, one shorter
            sequence_N = level.find(context_N, token_N)
            known_N, seen_N = context_N >= 0, sequence_N >= 0
            p_N[known_N] *= level.rests[context_N[known_N]]
            p_N[seen_N] += level.share(sequence_N[seen_N], context_N[seen_N])
        out_N: Floats = np.log(p_N)
        return out_N


def _children(level: Level, context_B: Integers) -> tuple[Integers, Integers]:
    """(row, sequence) of every token seen after each row's context, row after row; none where it is -1."""
    known_B = np.maximum(context_B, 0)
    start_B = level.start_C[known_B]
    size_B = np.where(context_B >= 0, level.start_C[known_B + 1] - start_B, 0)
    row_N = np.repeat(np.arange(len(context_B)), size_B)
    before_B = np.cumsum(size_B) - size_B
    return row_N, start_B[row_N] + np.arange(len(row_N)) - before_B[row_N]
