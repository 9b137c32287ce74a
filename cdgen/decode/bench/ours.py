"""The engine, measured over whole rows."""

import time
from dataclasses import dataclass

import torch

from cdgen.decode.bench.pairs import (
    AMATEUR_SPREAD,
    Size,
    model_of,
    pair_of,
    prefixes_of,
    uniforms_of,
)
from cdgen.decode.engine import Engine
from cdgen.decode.llama import LlamaModel
from cdgen.decode.models import GeneralModel, LanguageModel
from cdgen.recipes.schema import Decode


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What of ours is measured."""

    amateur: str = "same size"
    """same size | early exit | 20x smaller | none."""
    weights: torch.dtype = torch.float32
    cache: torch.dtype = torch.float32
    fast: bool = True


def decode(size: Size, setting: Setting) -> dict[str, float | str]:
    """One batch, all its tokens: seconds, tokens per second, mean head size and the path taken."""
    engine = _engine(size, setting)
    prefix_PT, uniform_BT = prefixes_of(size), uniforms_of(size)
    begun = time.perf_counter()
    out = engine.decode(prefix_PT, uniform_BT)
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "tokens_per_s": out.ids_BT.size / seconds,
        "mean_head_size": float(out.head_size_BT.mean()),
        "path": engine.expert.path,
    }


def _engine(size: Size, setting: Setting) -> Engine:
    expert_model, same = pair_of(size, setting.weights)
    expert = _behind(setting, expert_model)
    amateur: LanguageModel | None = None
    if setting.amateur == "same size":
        amateur = _behind(setting, same)
    elif setting.amateur == "20x smaller":
        small = model_of(size, size.small, seed=3, spread=AMATEUR_SPREAD, dtype=setting.weights)
        amateur = _behind(setting, small)
    elif setting.amateur == "early exit":
        assert isinstance(expert, LlamaModel)
        amateur = expert.exit_at(expert.num_layers // 2)
    method = "sample" if amateur is None else "contrastive"
    rule = Decode.model_validate({"method": method})
    return Engine(expert, amateur, rule, new_tokens=size.new_tokens)


def _behind(setting: Setting, model: torch.nn.Module) -> LanguageModel:
    kind = LlamaModel if setting.fast else GeneralModel
    return kind(model, cache_dtype=setting.cache)  # type: ignore[arg-type]
