"""The benchmark's sizes, and random weights whose heads are as large as a trained model's."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cdgen.decode import sampling

EXPERT_SPREAD, AMATEUR_SPREAD = 3.84, 2.56
"""Standard deviations of the logits: the expert's heads then have about ten tokens of 8,192."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    kv_heads: int = 0
    """0: as many as heads."""

    @property
    def kv_hidden(self) -> int:
        """Numbers of a token's keys, and of its values."""
        return self.hidden // self.heads * (self.kv_heads or self.heads)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A pair of models of one shape, a third a twentieth as large, and the rows that they decode."""

    shape: Shape
    small: Shape
    vocab: int
    rows: int
    completions: int = 8
    prefix_tokens: int = 20
    new_tokens: int = 400

    @property
    def prefixes(self) -> int:
        """P."""
        return self.rows // self.completions

    @property
    def length(self) -> int:
        """Tokens of a whole row."""
        return self.prefix_tokens + self.new_tokens


SIZES = {
    "tiny": Size(
        shape=Shape(layers=2, hidden=32, heads=2, ffn=64),
        small=Shape(layers=1, hidden=16, heads=1, ffn=8),
        vocab=128,
        rows=8,
        completions=4,
        new_tokens=12,
    ),
    "quickstart": Size(
        shape=Shape(layers=4, hidden=192, heads=3, kv_heads=1, ffn=576),
        small=Shape(layers=1, hidden=96, heads=3, kv_heads=1, ffn=192),
        vocab=4096,
        rows=228,
        completions=6,
        new_tokens=200,
    ),
    "cpu": Size(
        shape=Shape(layers=6, hidden=256, heads=4, ffn=1024),
        small=Shape(layers=2, hidden=96, heads=2, ffn=320),
        vocab=8192,
        rows=128,
    ),
    "gpu": Size(
        shape=Shape(layers=12, hidden=768, heads=12, ffn=3072),
        small=Shape(layers=6, hidden=256, heads=4, ffn=1024),
        vocab=32000,
        rows=128,
    ),
}


def model_of(
    size: Size, shape: Shape, *, seed: int, spread: float, dtype: torch.dtype
) -> PreTrainedModel:
    """A Llama with weights from `seed` and logits of the standard deviation `spread`."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size.vocab,
            hidden_size=shape.hidden,
            intermediate_size=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads or shape.heads,
            max_position_embeddings=1024,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=None,
        )
    )
    head = model.lm_head.weight.data
    head.mul_(spread / (float(head.std()) * shape.hidden**0.5))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.nn.Module.to(model, device=device, dtype=dtype).eval().requires_grad_(False)
    return cast(PreTrainedModel, model)


def pair_of(size: Size, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Expert and amateur of one shape."""
    return (
        model_of(size, size.shape, seed=1, spread=EXPERT_SPREAD, dtype=dtype),
        model_of(size, size.shape, seed=2, spread=AMATEUR_SPREAD, dtype=dtype),
    )


def prefixes_of(size: Size) -> npt.NDArray[np.int64]:
    """Random token ids [P, t]."""
    return np.random.default_rng(0).integers(3, size.vocab, (size.prefixes, size.prefix_tokens))


def uniforms_of(size: Size) -> npt.NDArray[np.float64]:
    """[B, T]."""
    return np.stack(
        [
            sampling.uniforms(sampling.rng_key(0, "bench", row), size.new_tokens)
            for row in range(size.rows)
        ]
    )
