"""What is particular to a kind of amateur: dropout's hash, exits, grids of weights, windows."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from decode.slow_amateurs import (
    LENGTH,
    PREFIX_TOKENS,
    ROWS,
    full,
    kept,
    keyed_uniforms,
    of_contexts,
    prefixes,
)
from decode.tiny_models import VOCAB, config_of, general, llama, random_model
from torch import Tensor
from transformers import MixtralConfig

from cdgen.decode import sampling
from cdgen.decode.amateurs import dropout, quantized
from cdgen.decode.amateurs.overheard import HookedExit
from cdgen.decode.amateurs.truncated import LastTokens, LatePrefix
from cdgen.decode.llama import LlamaModel
from cdgen.decode.models import LanguageModel
from cdgen.errors import UsageError

# ---- dropout ----


def test_the_hash_is_the_same_in_python_s_integers() -> None:
    """Bit for bit, signs and overflows included; the decision too."""
    generator = torch.Generator().manual_seed(0)
    key_B = torch.randint(-(2**63), 2**63 - 1, (5,), generator=generator)
    for p in (0.001, 0.3, 0.5, 0.9):
        keep = dropout.Masks(key_B, p, last=11).keep(layer=3, heads=2, queries=4, keys=12)

        assert keep.shape == (5, 2, 4, 12)
        for b, key in enumerate(key_B.tolist()):
            for h in range(2):
                for q in range(4):
                    want = [kept(key, 3, h, 8 + q, k, p=p) for k in range(12)]
                    assert keep[b, h, q].tolist() == want


def drawn_masks(p: float = 0.5) -> Tensor:
    """[layers, rows, heads, queries, keys] of consecutive row keys: the least random there are."""
    key_B = torch.arange(40)
    return torch.stack(
        [dropout.Masks(key_B, p, last=63).keep(layer, 4, 64, 64) for layer in range(3)]
    )


@pytest.mark.parametrize("p", [0.1, 0.5, 0.7])
def test_masks_drop_the_share_asked_for(p: float) -> None:
    """Over all, and per key position, head, layer and row: within 5 standard deviations."""
    dropped = ~drawn_masks(p)
    for axes in ((), (4,), (3,), (2,), (0,), (1,)):
        others = [axis for axis in range(5) if axis not in axes]
        share = dropped.double().mean(dim=others)
        count = dropped.numel() / max(share.numel(), 1)
        assert (share - p).abs().max() < 5 * math.sqrt(p * (1 - p) / count)


@pytest.mark.parametrize("axis", range(5))
@pytest.mark.parametrize("shift", [1, 2])
def test_masks_of_neighbours_are_independent(axis: int, shift: int) -> None:
    """Agreement of masks one or two layers, rows, heads, queries or keys apart is a coin's, shifted keys too."""
    mask = drawn_masks()
    other = mask.roll(shift, dims=axis)
    pairs = [(mask, other), (mask[..., shift:], other[..., :-shift])]
    for one, two in pairs:
        agreement = (one == two).double().mean().item()
        assert abs(agreement - 0.5) < 5 * 0.5 / math.sqrt(one.numel() / 2)


def test_row_keys_are_a_function_of_the_row() -> None:
    """And golden: they are part of what a corpus of this kind is."""
    uniforms_BT = keyed_uniforms()

    key_B = sampling.row_keys(uniforms_BT)

    assert len(set(key_B.tolist())) == ROWS
    assert np.array_equal(sampling.row_keys(uniforms_BT[::-1].copy()), key_B[::-1])
    assert np.array_equal(sampling.row_keys(uniforms_BT[:, :5].copy()), key_B)
    assert sampling.row_keys(np.array([[0.25, 0.5]])).tolist() == [GOLDEN_KEY]
    assert len(sampling.row_keys(np.array([[0.25]]))) == 1


GOLDEN_KEY = -1061806800000356288


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2", "mistral-window", "gpt-neox"])
def test_dropout_of_almost_nothing_is_the_model_itself(architecture: str) -> None:
    """For other architectures than Llama, with a window too."""
    plain = random_model(config_of(architecture), seed=1)
    ids_BT = torch.from_numpy(np.concatenate([prefixes(), prefixes()[::-1]], axis=1))
    model = dropout.DropoutModel(
        random_model(config_of(architecture), seed=1), cache_dtype=torch.float32, probability=1e-9
    )
    state = model.allocate(*ids_BT.shape)
    model.key_rows(state, torch.arange(len(ids_BT)))

    steps = [model.prefill(state, ids_BT[:, :PREFIX_TOKENS])]
    steps += [model.step(state, ids_BT[:, t]) for t in range(PREFIX_TOKENS, ids_BT.shape[1] - 1)]

    torch.testing.assert_close(torch.stack(steps, 1), full(plain, ids_BT), rtol=0, atol=2e-5)


def test_dropout_of_a_model_with_its_own_attention_is_refused() -> None:
    soft = random_model(config_of("gemma2-softcap"), seed=1)

    with pytest.raises(UsageError, match="attention of Gemma2ForCausalLM cannot be exchanged"):
        dropout.DropoutModel(soft, cache_dtype=torch.float32, probability=0.5)


# ---- early exit ----


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gpt-neox", "gemma"])
def test_an_exit_is_the_model_without_its_last_layers(architecture: str) -> None:
    """Read from the expert's own steps, for the architectures people use."""
    expert = general(random_model(config_of(architecture), seed=1))
    amateur = HookedExit(expert, 1)
    short = random_model(config_of(architecture), seed=1)
    decoder = short.get_decoder()
    name = "h" if hasattr(decoder, "h") else "layers"
    setattr(decoder, name, getattr(decoder, name)[:1])
    ids_BT = torch.from_numpy(np.concatenate([prefixes(), prefixes()[::-1]], axis=1))
    state, own = expert.allocate(*ids_BT.shape), amateur.allocate(*ids_BT.shape)

    expert.prefill(state, ids_BT[:, :PREFIX_TOKENS])
    steps = [amateur.prefill(own, ids_BT[:, :PREFIX_TOKENS])]
    for t in range(PREFIX_TOKENS, ids_BT.shape[1] - 1):
        expert.step(state, ids_BT[:, t])
        steps.append(amateur.step(own, ids_BT[:, t]))

    torch.testing.assert_close(torch.stack(steps, 1), full(short, ids_BT), rtol=0, atol=2e-5)


@pytest.mark.parametrize("layer", [0, 2, 7])
def test_a_layer_that_is_not_in_the_middle_is_refused(layer: int) -> None:
    """On both paths, in the same words."""
    exits: list[Callable[[], Any]] = [
        lambda: HookedExit(general(llama(1)), layer),
        lambda: LlamaModel(llama(1), cache_dtype=torch.float32).exit_at(layer),
    ]
    for attempt in exits:
        with pytest.raises(
            UsageError, match=f"amateur.layer must lie between 1 and 1, found {layer}"
        ):
            attempt()


def test_an_exit_of_a_model_that_caps_its_logits_is_refused() -> None:
    """Norm and projection would not be the model's own way from a layer to logits."""
    config = config_of("gemma2-softcap")
    config.final_logit_softcapping = 0.5
    expert = general(random_model(config, seed=1))

    with pytest.raises(UsageError, match="Gemma2ForCausalLM does more than norm and projection"):
        HookedExit(expert, 1)


# ---- quantized ----


def on_grid(weight: Tensor, scale: Tensor) -> bool:
    return bool(((weight / scale) - (weight / scale).round()).abs().max() < 1e-3)


def test_8_bit_weights_lie_on_255_levels_per_channel() -> None:
    """Symmetric: the largest weight stays, the error is at most half a step, a row of zeros stays."""
    weight = torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    weight[3] = 0

    got = quantized.rounded(weight, 8)

    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((got - weight).abs() <= step * 0.5001).all()
    assert on_grid(got[[0, 1, 2, 4, 5]], step[[0, 1, 2, 4, 5]]) and not got[3].any()
    torch.testing.assert_close(got.abs().amax(1), weight.abs().amax(1))


def test_4_bit_weights_have_16_levels_per_group_of_128() -> None:
    """300 inputs are groups of 128, 128 and 44; zero is a level, also of a group of one sign."""
    weight = torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    weight[2, :128] = weight[2, :128].abs() + 1
    weight[:, 5] = 0

    got = quantized.rounded(weight, 4)

    for first, last in ((0, 128), (128, 256), (256, 300)):
        for row in range(6):
            group, was = got[row, first:last], weight[row, first:last]
            assert len(set(group.tolist())) <= 16
            step = (was.clamp(min=0).max() - was.clamp(max=0).min()) / 15
            assert (group - was).abs().max() <= step * 1.001
    assert not got[:, 5].any()


def test_embeddings_norms_and_head_are_not_rounded() -> None:
    """Every other matrix is; GPT-2's, which lie the other way round, along their inputs."""
    for architecture in ("llama", "gpt2"):
        plain, model = (random_model(config_of(architecture), seed=1) for _ in range(2))
        quantized.round_weights(model, 8)
        for (name, was), now in zip(plain.named_parameters(), model.parameters(), strict=True):
            same = was.dim() == 1 or any(part in name for part in ("embed", "wte", "wpe", "head"))
            assert torch.equal(was, now) == same, name
    name = "transformer.h.0.attn.c_attn.weight"
    want = quantized.rounded(plain.get_parameter(name).T, 8).T
    torch.testing.assert_close(model.get_parameter(name), want)


def test_a_model_without_linear_layers_is_refused() -> None:
    """A mixture of experts keeps its weights elsewhere: to round the rest would be another amateur."""
    config = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        pad_token_id=None,
    )

    with pytest.raises(UsageError, match="MixtralForCausalLM keeps most of its weights outside"):
        quantized.round_weights(random_model(config, seed=1), 8)


# ---- truncated context ----


def stepped(model: LanguageModel, ids_BT: Tensor) -> Tensor:
    state = model.allocate(*ids_BT.shape)
    steps = [model.prefill(state, ids_BT[:, :PREFIX_TOKENS])]
    steps += [model.step(state, ids_BT[:, t]) for t in range(PREFIX_TOKENS, LENGTH)]
    return torch.stack(steps[:-1], dim=1)


def some_ids() -> Iterator[Tensor]:
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        yield torch.randint(0, VOCAB, (3, LENGTH), generator=generator)


@pytest.mark.parametrize("tokens", [1, 3, PREFIX_TOKENS, PREFIX_TOKENS + 3, 40])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_only_the_last_tokens_count(architecture: str, tokens: int) -> None:
    """Windows shorter and longer than prefix and row, rotary and learned positions: as run on those tokens alone."""
    plain = random_model(config_of(architecture), seed=1)
    model = LastTokens(general(random_model(config_of(architecture), seed=1)), tokens)

    for ids_BT in some_ids():
        got = stepped(model, ids_BT)

        want = of_contexts(plain, ids_BT, lambda t: max(0, t - tokens))
        torch.testing.assert_close(got, want[:, : got.shape[1]], rtol=0, atol=2e-5)


@pytest.mark.parametrize("tokens", [1, 4, PREFIX_TOKENS])
def test_a_late_prefix_loses_its_beginning_for_good(tokens: int) -> None:
    model = LatePrefix(general(llama(1)), tokens)

    for ids_BT in some_ids():
        got = stepped(model, ids_BT)

        want = of_contexts(llama(1), ids_BT, lambda _: PREFIX_TOKENS - tokens)
        torch.testing.assert_close(got, want[:, : got.shape[1]], rtol=0, atol=2e-5)


def test_a_window_longer_than_the_model_is_refused() -> None:
    with pytest.raises(UsageError, match="64 positions, found 65"):
        LastTokens(general(llama(1)), 65)
