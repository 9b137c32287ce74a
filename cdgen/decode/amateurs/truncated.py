"""Amateurs that see less of the row than the expert: the last tokens only, or little of the prefix.

Each wraps a model of its own on whatever path it runs. docs/decisions/0012 says why there are two.

Shapes: B rows, P prefixes, T tokens of a prefix, W tokens of a window, V vocabulary entries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdgen.decode.models import LanguageModel, State
from cdgen.errors import UsageError


@dataclass
class TruncatedState(State):
    """The inner model's state, and the window."""

    inner: State | None = None
    window_BW: Tensor | None = None
    """The last tokens of each row, at most W (LastTokens)."""


class _Truncated:
    """The facts of the model inside."""

    def __init__(self, model: LanguageModel, tokens: int) -> None:
        self.model, self.tokens = model, tokens

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.model.vocab_size

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device


class LastTokens(_Truncated):
    """At every step the model sees the row's last `tokens` tokens, at positions from 0, and nothing before them.

    A window that slides over cached keys would see more: what a layer keeps of a token was computed from the
    tokens before it, so L layers look back L windows. Here each step is a prefill of the window: as exact as
    running the model on those tokens alone, for any architecture, at the cost of `tokens` tokens per step.
    """

    def __init__(self, model: LanguageModel, tokens: int) -> None:
        super().__init__(model, tokens)
        longest = model.max_positions
        if longest is not None and tokens > longest:
            raise UsageError(
                f"amateur.tokens must fit the model's {longest} positions, found {tokens}"
            )

    @property
    def max_positions(self) -> int | None:
        """None: however long the row is, only the window is seen."""
        return None

    @property
    def path(self) -> str:
        """How it runs."""
        return f"{self.model.path}; the last {self.tokens} tokens anew at every step"

    def allocate(self, rows: int, length: int) -> TruncatedState:
        """Room for the windows."""
        inner = self.model.allocate(rows, min(self.tokens, length))
        return TruncatedState(rows=rows, length=length, inner=inner)

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Start afresh: logits [P, V]."""
        assert isinstance(state, TruncatedState) and state.inner is not None
        window_PW = prefix_PT[:, -self.tokens :]
        state.window_BW = window_PW.repeat_interleave(state.rows // len(prefix_PT), dim=0)
        return self.model.prefill(state.inner, window_PW.contiguous())

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Append one token per row: logits [B, V]."""
        assert isinstance(state, TruncatedState)
        assert state.inner is not None and state.window_BW is not None
        longer = torch.cat([state.window_BW, token_B.unsqueeze(1)], dim=1)
        state.window_BW = longer[:, -self.tokens :].contiguous()
        return self.model.prefill(state.inner, state.window_BW)


class LatePrefix(_Truncated):
    """The model sees the last `tokens` tokens of the prefix, at positions from 0, and all that was drawn since.

    With 1 this is the amateur of Li et al. 2022 (arXiv 2210.15097, section 3.4), and with the expert on the whole
    prefix the contrast of context-aware decoding (arXiv 2305.14739): the same model with and without context.
    """

    @property
    def max_positions(self) -> int | None:
        """The model's own."""
        return self.model.max_positions

    @property
    def path(self) -> str:
        """How it runs."""
        return f"{self.model.path}; without the prefix but its last {self.tokens} tokens"

    def allocate(self, rows: int, length: int) -> State:
        """The model's state."""
        return self.model.allocate(rows, length)

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Start afresh: logits [P, V]."""
        return self.model.prefill(state, prefix_PT[:, -self.tokens :].contiguous())

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Append one token per row: logits [B, V]."""
        return self.model.step(state, token_B)
