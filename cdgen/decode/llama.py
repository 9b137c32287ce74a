"""The fast path: the Llama family as plain torch over fused weights and caches allocated once.

Llama (SmolLM, SmolLM2 and others are Llamas), Mistral with its window, Qwen 2 and Qwen 3: RMSNorm, rotary
positions, grouped queries, SwiGLU, a tied or an untied head. What differs from transformers' forward:

- one product for queries, keys and values, one for gate and up, over weights laid out ahead (`linear.py`);
- a cache whose prefix part is stored once for all completions, read at the speed of memory (`attention.py`);
- the residual stream and the norms are float32 whatever the weights are, and so are the logits, which are never
  rounded to bfloat16: a bfloat16 logit of 16 is off by up to 0.06 nats (`linear.Head`);
- the two halves of a rotary pair lie side by side (rows of the weights are permuted, which no score
  notices), so that rotation is one complex multiplication.

The path to the position leads through a `Cursor` alone: a step has no other number that changes, so that a
CUDA graph can take another cursor that reads it from the device.

Shapes: B rows, P prefixes, t tokens of a prefix, R sequences (P in a prefill, B in a step), T tokens of each
(t or 1), C hidden size, H query heads, J key-value heads, D head size, F feed-forward size, V vocabulary entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from cdgen.decode.attention import Geometry, PageMap, Pages, Slots
from cdgen.decode.linear import Head, Linear
from cdgen.decode.models import State, attention_windows, max_positions_of, vocab_size_of
from cdgen.errors import UsageError

FAMILY: tuple[type, ...] = (
    LlamaForCausalLM,
    MistralForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)
"""By exact type: a subclass may compute something else."""

FIXED_ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary frequencies that do not depend on how long a sequence has become."""

WEIGHTS = (torch.float32, torch.bfloat16)


@dataclass
class LlamaState(State):
    """Caches and rotation table; they keep their memory while prefixes and prefix tokens stay as many."""

    rope: Tensor = field(default_factory=lambda: torch.empty(0))
    """Rotations, complex64 [length, H + J, D / 2]: of queries, times the scale of scores, and of keys."""
    geometry: Geometry | None = None
    """Known at the first prefill."""
    caches: list[Slots] | list[Pages] = field(default_factory=list)
    """Layer by layer: `Pages` on a CPU, else `Slots`."""


class Position(Protocol):
    """What a forward asks about where it is: `Cursor`, `Prefix`, or another one for captured steps."""

    def rope(self, table_LD: Tensor) -> Tensor:
        """The rows of `LlamaState.rope` for the tokens, [T, H + J, D / 2]."""

    def attend(self, cache: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store keys and values [R * T, J, D]; attend with queries [R * T, H, D], scaled before: [R * T, H, D]."""


@dataclass(frozen=True)
class Cursor:
    """A step at `position`, the number of tokens that a row holds before it."""

    position: int

    def rope(self, table_LD: Tensor) -> Tensor:
        """The rotation of that position."""
        return table_LD[self.position : self.position + 1]

    def attend(self, cache: Slots | Pages, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One query per row against all that it sees."""
        return cache.step(query, key, value, self.position)


@dataclass(frozen=True)
class Prefix:
    """A prefill of P prefixes of `tokens` tokens."""

    tokens: int

    def rope(self, table_LD: Tensor) -> Tensor:
        """The rotations of the first positions."""
        return table_LD[: self.tokens]

    def attend(self, cache: Slots | Pages, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention of the prefix to itself."""
        query, key, value = (x.reshape(-1, self.tokens, *x.shape[1:]) for x in (query, key, value))
        cache.prefill(key, value)
        out = functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=_band(self.tokens, cache.window, query.device),
            scale=1.0,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        return out.transpose(1, 2).flatten(0, 1)


def _band(tokens: int, window: int | None, device: torch.device) -> Tensor:
    """True where a query sees a key: itself and, of those before it, at most `window` - 1."""
    past = torch.arange(tokens, device=device)
    distance = past.unsqueeze(1) - past
    return (distance >= 0) & (distance < (tokens if window is None else window))


@dataclass(frozen=True)
class Norm:
    """RMSNorm in float32."""

    weight_C: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normed over the last dimension; float32 in, float32 out."""
        if x.device.type != "cpu":
            return functional.rms_norm(x, self.weight_C.shape, self.weight_C, self.epsilon)
        # Four passes with temporaries in torch's own, two here.
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(self.epsilon).rsqrt_()
        return (x * scale).mul_(self.weight_C)


@dataclass(frozen=True)
class Layer:
    """One block's weights."""

    attention_norm: Norm
    qkv: Linear
    """Queries, keys and values; rows of queries and keys in rotary pairs."""
    query_norm: Norm | None
    key_norm: Norm | None
    out: Linear
    mlp_norm: Norm
    gate_up: Linear
    down: Linear
    window: int | None


class LlamaModel:
    """A model of the Llama family behind the engine's interface.

    Args:
        model: of transformers, in evaluation mode; its weights are copied, it is not kept.
        cache_dtype: of keys and values, independent of the weights'.
        paged: store keys and values in pages; by default on CPUs.

    Raises:
        UsageError: the model is not of the family, or has a feature that this path does not know.
    """

    @torch.inference_mode()
    def __init__(
        self, model: PreTrainedModel, *, cache_dtype: torch.dtype, paged: bool | None = None
    ) -> None:
        obstacle = _obstacle(model)
        if obstacle is not None:
            raise UsageError(f"{type(model).__name__} has no fast path: it {obstacle}")
        config: Any = model.config
        self.vocab_size, self.max_positions = vocab_size_of(model), max_positions_of(model)
        self.device, self.dtype, self.cache_dtype = model.device, model.dtype, cache_dtype
        self.num_weights = sum(weight.numel() for weight in model.parameters())
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.paged = self.device.type == "cpu" if paged is None else paged
        base = cast(Any, model).model
        self.rotary: nn.Module = base.rotary_emb
        self.embedding_VC: Tensor = base.embed_tokens.weight.detach()
        windows = attention_windows(model)
        self.layers = [
            self._layer(block, window) for block, window in zip(base.layers, windows, strict=True)
        ]
        self.final_norm = _norm(base.norm)
        head = cast(Any, model).lm_head
        self.head = Head(head.weight.detach(), None if head.bias is None else head.bias.detach())
        self.exits: set[int] = set()
        self.taps: dict[int, Tensor] = {}

    def _layer(self, block: Any, window: int | None) -> Layer:
        attention, mlp = block.self_attn, block.mlp
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        return Layer(
            attention_norm=_norm(block.input_layernorm),
            qkv=_fused(self._paired(query), self._paired(key), (value.weight, value.bias)),
            query_norm=self._paired_norm(norms[0]),
            key_norm=self._paired_norm(norms[1]),
            out=_fused((attention.o_proj.weight, attention.o_proj.bias)),
            mlp_norm=_norm(block.post_attention_layernorm),
            gate_up=_fused(
                (mlp.gate_proj.weight, mlp.gate_proj.bias), (mlp.up_proj.weight, mlp.up_proj.bias)
            ),
            down=_fused((mlp.down_proj.weight, mlp.down_proj.bias)),
            window=window,
        )

    def _paired(self, linear: Any) -> tuple[Tensor, Tensor | None]:
        """Weights whose outputs i and i + D / 2 of a head, which rotate together, are neighbours."""
        bias = None if linear.bias is None else _pair(linear.bias, self.head_size)
        return _pair(linear.weight, self.head_size), bias

    def _paired_norm(self, norm: Any) -> Norm | None:
        if norm is None:
            return None
        plain = _norm(norm)
        return Norm(_pair(plain.weight_C, self.head_size), plain.epsilon)

    @property
    def num_layers(self) -> int:
        """Blocks."""
        return len(self.layers)

    @property
    def path(self) -> str:
        """How it runs."""
        layout = "pages" if self.paged else "slots"
        return f"Llama fast path, cache in {layout} of {self.cache_dtype}, prefixes shared"

    def allocate(self, rows: int, length: int) -> LlamaState:
        """The rotation table; caches are taken at the first prefill, when prefixes are known."""
        positions = torch.arange(length, device=self.device).unsqueeze(0)
        like = torch.empty(0, device=self.device)
        with torch.inference_mode():
            cos, sin = self.rotary(like, positions)
            half = self.head_size // 2
            turn = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float()).unsqueeze(1)
            # The scale of the scores costs nothing here.
            queries = (turn * self.head_size**-0.5).expand(-1, self.heads, -1)
            rope = torch.cat((queries, turn.expand(-1, self.kv_heads, -1)), dim=1)
        return LlamaState(rows=rows, length=length, rope=rope)

    @torch.inference_mode()
    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Start afresh: float32 logits [P, V] after the prefixes, whose keys and values all rows share."""
        assert isinstance(state, LlamaState)
        self._take_caches(state, *prefix_PT.shape)
        state.filled = prefix_PT.shape[1]
        return self.forward(state, prefix_PT, Prefix(state.filled))

    @torch.inference_mode()
    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Append one token per row: float32 logits [B, V]."""
        assert isinstance(state, LlamaState)
        state.filled += 1
        return self.forward(state, token_B.unsqueeze(1), Cursor(state.filled - 1))

    def _take_caches(self, state: LlamaState, prefixes: int, prefix_tokens: int) -> None:
        """Memory for these prefixes: kept from the batch before where they are as many and as long."""
        geometry = Geometry(
            rows=state.rows,
            prefixes=prefixes,
            prefix_tokens=prefix_tokens,
            length=state.length,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_size=self.head_size,
            dtype=self.cache_dtype,
            device=self.device,
        )
        if state.geometry == geometry:
            return
        state.caches = []  # first give back, then take
        windows = [layer.window for layer in self.layers]
        if self.paged:
            pages = PageMap(geometry)
            state.caches = [Pages(pages, window=window) for window in windows]
        else:
            state.caches = [Slots(geometry, window=window) for window in windows]
        state.geometry = geometry

    def forward(self, state: LlamaState, ids_RT: Tensor, position: Position) -> Tensor:
        """Logits [R, V] after the last token of each sequence, float32.

        Reads no Python number that changes from step to step: `position` alone knows where it is.
        """
        rope = position.rope(state.rope)
        hidden = self.embedding_VC[ids_RT.flatten()].float()  # a copy, added to in place
        caches: Sequence[Slots | Pages] = state.caches
        for depth, (layer, cache) in enumerate(zip(self.layers, caches, strict=True), start=1):
            hidden.add_(self._attention(layer, cache, hidden, rope, position))
            hidden.add_(self._mlp(layer, hidden))
            if depth in self.exits:
                self.taps[depth] = _last(hidden, ids_RT).clone()
        return self.logits(_last(hidden, ids_RT))

    def _attention(
        self, layer: Layer, cache: Slots | Pages, hidden: Tensor, rope: Tensor, position: Position
    ) -> Tensor:
        qkv = layer.qkv(layer.attention_norm(hidden).to(self.dtype)).float()
        qkv = qkv.view(len(qkv), -1, self.head_size)
        turning = self.heads + self.kv_heads
        both, value = qkv[:, :turning], qkv[:, turning:]
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = both[:, : self.heads], both[:, self.heads :]
            both = torch.cat((layer.query_norm(query), layer.key_norm(key)), dim=1)
        both = _rotate(both, rope)
        out = position.attend(cache, both[:, : self.heads], both[:, self.heads :], value)
        return layer.out(out.to(self.dtype).flatten(1))

    def _mlp(self, layer: Layer, hidden: Tensor) -> Tensor:
        gate, up = layer.gate_up(layer.mlp_norm(hidden).to(self.dtype)).chunk(2, dim=1)
        return layer.down(functional.silu(gate).mul_(up))

    def logits(self, hidden_RC: Tensor) -> Tensor:
        """Float32 logits [R, V] of hidden states, through the final norm and the head."""
        return self.head(self.final_norm(hidden_RC))

    def exit_at(self, layer: int) -> "EarlyExit":
        """An amateur that reads this model's hidden state after `layer` of its last forward.

        Raises:
            UsageError: no such layer, or the last one, which would be the expert itself.
        """
        if not 1 <= layer < len(self.layers):
            raise UsageError(
                f"amateur.layer must lie between 1 and {len(self.layers) - 1}, found {layer}"
            )
        self.exits.add(layer)
        return EarlyExit(self, layer)


class EarlyExit:
    """A layer of an expert through the expert's own final norm and head: no second forward.

    The engine runs the expert first; what it is given by the engine, it has seen already.
    """

    def __init__(self, expert: LlamaModel, layer: int) -> None:
        self.expert, self.layer = expert, layer
        self.vocab_size, self.max_positions = expert.vocab_size, expert.max_positions
        self.device = expert.device

    @property
    def path(self) -> str:
        """How it runs."""
        return f"early exit after layer {self.layer} of the expert's own forward"

    def allocate(self, rows: int, length: int) -> State:
        """Nothing: the expert's caches serve both."""
        return State(rows=rows, length=length)

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Float32 logits [P, V] of the prefill that the expert has just made."""
        return self._logits(state, len(prefix_PT))

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Float32 logits [B, V] of the step that the expert has just made."""
        return self._logits(state, len(token_B))

    @torch.inference_mode()
    def _logits(self, _state: State, rows: int) -> Tensor:
        hidden_RC = self.expert.taps.pop(self.layer, None)  # so a stale one is never read
        assert hidden_RC is not None and len(hidden_RC) == rows, "the expert must have just run"
        return self.expert.logits(hidden_RC)


def has_fast_path(model: PreTrainedModel) -> bool:
    """True when every feature of the model is one that `LlamaModel` computes."""
    return _obstacle(model) is None


def _obstacle(model: PreTrainedModel) -> str | None:
    """What keeps the model from the fast path, in a few words."""
    config: Any = model.config
    if type(model) not in FAMILY:
        return "is not of the Llama family"
    if config.hidden_act not in ("silu", "swish"):
        return f"has the activation {config.hidden_act}"
    rope = config.rope_parameters
    if rope.get("rope_type") not in FIXED_ROPES:
        return f"has {rope.get('rope_type')} rotary positions"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "rotates a part of each head"
    if {type(part) for part in model.modules() if isinstance(part, nn.Linear)} != {nn.Linear}:
        return "has special linear layers"
    if any(weight.dtype not in WEIGHTS for weight in model.parameters()):
        return "has weights that are neither float32 nor bfloat16"
    return None


def _norm(norm: Any) -> Norm:
    return Norm(norm.weight.detach().float(), float(norm.variance_epsilon))


def _fused(*parts: tuple[Tensor, Tensor | None]) -> Linear:
    """Linear maps of the same input as one."""
    weight = torch.cat([weight.detach() for weight, _ in parts])
    biases = [bias for _, bias in parts]
    if all(bias is None for bias in biases):
        return Linear(weight)
    filled = [
        part_weight.new_zeros(len(part_weight)) if bias is None else bias.detach()
        for part_weight, bias in parts
    ]
    return Linear(weight, torch.cat(filled))


def _pair(rows: Tensor, head_size: int) -> Tensor:
    """Rows of each head reordered from (0, 1, …, D - 1) to (0, D/2, 1, D/2 + 1, …)."""
    heads = rows.detach().view(-1, 2, head_size // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def _rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotary positions: float32 [R * T, heads, D] times complex [T, heads, D / 2]; T runs fastest in x."""
    pairs = torch.view_as_complex(x.view(-1, *rope.shape, 2))
    return torch.view_as_real(pairs * rope).view(x.shape)


def _last(hidden: Tensor, ids_RT: Tensor) -> Tensor:
    """Hidden states [R, C] of the last tokens, from [R * T, C]."""
    return hidden.view(*ids_RT.shape, -1)[:, -1]
