"""The fast path: against transformers' own forward, the general path and the slow reference."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from decode.tiny_models import VOCAB, cast_to, decode_part, general, llama, random_model, rule_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from cdgen.decode import models, reference, sampling
from cdgen.decode.engine import Engine, Rows
from cdgen.decode.llama import EarlyExit, LlamaModel, has_fast_path
from cdgen.decode.models import LanguageModel
from cdgen.errors import UsageError

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILY: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "one-query-per-key": LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "one-key-for-all": LlamaConfig(**SIZES | {"num_key_value_heads": 1}),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "wide-heads": LlamaConfig(**SIZES, head_dim=24),
    "rope-llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "rope-linear": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral-window": MistralConfig(**SIZES, sliding_window=6),
    "mistral-window-of-pages": MistralConfig(**SIZES, sliding_window=21),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-some-windows": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "qwen3-tied": Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True),
}
LAYOUTS = pytest.mark.parametrize("paged", [True, False], ids=["pages", "slots"])
ERROR = 2e-5
"""Logits of a float32 forward in another order of sums, at a deviation of 0.5 to 3."""


def model_of(name: str, *, seed: int = 1, sharpness: float = 6.0) -> PreTrainedModel:
    model = random_model(FAMILY[name], seed=seed, sharpness=sharpness)
    for (
        parameter
    ) in model.parameters():  # norms and biases start at ones and zeros: they could be left out
        if parameter.dim() == 1:
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator(seed)))
    return model


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fast(
    model: PreTrainedModel, cache: torch.dtype = torch.float32, *, paged: bool = True
) -> LlamaModel:
    return LlamaModel(model, cache_dtype=cache, paged=paged)


def rows_of(prefixes: int, completions: int, prefix_tokens: int, new_tokens: int) -> Tensor:
    """Random rows whose prefixes agree within a run of completions."""
    length = prefix_tokens + new_tokens
    ids = torch.randint(0, VOCAB, (prefixes * completions, length), generator=generator(3))
    ids[:, :prefix_tokens] = ids[::completions, :prefix_tokens].repeat_interleave(completions, 0)
    return ids


def stepped(
    model: LanguageModel, ids: Tensor, prefixes: int, prefix_tokens: int, state: Any = None
) -> Tensor:
    """Logits [B, steps, V]: one prefill, then a token at a time."""
    rows, length = ids.shape
    state = state or model.allocate(rows, length)
    completions = rows // prefixes
    prefill = model.prefill(state, ids[::completions, :prefix_tokens])
    steps = [prefill.repeat_interleave(completions, dim=0)]
    steps += [model.step(state, ids[:, position]) for position in range(prefix_tokens, length)]
    return torch.stack(steps, dim=1)


@torch.inference_mode()
def full(model: PreTrainedModel, ids: Tensor, prefix_tokens: int) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, prefix_tokens - 1 :]
    return logits.float()


# ------------------------------------------------------------------ against transformers


@LAYOUTS
@pytest.mark.parametrize("name", FAMILY)
def test_every_step_equals_transformers_own_forward(name: str, paged: bool) -> None:
    """A prefix of more than two pages and windows shorter than a page, a prefix, and both."""
    model, ids = model_of(name), rows_of(3, 2, 37, 20)

    got = stepped(fast(model, paged=paged), ids, 3, 37)

    torch.testing.assert_close(got, full(model, ids, 37), rtol=0, atol=ERROR)


@settings(max_examples=25, deadline=None)
@given(
    prefixes=st.integers(1, 3),
    completions=st.integers(1, 4),
    prefix_tokens=st.integers(1, 40),
    new_tokens=st.integers(1, 24),
    name=st.sampled_from(["llama", "mistral-window-of-pages"]),
    paged=st.booleans(),
)
def test_any_geometry_equals_transformers_own_forward(
    *, prefixes: int, completions: int, prefix_tokens: int, new_tokens: int, name: str, paged: bool
) -> None:
    """Prefixes that fill no page, some, exactly some; one completion and many."""
    model, ids = model_of(name), rows_of(prefixes, completions, prefix_tokens, new_tokens)

    got = stepped(fast(model, paged=paged), ids, prefixes, prefix_tokens)

    torch.testing.assert_close(got, full(model, ids, prefix_tokens), rtol=0, atol=ERROR)


@LAYOUTS
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral-window"])
@pytest.mark.parametrize(
    ("weights", "cache"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_bfloat16_stays_nearer_to_float32_than_transformers_does(
    name: str,
    weights: torch.dtype,
    cache: torch.dtype,
    paged: bool,
) -> None:
    """The bound on the error: that of transformers' own bfloat16 forward of the same weights."""
    rounded = cast_to(model_of(name), torch.bfloat16)
    ids = rows_of(3, 2, 37, 20)
    theirs = full(rounded, ids, 37)
    want = full(cast_to(rounded, torch.float32), ids, 37)

    got = stepped(fast(cast_to(rounded, weights), cache, paged=paged), ids, 3, 37)

    assert got.dtype == torch.float32
    assert 0 < (got - want).abs().mean() < (theirs - want).abs().mean()


def test_logits_of_bfloat16_weights_are_not_rounded_to_bfloat16() -> None:
    """Equal logits would tie tokens that the model tells apart."""
    got = stepped(fast(cast_to(model_of("llama"), torch.bfloat16)), rows_of(3, 2, 5, 4), 3, 5)

    assert (got != got.bfloat16().float()).float().mean() > 0.9


# ------------------------------------------------------------------ tokens


UNIFORMS = np.stack(
    [sampling.uniforms(sampling.rng_key(7, f"p{p}", c), 30) for p in range(4) for c in range(3)]
)
PREFIXES = np.random.default_rng(0).integers(0, VOCAB, (4, 20))


def engine(expert: LanguageModel, amateur: LanguageModel | None, **changes: Any) -> Engine:
    changes.setdefault("new_tokens", 30)
    return Engine(expert, amateur, decode_part(), **changes)


def pair() -> Engine:
    return engine(fast(model_of("llama")), fast(model_of("llama", seed=2, sharpness=3.0)))


def assert_same(got: Rows, want: Rows, rows: Any = slice(None)) -> None:
    for field in dataclasses.fields(Rows):
        assert np.array_equal(getattr(got, field.name), getattr(want, field.name)[rows]), field.name


@LAYOUTS
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3-tied", "mistral-window"])
def test_tokens_equal_the_slow_reference_teacher_forced(name: str, paged: bool) -> None:
    """A token differs only where its uniform lies within the score error of a CDF boundary."""
    pair = model_of(name), model_of(name, seed=2, sharpness=3.0)

    out = engine(*(fast(model, paged=paged) for model in pair)).decode(PREFIXES, UNIFORMS)

    ids_BT = np.concatenate([PREFIXES.repeat(3, axis=0), out.ids_BT], axis=1)
    replay = reference.replay(*pair, ids_BT, prefix_tokens=20, rule=rule_of())
    begin, end = reference.cdf_interval(replay.score_BTV, torch.from_numpy(out.ids_BT).long())
    uniform_BT = torch.from_numpy(UNIFORMS)
    assert (end > begin).all()
    assert (uniform_BT >= begin - 1e-4).all() and (uniform_BT < end + 1e-4).all()


def test_tokens_equal_those_of_the_general_path() -> None:
    """Running free: at these seeds no uniform lies near a boundary."""
    slow = engine(general(model_of("llama")), general(model_of("llama", seed=2, sharpness=3.0)))

    got = pair().decode(PREFIXES, UNIFORMS)

    assert np.array_equal(got.ids_BT, slow.decode(PREFIXES, UNIFORMS).ids_BT)


def test_permuting_prefixes_permutes_the_output_bitwise() -> None:
    """At a fixed geometry a row's bits depend on its prefix and uniforms alone."""
    order = np.array([2, 0, 3, 1])
    rows = (order[:, None] * 3 + np.arange(3)).ravel()
    pair_ = pair()
    want = pair_.decode(PREFIXES, UNIFORMS)

    assert_same(pair_.decode(PREFIXES[order], UNIFORMS[rows]), want, rows)


def test_memory_is_reused_without_a_trace_of_the_batch_before() -> None:
    """Same buffers, same bits; another number of prefixes takes other buffers."""
    pair_ = pair()
    want = pair_.decode(PREFIXES, UNIFORMS)

    pair_.decode((PREFIXES + 1) % VOCAB, UNIFORMS[::-1])
    assert_same(pair_.decode(PREFIXES, UNIFORMS), want)
    pair_.decode(PREFIXES[:2], UNIFORMS)
    assert_same(pair_.decode(PREFIXES, UNIFORMS), want)
    assert_same(pair().decode(PREFIXES, UNIFORMS), want)


def test_a_state_keeps_its_buffers() -> None:
    """A CUDA graph holds their addresses."""
    model, ids = fast(model_of("llama"), paged=False), rows_of(3, 2, 5, 4)
    state = model.allocate(*ids.shape)

    first = stepped(model, ids, 3, 5, state)
    memory = [id(cache) for cache in state.caches]
    again = stepped(model, ids, 3, 5, state)

    assert torch.equal(first, again) and memory == [id(cache) for cache in state.caches]


def test_end_of_text_changes_no_other_row() -> None:
    """What is kept of a cut row is as without stopping."""
    plain = pair().decode(PREFIXES, UNIFORMS)
    eos_id = int(np.bincount(plain.ids_BT.ravel()).argmax())

    models_ = fast(model_of("llama")), fast(model_of("llama", seed=2, sharpness=3.0))
    cut = engine(*models_, stop_at_eos=True, eos_id=eos_id).decode(PREFIXES, UNIFORMS)

    assert cut.length_B.min() < 30
    for row, length in enumerate(cut.length_B):
        assert np.array_equal(cut.ids_BT[row, :length], plain.ids_BT[row, :length])
        assert np.array_equal(cut.logp_expert_BT[row, :length], plain.logp_expert_BT[row, :length])


# ------------------------------------------------------------------ early exit, and what has no fast path


@pytest.mark.parametrize("layer", [1, 2])
def test_an_early_exit_is_the_layer_through_the_final_norm_and_head(layer: int) -> None:
    """Against transformers' hidden states, at the prefix and at every step."""
    model, ids = model_of("qwen2"), rows_of(3, 2, 20, 6)
    expert = fast(model)
    early = expert.exit_at(layer)
    state, own = expert.allocate(*ids.shape), early.allocate(*ids.shape)

    expert.prefill(state, ids[::2, :20])
    got = [early.prefill(own, ids[::2, :20]).repeat_interleave(2, dim=0)]
    for position in range(20, 26):
        expert.step(state, ids[:, position])
        got.append(early.step(own, ids[:, position]))

    with torch.inference_mode():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[layer]
        want = model.lm_head(model.model.norm(hidden[:, 19:]))
    torch.testing.assert_close(torch.stack(got, dim=1), want, rtol=0, atol=ERROR)


def test_an_early_exit_is_never_read_twice() -> None:
    """A stale layer would contrast the expert with its past."""
    expert, ids = fast(model_of("llama")), rows_of(3, 2, 5, 1)
    early = expert.exit_at(1)
    expert.prefill(expert.allocate(*ids.shape), ids[::2, :5])
    early.prefill(early.allocate(*ids.shape), ids[::2, :5])

    with pytest.raises(AssertionError, match="must have just run"):
        early.prefill(early.allocate(*ids.shape), ids[::2, :5])


def test_an_early_exit_decodes_with_its_expert() -> None:
    """Through the engine, which runs the expert first."""
    expert = fast(model_of("llama"))

    out = engine(expert, expert.exit_at(2)).decode(PREFIXES, UNIFORMS)

    assert (out.logp_amateur_BT < 0).all()


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_a_layer_that_is_no_early_exit_is_named(layer: int) -> None:
    with pytest.raises(UsageError, match=f"between 1 and 2, found {layer}"):
        fast(model_of("llama")).exit_at(layer)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(**SIZES, hidden_act="gelu"), "has the activation gelu"),
        (
            LlamaConfig(
                **SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
            ),
            "has dynamic rotary positions",
        ),
    ],
)
def test_what_the_fast_path_does_not_compute_is_refused_by_name(
    config: PreTrainedConfig, message: str
) -> None:
    """And runs on the general path."""
    model = random_model(config, seed=1)

    with pytest.raises(UsageError, match=f"LlamaForCausalLM has no fast path: it {message}"):
        fast(model)
    assert not has_fast_path(model)
    chosen = models.on_fastest_path(model, cache_dtype=torch.float32)
    assert "transformers forward" in chosen.path


def test_the_path_says_which_it_is() -> None:
    """Expert and early exit."""
    expert = models.on_fastest_path(llama(1), cache_dtype=torch.bfloat16)

    assert isinstance(expert, LlamaModel)
    assert expert.path.startswith("Llama fast path, cache in pages of torch.bfloat16")
    assert isinstance(expert.exit_at(1), EarlyExit) and "layer 1" in expert.exit_at(1).path
