"""Language models behind the narrow interface that the decoding loop needs.

`LanguageModel` has three calls: allocate a State, prefill prefixes, step one token per row. The loop knows
nothing else, so a faster path or another kind of amateur only has to offer the same three.

- `LlamaModel` (`llama.py`): the Llama family, the fast path.
- `GeneralModel`: any causal model of transformers whose cache is keys and values (full attention or a
  sliding window), through its own forward, with buffers allocated once (`cache.py`).
- `RecomputeModel`: any other causal model, by running the whole sequence again every step: right for every
  architecture, at a cost quadratic in the length.

Models load from safetensors only, without remote code, from a local folder.

Shapes: B rows, P prefixes, T tokens of a prefix, V vocabulary entries.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from cdgen.decode.cache import ATTENTION, FixedLayer, register_attention
from cdgen.errors import UsageError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass
class State:
    """What a model remembers of the rows it decodes; allocated once, reused for every batch."""

    rows: int
    length: int
    layers: list[FixedLayer] = field(default_factory=list)
    """Keys and values, layer by layer (GeneralModel)."""
    cache: Cache | None = None
    """The same layers, as transformers takes them."""
    ids: Tensor | None = None
    """Tokens so far, int64 [B, length] (RecomputeModel)."""
    filled: int = 0
    """Tokens a row holds."""


class LanguageModel(Protocol):
    """What the decoding loop asks of a model."""

    @property
    def vocab_size(self) -> int:
        """V: entries of the logits."""

    @property
    def max_positions(self) -> int | None:
        """The longest sequence; None = no bound is stated."""

    @property
    def device(self) -> torch.device:
        """Where tokens are taken and logits are given."""

    @property
    def path(self) -> str:
        """How it runs, in a few words, for a report."""

    def allocate(self, rows: int, length: int) -> State:
        """Memory for B rows of `length` tokens, prefix included."""

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Start afresh with P prefixes, each shared by B / P rows in a run: float32 logits [P, V], or [B, V]."""

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Append one token per row: float32 logits [B, V] of the next."""


@runtime_checkable
class Keyed(Protocol):
    """A language model with randomness of its own, which follows from the rows alone (attention dropout)."""

    def key_rows(self, state: State, key_B: Tensor) -> None:
        """Set the rows' keys, int64 [B] (`sampling.row_keys`), before the prefill of every batch."""


class _Loaded:
    """What is the same on every path: the facts of a model of transformers."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.extra = _last_logits_only(model)

    @property
    def vocab_size(self) -> int:
        """V."""
        return vocab_size_of(self.model)

    @property
    def max_positions(self) -> int | None:
        """From the model's configuration."""
        return max_positions_of(self.model)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device


class GeneralModel(_Loaded):
    """A causal model of transformers through its own forward, with a cache allocated once.

    Args:
        model: in evaluation mode; its attention is switched to `cache.attend` where it allows that.
        cache_dtype: of keys and values, independent of the weights'.

    Raises:
        UsageError: the model's cache is not plain keys and values; RecomputeModel takes those.
    """

    def __init__(self, model: PreTrainedModel, *, cache_dtype: torch.dtype) -> None:
        super().__init__(model)
        self.cache_dtype = cache_dtype
        self.windows = attention_windows(model)
        self.cache_argument = cache_argument_of(model)
        self.cast_back = not _use_own_attention(model)

    @property
    def path(self) -> str:
        """How it runs."""
        return f"transformers forward, cache allocated once in {self.cache_dtype}"

    def allocate(self, rows: int, length: int) -> State:
        """Buffers are taken at the first prefill, when head sizes are known, and then kept."""
        layers = [
            FixedLayer(
                rows=rows,
                length=length,
                dtype=self.cache_dtype,
                window=window,
                cast_back=self.cast_back,
            )
            for window in self.windows
        ]
        return State(rows=rows, length=length, layers=layers, cache=Cache(layers=[*layers]))

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Start afresh: logits [P, V] after the prefixes, whose keys and values all rows share."""
        for layer in state.layers:
            layer.reset()
        state.filled = prefix_PT.shape[1]
        return self._forward(state, prefix_PT)

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Append one token per row: logits [B, V]."""
        state.filled += 1
        return self._forward(state, token_B.unsqueeze(1))

    @torch.inference_mode()
    def _forward(self, state: State, ids: Tensor) -> Tensor:
        cache: Any = {self.cache_argument: state.cache}
        out = self.model(input_ids=ids, use_cache=True, **cache, **self.extra)
        logits: Tensor = out.logits[:, -1]
        return logits.float()


class RecomputeModel(_Loaded):
    """Any causal model, without a cache: each step runs all tokens so far. Slow and always right."""

    @property
    def path(self) -> str:
        """How it runs."""
        return "transformers forward without a cache (slow: the whole sequence every step)"

    def allocate(self, rows: int, length: int) -> State:
        """Room for the tokens."""
        ids = torch.zeros((rows, length), dtype=torch.int64, device=self.device)
        return State(rows=rows, length=length, ids=ids)

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Start afresh: logits [P, V]."""
        assert state.ids is not None
        prefixes, state.filled = prefix_PT.shape
        state.ids[:, : state.filled] = prefix_PT.repeat_interleave(state.rows // prefixes, dim=0)
        return self._forward(prefix_PT)

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Append one token per row: logits [B, V]."""
        assert state.ids is not None
        state.ids[:, state.filled] = token_B
        state.filled += 1
        return self._forward(state.ids[:, : state.filled])

    @torch.inference_mode()
    def _forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, use_cache=False, **self.extra).logits[:, -1]
        return logits.float()


def open_model(
    folder: Path, *, weights_dtype: str, cache_dtype: str, device: str = "cpu"
) -> LanguageModel:
    """The model of a folder, ready for the engine, on the fastest path that fits it.

    Args:
        folder: with config.json and *.safetensors.
        weights_dtype: float32 or bfloat16, as a recipe says it.
        cache_dtype: likewise.
        device: cpu, cuda, cuda:1, …

    Raises:
        UsageError: the folder does not hold a causal language model that can be loaded safely.
    """
    model = load(folder, dtype=dtype_of(weights_dtype), device=torch.device(device))
    return on_fastest_path(model, cache_dtype=dtype_of(cache_dtype))


def on_fastest_path(model: PreTrainedModel, *, cache_dtype: torch.dtype) -> LanguageModel:
    """A loaded model behind the engine's interface, on the fastest path that fits it."""
    from cdgen.decode.llama import LlamaModel, has_fast_path

    if has_fast_path(model):
        return LlamaModel(model, cache_dtype=cache_dtype)
    try:
        return GeneralModel(model, cache_dtype=cache_dtype)
    except UsageError:
        return RecomputeModel(model)


def dtype_of(name: str) -> torch.dtype:
    """torch's dtype for a recipe's word."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in dtypes:
        raise UsageError(f"a dtype must be float32 or bfloat16, found {name}")
    return dtypes[name]


def load(
    folder: Path, *, dtype: torch.dtype, device: torch.device, spread: Any = None
) -> PreTrainedModel:
    """A causal language model of transformers, in evaluation mode.

    Args:
        folder: with config.json and *.safetensors.
        dtype: of the weights.
        device: where they go.
        spread: transformers' DistributedConfig, where the weights are divided over processes (`parallel.py`).

    Raises:
        UsageError: one line: no such folder, no config.json, pickled weights only, an architecture that
            transformers does not know or that is no causal language model, weights missing.
    """
    _check_folder(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **({} if spread is None else {"distributed_config": spread}),
        )
    except Exception as error:  # a foreign config or file can make it raise anything
        first = str(error).strip().split("\n")[0]
        raise UsageError(
            f"{folder}: transformers cannot load it as a causal language model: {first}"
        ) from error
    model, info = loaded
    assert isinstance(model, PreTrainedModel)
    _check_complete(folder, info)
    _to(model, device).eval().requires_grad_(False)
    return model


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: no config.json; a folder that save_pretrained wrote is needed")
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise UsageError(
            f"{folder}: only pickled weights, which can run code when they are loaded; convert them "
            "where you trust them: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new)"
        )
    raise UsageError(f"{folder}: no weights; *.safetensors files are needed")


def _check_complete(folder: Path, info: dict[str, Any]) -> None:
    """Weights that a file lacks would be drawn at random by transformers, with a mere log line."""
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise UsageError(
            f"{folder}: {len(missing)} weights are missing or have another shape than config.json "
            f"says, first {missing[0]}"
        )


def _to(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    torch.nn.Module.to(
        model, device
    )  # transformers' own `to` hides its arguments from type checkers
    return model


def vocab_size_of(model: PreTrainedModel) -> int:
    """V: entries of the logits, padding included."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def max_positions_of(model: PreTrainedModel) -> int | None:
    """The longest sequence that the configuration states, if it does."""
    config = model.config.get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def _last_logits_only(model: PreTrainedModel) -> dict[str, int]:
    """The argument that spares the vocabulary projection of all positions but the last, if known."""
    known = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if known else {}


def cache_argument_of(model: PreTrainedModel) -> str | None:
    """What the model's forward calls its cache: transformers 5.24 began to rename it."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in known), None)


def attention_windows(model: PreTrainedModel) -> list[int | None]:
    """Per layer, the tokens a query sees (None = all), from the cache transformers would build."""
    name = type(model).__name__
    refusal = UsageError(f"{name} does not keep plain keys and values: it runs without a cache")
    config = model.config.get_text_config(decoder=True)
    # transformers keeps attention in chunks (Llama 4) as a window, but it sees another set of tokens.
    chunked = "chunked_attention" in (getattr(config, "layer_types", None) or ())
    if chunked or cache_argument_of(model) is None:
        raise refusal
    try:
        layers = DynamicCache(config=model.config).layers
    except KeyError as error:  # a kind of layer without a dynamic cache
        raise refusal from error
    windows: list[int | None] = []
    for layer in layers:
        # By exact type: a subclass keeps more than keys and values.
        if type(layer) is DynamicLayer:
            windows.append(None)
        elif type(layer) is DynamicSlidingWindowLayer:
            windows.append(layer.sliding_window)
        else:
            raise refusal
    return windows


def _use_own_attention(model: PreTrainedModel) -> bool:
    """Switch the model to `cache.attend`; False where its attention needs its own code (soft caps, sinks)."""
    if not (model._supports_attention_backend and model._supports_sdpa):  # noqa: SLF001
        return False
    register_attention()
    model.set_attn_implementation(ATTENTION)
    return True


def shared_vocabulary(named: Sequence[tuple[str, LanguageModel]], wanted: int | None) -> int:
    """V that all models are cut to; UsageError where one scores too few tokens, or the sizes cannot be matched."""
    if wanted is None:
        sizes = {name: model.vocab_size for name, model in named}
        if len(set(sizes.values())) > 1:
            found = " and ".join(f"{size} ({name})" for name, size in sizes.items())
            raise UsageError(f"expert and amateur must share a vocabulary, found {found} entries")
        return named[0][1].vocab_size
    for name, model in named:
        if model.vocab_size < wanted:
            raise UsageError(
                f"the tokenizer has {wanted} entries and the {name} {model.vocab_size}; give the tokenizer "
                "that the model was trained with"
            )
    return wanted
