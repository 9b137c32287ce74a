"""Tiny random models and recipes' decode parts, for the tests of cdgen.decode.

Small real objects instead of mocks: every architecture is the real one, a few thousand weights large.
"""

from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig

from cdgen.decode.contrast import Rule
from cdgen.decode.models import GeneralModel
from cdgen.recipes.schema import Decode

VOCAB = 67

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


def config_of(architecture: str) -> PreTrainedConfig:
    """A tiny configuration of an architecture."""
    builders: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
        "llama": (LlamaConfig, {}),
        "qwen3": (Qwen3Config, {"head_dim": 8}),
        "mistral-window": (MistralConfig, {"sliding_window": 6}),
        "gemma": (GemmaConfig, {"head_dim": 8}),
        "gemma2-softcap": (Gemma2Config, {"head_dim": 8, "sliding_window": 6}),
        "gemma3-mixed": (
            Gemma3TextConfig,
            {
                "head_dim": 8,
                "sliding_window": 6,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        ),
        "gpt-neox": (GPTNeoXConfig, {}),
    }
    if architecture == "gpt2":
        return GPT2Config(
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
        )
    kind, extra = builders[architecture]
    return kind(**(_SIZES | extra))


def random_model(config: PreTrainedConfig, *, seed: int, sharpness: float = 1.0) -> PreTrainedModel:
    """Weights from `seed`; `sharpness` scales the logits, 1 = as initialised (nearly flat)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:  # initialised at 0.02: too small for attention to matter
                    weight.mul_(4.0)
            head = model.get_output_embeddings()
            if sharpness != 1.0:
                head.weight.mul_(sharpness)
    model.eval().requires_grad_(False)
    return model


def llama(seed: int, *, sharpness: float = 6.0) -> PreTrainedModel:
    """A tiny Llama with heads as a trained model has them: from one token to a dozen."""
    return random_model(config_of("llama"), seed=seed, sharpness=sharpness)


def cast_to(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its weights in `dtype`."""
    torch.nn.Module.to(model, dtype)
    return model


def general(model: PreTrainedModel, cache_dtype: torch.dtype = torch.float32) -> GeneralModel:
    """The model behind the engine's interface."""
    return GeneralModel(model, cache_dtype=cache_dtype)


def decode_part(**changes: Any) -> Decode:
    """A recipe's decode part, with field names as a recipe spells them."""
    return Decode.model_validate(changes)


def rule_of(*, amateur_temperature: float = 1.0, **changes: Any) -> Rule:
    """The rule of `decode_part(**changes)`."""
    return Rule.of(decode_part(**changes), amateur_temperature=amateur_temperature)


def summands(expert: float, amateur: float, *further: float, **changes: Any) -> dict[str, Any]:
    """A decode part of weighted_sum: weights of the expert, the amateur and further models; 0 = not among them."""
    models = [
        {"model": name, "weight": weight}
        for name, weight in (("expert", expert), ("amateur", amateur))
        if weight
    ]
    models += [{"path": f"model-{k}", "weight": weight} for k, weight in enumerate(further)]
    return {"method": "weighted_sum", "models": models, **changes}


METHODS: dict[str, dict[str, Any]] = {
    "contrastive": {},
    "lambda-half": {"lambda": 0.5, "alpha": 0.05},
    "temperatures": {"temperature": 0.8, "score_temperature": 1.3, "amateur_temperature": 1.5},
    "top-k": {"top_k": 3},
    "top-p": {"top_p": 0.8},
    "top-k-and-p": {"top_k": 5, "top_p": 0.9, "alpha": 0.02},
    "paper-exact": {"outside_head": -20.0, "log_epsilon": 1.0e-10},
    "outside-high": {"outside_head": -1.0},
    "head-only": {"method": "head_only"},
    "head-only-leak": {"method": "head_only", "outside_head": -3.0},
    "tail": {"outside_head": "tail"},
    "tail-top-p": {"outside_head": "tail", "top_p": 0.9, "alpha": 0.3},
    "head-only-tail": {"method": "head_only", "outside_head": "tail", "score_temperature": 0.7},
    "bigrams-once": {"no_repeat_ngram": 2},
    "tokens-once": {"no_repeat_ngram": 1, "alpha": 0.3},
    "bigrams-once-tail": {"no_repeat_ngram": 2, "outside_head": "tail", "top_k": 9},
    "bigrams-once-leak": {"no_repeat_ngram": 2, "outside_head": -3.0, "top_p": 0.95},
    "o-brien": summands(1.5, -0.5),
    "guidance-tail": summands(2.0, -1.0, outside_head="tail"),
    "experts": summands(1.0, -0.7, 0.7, temperature=1.1),
    "weak-to-strong-outside": summands(0.0, 0.0, 1.0, -0.5, outside_head=-2.0),
    "all-at-once": summands(
        1.2,
        -0.4,
        0.3,
        top_k=6,
        top_p=0.95,
        no_repeat_ngram=2,
        score_temperature=1.2,
        log_epsilon=1.0e-6,
    ),
    "sample-trigrams-once": {"method": "sample", "no_repeat_ngram": 3},
    "sample": {"method": "sample"},
    "sample-top-k": {"method": "sample", "top_k": 7},
    "sample-top-p": {"method": "sample", "top_p": 0.9, "temperature": 1.2},
}
"""Every method and option, by a name for the test report."""

FURTHER_SEEDS = (5, 6)
"""Of the further models that METHODS asks for, in order."""


def further_models(decode: dict[str, Any]) -> list[PreTrainedModel]:
    """As many further models as a decode part asks for."""
    named = [found for found in decode.get("models", ()) if "path" in found]
    return [llama(seed, sharpness=4.0) for seed in FURTHER_SEEDS[: len(named)]]
