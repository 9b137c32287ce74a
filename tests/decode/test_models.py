"""Loading, and the cached forward against full recomputation, for the architectures people use."""

import json
from pathlib import Path

import pytest
import torch
from decode.tiny_models import VOCAB, cast_to, config_of, general, llama, random_model
from torch import Tensor
from transformers import (
    FalconConfig,
    Llama4TextConfig,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from cdgen.decode import models
from cdgen.decode.llama import LlamaModel
from cdgen.decode.models import GeneralModel, LanguageModel, RecomputeModel
from cdgen.errors import UsageError

ARCHITECTURES = [
    "llama",
    "gpt2",
    "gpt-neox",
    "qwen3",
    "mistral-window",
    "gemma",
    "gemma2-softcap",
    "gemma3-mixed",
]
PREFIXES, COMPLETIONS, PREFIX_TOKENS, NEW_TOKENS = 3, 2, 8, 12


def token_ids(rows: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def stepwise_logits(model: LanguageModel, ids: Tensor, state: models.State | None = None) -> Tensor:
    """Logits [B, steps, V] of the interface's calls: one prefill, then a token at a time."""
    rows, length = ids.shape
    state = state or model.allocate(rows, length)
    prefill = model.prefill(state, ids[::COMPLETIONS, :PREFIX_TOKENS])
    steps = [prefill.repeat_interleave(COMPLETIONS, dim=0)]
    steps += [model.step(state, ids[:, position]) for position in range(PREFIX_TOKENS, length)]
    return torch.stack(steps, dim=1)


@torch.inference_mode()
def full_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The same by one forward without a cache."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, PREFIX_TOKENS - 1 :]
    return logits.float()


def shared_prefix_ids() -> Tensor:
    """Rows whose prefixes agree within a run of completions."""
    ids = token_ids(PREFIXES * COMPLETIONS, PREFIX_TOKENS + NEW_TOKENS)
    ids[:, :PREFIX_TOKENS] = ids[::COMPLETIONS, :PREFIX_TOKENS].repeat_interleave(COMPLETIONS, 0)
    return ids


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cached_forward_equals_full_recomputation(architecture: str, tmp_path: Path) -> None:
    """Saved, loaded and stepped, prefixes shared: every step's logits as without a cache.

    Windows (6) are shorter than the prefix (8) and the sequence (20).
    """
    random_model(config_of(architecture), seed=1).save_pretrained(tmp_path)
    plain = models.load(tmp_path, dtype=torch.float32, device=torch.device("cpu"))
    model = models.open_model(tmp_path, weights_dtype="float32", cache_dtype="float32")
    ids = shared_prefix_ids()

    got = stepwise_logits(model, ids)

    on_fast_path = architecture in ("llama", "qwen3", "mistral-window")
    assert isinstance(model, LlamaModel if on_fast_path else GeneralModel)
    assert model.vocab_size == VOCAB and model.max_positions == 64
    want = full_logits(plain, ids)
    assert want.std() > 0.05, "the test needs logits that differ"
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral-window", "gemma2-softcap"])
@pytest.mark.parametrize(
    ("weights", "cache"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_weights_and_cache_may_differ_in_dtype(
    architecture: str, weights: torch.dtype, cache: torch.dtype
) -> None:
    """bfloat16 in either place stays near the float32 logits; logits are always float32."""
    ids = shared_prefix_ids()
    plain = random_model(config_of(architecture), seed=1)
    want = full_logits(plain, ids)

    model = GeneralModel(cast_to(plain, weights), cache_dtype=cache)
    got = stepwise_logits(model, ids)

    assert got.dtype == torch.float32
    assert (got - want).abs().mean() < 0.03 * want.abs().mean()


def test_a_state_is_reused_without_a_trace_of_the_batch_before() -> None:
    """Same buffers, same bits."""
    model, ids = general(llama(1)), shared_prefix_ids()
    state = model.allocate(*ids.shape)

    first = stepwise_logits(model, ids, state)
    memory = [layer.key_buffer.data_ptr() for layer in state.layers]
    stepwise_logits(model, token_ids(len(ids), PREFIX_TOKENS + NEW_TOKENS, seed=9), state)
    again = stepwise_logits(model, ids, state)

    assert torch.equal(first, again)
    assert memory == [layer.key_buffer.data_ptr() for layer in state.layers]


def test_a_float32_cache_holds_bfloat16_keys_without_change() -> None:
    """Casting up loses nothing: keys of a bfloat16 model are the same numbers in a float32 cache."""
    model, ids = general(cast_to(llama(1), torch.bfloat16)), shared_prefix_ids()
    state = model.allocate(*ids.shape)

    stepwise_logits(model, ids, state)

    keys = state.layers[0].key_buffer
    assert keys.dtype == torch.float32
    assert torch.equal(keys, keys.bfloat16().float())


UNCACHED: dict[str, PreTrainedConfig] = {
    "state-space": MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4),
    "chunked": Llama4TextConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attention_chunk_size=6,
        num_local_experts=2,
        pad_token_id=None,
    ),
}


@pytest.mark.parametrize("kind", UNCACHED)
def test_a_model_without_plain_keys_and_values_runs_without_a_cache(
    kind: str, tmp_path: Path
) -> None:
    """open_model falls back to recomputing, and says so; GeneralModel refuses by name."""
    random_model(UNCACHED[kind], seed=1).save_pretrained(tmp_path)
    plain = models.load(tmp_path, dtype=torch.float32, device=torch.device("cpu"))
    model = models.open_model(tmp_path, weights_dtype="float32", cache_dtype="float32")
    ids = shared_prefix_ids()

    got = stepwise_logits(model, ids)

    assert isinstance(model, RecomputeModel)
    assert "without a cache" in model.path
    torch.testing.assert_close(got, full_logits(plain, ids), rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="ForCausalLM does not keep plain keys and values"):
        general(plain)


def test_a_model_with_its_own_attention_code_keeps_it() -> None:
    """Falcon's ALiBi does not go through transformers' attention interface: the cache casts back."""
    config = FalconConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    )
    model, ids = random_model(config, seed=1), shared_prefix_ids()

    got = stepwise_logits(general(model), ids)

    torch.testing.assert_close(got, full_logits(model, ids), rtol=0, atol=2e-5)


# ------------------------------------------------------------------ loading


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        models.load(folder, dtype=torch.float32, device=torch.device("cpu"))
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "no such model folder" in refusal(tmp_path / "nowhere")


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    config_of("llama").save_pretrained(tmp_path)

    assert "*.safetensors files are needed" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_advice(name: str, tmp_path: Path) -> None:
    """They can run code; the message says how to convert them."""
    config_of("llama").save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(b"never opened")

    message = refusal(tmp_path)

    assert "pickled" in message and "save_pretrained" in message


def test_an_unknown_architecture_is_one_line(tmp_path: Path) -> None:
    llama(1).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_thing"}))

    assert "no_such_thing" in refusal(tmp_path)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    """A config that points to code in the folder is refused, and the code is not imported."""
    llama(1).save_pretrained(tmp_path)
    config = {
        "model_type": "x",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

    assert "cannot load" in refusal(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_weight_file_is_one_line(tmp_path: Path) -> None:
    llama(1).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    assert "cannot load" in refusal(tmp_path)


def test_missing_weights_are_not_drawn_at_random(tmp_path: Path) -> None:
    """transformers would initialise the third layer and go on."""
    llama(1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))

    assert "weights are missing" in refusal(tmp_path)


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(UsageError, match="float32 or bfloat16, found float16"):
        models.dtype_of("float16")
