"""Key-value caches allocated once, and the attention that reads them.

transformers' own dynamic cache grows by concatenation: every step copies every cached token. Its static
cache attends over unused positions behind a mask. Here each layer owns one buffer of its final size, a
step writes its token in place, and attention gets a view of the filled part: no copy, no mask.
Cost: 2 * layers * rows * kv_heads * length * head_dim numbers, for as long as the engine lives.

A prefix runs through the model once and its keys and values are written into the rows of all its
completions. Weights and cache may differ in dtype: keys and values are cast when they are written, and
the query when it meets them.

Shapes: B rows, P prefixes, H heads, J key-value heads, G = H / J queries per key, T cached tokens, D head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "cdgen_decode"
"""The name under which `register_attention` makes `attend` known to transformers."""


class FixedLayer(CacheLayerMixin):
    """One layer's keys and values, [B, J, length, D], allocated at the first prefix and reused.

    Args:
        rows: B, a multiple of the number of prefixes that will be prefilled.
        length: tokens a row can hold, prefix included.
        dtype: of the buffers.
        window: tokens a query sees, itself included; None = all.
        cast_back: return copies in the query's dtype, for attention code that needs one dtype.
    """

    def __init__(
        self, *, rows: int, length: int, dtype: torch.dtype, window: int | None, cast_back: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers' own
        self.rows, self.length, self.dtype = rows, length, dtype
        self.window, self.cast_back = window, cast_back
        self.is_sliding = window is not None  # transformers picks the layer's mask by this name
        self.filled = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, now that heads, head size and device are known."""
        on_cpu = key_states.device.type == "cpu"
        self.key_buffer = self._buffer(key_states, tokens_last=on_cpu)
        self.value_buffer = self._buffer(value_states, tokens_last=False)
        self.keys, self.values = self.key_buffer, self.value_buffer  # the names transformers knows
        self.is_initialized = True

    def _buffer(self, like: Tensor, *, tokens_last: bool) -> Tensor:
        """[B, J, length, D]; in memory as [B, J, D, length] where that makes q.k read faster."""
        _, heads, _, size = like.shape
        if tokens_last:
            shape = (self.rows, heads, size, self.length)
            return torch.empty(shape, dtype=self.dtype, device=like.device).transpose(2, 3)
        shape = (self.rows, heads, self.length, size)
        return torch.empty(shape, dtype=self.dtype, device=like.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append tokens; return the keys and values that their queries see.

        The first call holds P prefixes, [P, J, t, D], which attend to themselves alone and are shared
        by B / P rows each; later calls hold one token of B rows.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, self.filled = self.filled, self.filled + key_states.shape[2]
        for buffer, new in (
            (self.key_buffer, key_states),
            (self.value_buffer, value_states),
        ):
            shared = buffer.view(new.shape[0], -1, *buffer.shape[1:])  # [P, B / P, J, length, D]
            shared[:, :, :, begin : self.filled] = new.unsqueeze(1)
        if begin == 0:
            return key_states, value_states
        return self._seen(self.key_buffer, key_states), self._seen(self.value_buffer, value_states)

    def _seen(self, buffer: Tensor, like: Tensor) -> Tensor:
        seen = buffer[:, :, self._first_seen() : self.filled]
        return seen.to(like.dtype) if self.cast_back else seen

    def _first_seen(self) -> int:
        return 0 if self.window is None else max(0, self.filled - self.window)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(tokens seen, position of the first of them) for the next `query_length` queries."""
        if self.filled == 0 or self.window is None:
            return self.filled + query_length, 0
        first = max(0, self.filled + query_length - self.window)
        return self.filled + query_length - first, first

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.filled

    def get_max_length(self) -> int:
        """Tokens it can hold."""
        return self.length

    def reset(self) -> None:
        """Forget the tokens and keep the memory; what is not filled is never read."""
        self.filled = 0


def register_attention() -> None:
    """Make `attend` and its masks known to transformers as ATTENTION; harmless when repeated."""
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, _mask)


def _mask(batch_size: int, q_length: int, kv_length: int, **kwargs: Any) -> Tensor | None:
    """No mask for one query: `FixedLayer` returns exactly the tokens that it sees."""
    if q_length == 1:
        return None
    mask: Tensor | None = sdpa_mask(batch_size, q_length, kv_length, **kwargs)
    return mask


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, in the dtype of the keys. Returns [B, queries, H, D] and None."""
    dtype = query.dtype
    query = query.to(key.dtype)
    if query.shape[2] == 1 and query.device.type == "cpu" and kwargs.get("position_bias") is None:
        out = attend_one(query, key, value, scale=scaling or query.shape[-1] ** -0.5)
    else:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    return out.to(dtype), None


def attend_one(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """One query per row against all keys given: [B, H, 1, D], [B, J, T, D] -> [B, 1, H, D].

    On a CPU two batched products read the cache about a quarter faster than
    scaled_dot_product_attention does with one query.
    """
    rows, heads, _, _ = query.shape
    groups = query.reshape(rows * key.shape[1], heads // key.shape[1], query.shape[3])  # [BJ, G, D]
    keys, values = key.flatten(0, 1), value.flatten(0, 1)  # views: the slice is along T
    score = torch.baddbmm(
        groups.new_empty(()), groups, keys.transpose(1, 2), beta=0, alpha=scale
    )  # [BJ, G, T]; beta=0 ignores the first argument
    out = torch.bmm(torch.softmax(score, dim=-1), values)
    return out.view(rows, 1, heads, value.shape[3])
