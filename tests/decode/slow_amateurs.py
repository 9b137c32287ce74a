"""Every kind of amateur in the most obvious way, for the tests of cdgen.decode.amateurs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from decode.tiny_models import VOCAB, cast_to, llama
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from cdgen.decode import ngram, sampling
from cdgen.decode.amateurs import quantized

PREFIXES, COMPLETIONS, PREFIX_TOKENS, NEW_TOKENS = 4, 3, 7, 16
ROWS, LENGTH = PREFIXES * COMPLETIONS, PREFIX_TOKENS + NEW_TOKENS


def text() -> npt.NDArray[np.int64]:
    return np.random.default_rng(5).integers(0, VOCAB, 4000)


def prefixes() -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, VOCAB, (PREFIXES, PREFIX_TOKENS))


def keyed_uniforms() -> npt.NDArray[np.float64]:
    keys = [sampling.rng_key(7, f"p{p}", c) for p in range(PREFIXES) for c in range(COMPLETIONS)]
    return np.stack([sampling.uniforms(key, NEW_TOKENS) for key in keys])


@torch.inference_mode()
def full(model: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    """The logits each drawn token was drawn from, [B, new, V], by one plain forward."""
    logits: Tensor = model(input_ids=ids_BT, use_cache=False).logits
    return logits[:, PREFIX_TOKENS - 1 : -1].float()


@torch.inference_mode()
def of_contexts(model: PreTrainedModel, ids_BT: Tensor, first: Callable[[int], int]) -> Tensor:
    """The same where the token at position t is predicted from tokens first(t) to t - 1, one at a time."""
    steps = [
        model(input_ids=ids_BT[:, first(t) : t], use_cache=False).logits[:, -1]
        for t in range(PREFIX_TOKENS, LENGTH)
    ]
    return torch.stack(steps, dim=1)


def truncated_layers(layers: int) -> PreTrainedModel:
    """The expert without its last layers."""
    model = llama(1)
    model.model.layers = model.model.layers[:layers]
    return model


def rounded_naively(bits: int) -> PreTrainedModel:
    """The expert with each weight put on its grid in Python's arithmetic."""
    model = llama(1)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            rows = [_naive(row, bits) for row in module.weight.tolist()]
            module.weight.data = torch.tensor(rows)
    return model


def _naive(row: list[float], bits: int) -> list[float]:
    if bits == 8:
        scale = max(map(abs, row)) / 127
        return [round(weight / scale) * scale for weight in row]
    assert len(row) <= quantized.GROUP, "one group"
    low, high = min([0.0, *row]), max([0.0, *row])
    scale = (high - low) / 15
    zero = round(-low / scale)
    return [(min(15, max(0, round(w / scale) + zero)) - zero) * scale for w in row]


M32, M64 = 2**32 - 1, 2**64 - 1


def mix(x: int) -> int:
    x &= M64
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & M64
    return x ^ x >> 31


def bits_of(key: int, *place: int) -> int:
    """The 32 hashed bits of one attention weight, in Python's integers."""
    layer, head, query, position = place
    stream = mix(mix(mix(mix(key) + layer) + head) + query)
    x = (position * 0x9E3779B9 & M32) ^ stream >> 32
    x = ((x ^ x >> 16) * 0x85EBCA6B & M32) ^ stream & M32
    x = (x ^ x >> 13) * 0xC2B2AE35 & M32
    return x ^ x >> 16


def kept(key: int, *place: int, p: float) -> bool:
    """Whether the attention weight of (layer, head, query, position) stays."""
    signed = bits_of(key, *place)
    return signed - (1 << 32 if signed >= 1 << 31 else 0) >= round(p * 2**32) - 2**31


class MaskedByHand(nn.Module):
    """A Llama's attention with an explicit dropout mask, over the whole row, in float64."""

    def __init__(self, inner: Any, keys: list[int], p: float) -> None:
        super().__init__()
        self.inner, self.keys, self.p = inner, keys, p

    def forward(self, hidden_states: Tensor, position_embeddings: Any, **_: Any) -> Any:
        rows, length, _width = hidden_states.shape
        size, layer = self.inner.head_dim, self.inner.layer_idx
        query, key, value = (
            part(hidden_states).view(rows, length, -1, size).transpose(1, 2)
            for part in (self.inner.q_proj, self.inner.k_proj, self.inner.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        heads = query.shape[1]
        key, value = (part.repeat_interleave(heads // part.shape[1], 1) for part in (key, value))
        score = (query @ key.transpose(2, 3)).double() / math.sqrt(size)
        score += torch.full((length, length), -math.inf).triu(1)
        weight = score.softmax(-1)
        for b, row_key in enumerate(self.keys):
            for h in range(heads):
                for q in range(length):
                    for k in range(q + 1):
                        keep = kept(row_key, layer, h, q, k, p=self.p)
                        weight[b, h, q, k] *= keep / (1 - self.p)
        out = (weight.to(value.dtype) @ value).transpose(1, 2).reshape(rows, length, -1)
        return self.inner.o_proj(out), None


def dropped_by_hand(ids_BT: Tensor, p: float) -> Tensor:
    model = cast_to(llama(1), torch.float64)
    keys = sampling.row_keys(keyed_uniforms()).view(np.uint64).tolist()
    for layer in model.model.layers:
        layer.self_attn = MaskedByHand(layer.self_attn, keys, p)
    return full(model, ids_BT)


def slow_logits(kind: str, ids_BT: Tensor) -> Tensor:
    """What the amateur says of every drawn token, computed in the most obvious way."""
    if kind in ("checkpoint", "model"):
        return full(llama(2, sharpness=3.0), ids_BT)
    if kind == "dropout":
        return dropped_by_hand(ids_BT, 0.5)
    if kind == "early_exit":
        return full(truncated_layers(1), ids_BT)
    if kind.startswith("quantized"):
        return full(rounded_naively(int(kind[-1])), ids_BT)
    if kind == "last-tokens":
        return of_contexts(llama(1), ids_BT, lambda t: t - 4)
    if kind == "late-prefix":
        return of_contexts(llama(1), ids_BT, lambda _: PREFIX_TOKENS - 1)
    if kind == "temperature":
        return full(llama(1), ids_BT)
    return _counted(ids_BT)


def _counted(ids_BT: Tensor) -> Tensor:
    model = ngram.NgramModel(ngram.count(text(), 3), vocab_size=VOCAB)
    rows = []
    for row in ids_BT.numpy():
        for t in range(PREFIX_TOKENS, LENGTH):
            after = [np.append(row[:t], v) for v in range(VOCAB)]
            rows.append([model.token_logp(line)[-1] for line in after])
    return torch.tensor(rows).view(len(ids_BT), NEW_TOKENS, VOCAB)
