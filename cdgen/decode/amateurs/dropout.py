"""An amateur that is the expert with attention dropout while it decodes (CD-Drop; paper section 1).

As in training, each attention weight is dropped with probability p after the softmax and the rest is divided by
1 - p; keys and values are cached as they were computed under dropout, and every step draws fresh masks.

A mask is no generator's state but a hash of what it is for: (row key, layer, head, query position, key position).
So a row's masks depend neither on its batch, nor on the worker, nor on a resume, and one full forward pass gives the
same masks as token by token. The row key comes from the row's own uniforms (`sampling.row_keys`). As completions of
one prefix have different masks, the prefix runs once per row, not once per prefix.

Cost: the expert's, plus about a dozen integer operations per attention weight. Attention is written out, since the
fused kernels take no mask of ours.

Shapes: B rows, P prefixes, H heads, J key-value heads, G = H / J, Q queries, T keys, D head size.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from cdgen.decode.models import GeneralModel, State
from cdgen.errors import UsageError

ATTENTION = "cdgen_dropout"
"""The name under which `attend` is known to transformers."""

_GOLDEN = -0x61C88647  # 0x9E3779B9, as int32
_MULTIPLY_1 = -0x7A143595  # 0x85EBCA6B
_MULTIPLY_2 = -0x3D4D51CB  # 0xC2B2AE35


@dataclass
class DropoutState(State):
    """A cache, and what the masks follow from."""

    key_B: Tensor | None = None
    """Row keys, int64."""


@dataclass(frozen=True)
class Masks:
    """The masks of one forward pass."""

    key_B: Tensor
    probability: float
    last: int
    """Position of the last query; it is the last key's too."""

    def keep(self, layer: int, heads: int, queries: int, keys: int) -> Tensor:
        """True where an attention weight stays: bool [B, H, Q, T]."""
        device = self.key_B.device
        head_H = torch.arange(heads, device=device)
        query_Q = torch.arange(self.last - queries + 1, self.last + 1, device=device)
        stream_BH = mix64(mix64(mix64(self.key_B) + layer)[:, None] + head_H)
        position_T = torch.arange(self.last - keys + 1, self.last + 1, device=device)
        stream_BHQ = mix64(stream_BH[:, :, None] + query_Q)
        bits_BHQT = hashed(stream_BHQ, position_T.to(torch.int32))
        return bits_BHQT >= round(self.probability * 2**32) - 2**31


def mix64(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): int64 to int64, one to one, elementwise."""
    x = (x ^ _right(x, 30, 64)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ _right(x, 27, 64)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ _right(x, 31, 64)


def hashed(stream: Tensor, position_T: Tensor) -> Tensor:
    """32 hashed bits as int32, [..., T], from 64-bit streams `...` and positions.

    The multiplications and shifts of MurmurHash3's finaliser, with half of the stream before the first and half in
    between. In place: over [B, H, Q, T] memory is what costs.
    """
    high = (stream >> 32).to(torch.int32).unsqueeze(-1)
    low = (stream << 32 >> 32).to(torch.int32).unsqueeze(-1)  # sign-extended: it always fits
    x = (position_T * _GOLDEN) ^ high
    x.bitwise_xor_(_right(x, 16, 32)).mul_(_MULTIPLY_1).bitwise_xor_(low)
    x.bitwise_xor_(_right(x, 13, 32)).mul_(_MULTIPLY_2)
    return x.bitwise_xor_(_right(x, 16, 32))


def _right(x: Tensor, by: int, bits: int) -> Tensor:
    """The logical shift: torch's own repeats the sign."""
    return (x >> by).bitwise_and_((1 << (bits - by)) - 1)


class DropoutModel(GeneralModel):
    """A causal model of transformers with attention dropout and a cache of its own.

    Args:
        model: in evaluation mode; its attention is switched to `attend`.
        cache_dtype: of keys and values.
        probability: with which an attention weight is dropped.

    Raises:
        UsageError: the model's attention is not one that can be put in its place.
    """

    def __init__(
        self, model: PreTrainedModel, *, cache_dtype: torch.dtype, probability: float
    ) -> None:
        super().__init__(model, cache_dtype=cache_dtype)
        if self.cast_back:  # it keeps its own attention code
            raise UsageError(
                f"amateur dropout: the attention of {type(model).__name__} cannot be exchanged; "
                "take another kind of amateur"
            )
        self.probability = probability
        AttentionInterface.register(ATTENTION, attend)
        AttentionMaskInterface.register(ATTENTION, _mask)
        model.set_attn_implementation(ATTENTION)

    @property
    def path(self) -> str:
        """How it runs."""
        return f"{super().path}, attention dropout {self.probability:g}"

    def allocate(self, rows: int, length: int) -> DropoutState:
        """A cache; `key_rows` sets what the masks follow from."""
        plain = super().allocate(rows, length)
        return DropoutState(rows=rows, length=length, layers=plain.layers, cache=plain.cache)

    def key_rows(self, state: State, key_B: Tensor) -> None:
        """Set the rows' keys, int64 [B], before the batch's prefill."""
        assert isinstance(state, DropoutState)
        state.key_B = key_B.to(self.device)

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Start afresh: logits [B, V], since every row has masks of its own."""
        return super().prefill(
            state, prefix_PT.repeat_interleave(state.rows // len(prefix_PT), dim=0)
        )

    @torch.inference_mode()
    def _forward(self, state: State, ids: Tensor) -> Tensor:
        assert isinstance(state, DropoutState)
        assert state.key_B is not None, "key_rows comes before prefill"
        masks = Masks(state.key_B, self.probability, state.filled - 1)
        cache: Any = {self.cache_argument: state.cache}
        out = self.model(input_ids=ids, use_cache=True, dropout_masks=masks, **cache, **self.extra)
        logits: Tensor = out.logits[:, -1]
        return logits.float()


def _mask(batch_size: int, q_length: int, kv_length: int, **kwargs: Any) -> Tensor | None:
    """Always the mask itself for more than one query: nothing here takes a word for it."""
    if q_length == 1:
        return None
    mask: Tensor | None = sdpa_mask(
        batch_size, q_length, kv_length, **{**kwargs, "allow_is_causal_skip": False}
    )
    return mask


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout_masks: Masks | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention with `dropout_masks`, as transformers calls it. Returns [B, Q, H, D] and None."""
    layer = getattr(module, "layer_idx", None)
    if dropout_masks is None or layer is None or kwargs.get("position_bias") is not None:
        raise UsageError(
            f"amateur dropout: {type(module).__name__} does not take dropout from outside; "
            "take another kind of amateur"
        )
    dtype = query.dtype
    rows, heads, queries, size = query.shape
    groups = query.to(key.dtype).reshape(rows, key.shape[1], -1, size)  # [B, J, G Q, D]
    score = (groups @ key.transpose(2, 3)).float().view(rows, heads, queries, -1)
    score *= scaling or size**-0.5
    if attention_mask is not None:
        score.masked_fill_(~attention_mask, -math.inf)
    weight = torch.softmax(score, dim=-1)
    weight *= dropout_masks.keep(layer, heads, queries, key.shape[2])
    weight /= 1 - dropout_masks.probability
    out = weight.view(*groups.shape[:3], -1).to(value.dtype) @ value  # [B, J, G Q, D]
    return out.view(rows, heads, queries, -1).transpose(1, 2).contiguous().to(dtype), None
