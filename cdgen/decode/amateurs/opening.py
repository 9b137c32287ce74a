"""Expert and amateur as a recipe asks for them, whatever the kind."""

from pathlib import Path

import torch

from cdgen.decode import ngram
from cdgen.decode.amateurs.dropout import DropoutModel
from cdgen.decode.amateurs.overheard import Echo, Heard, HookedExit
from cdgen.decode.amateurs.quantized import round_weights
from cdgen.decode.amateurs.truncated import LastTokens, LatePrefix
from cdgen.decode.models import (
    GeneralModel,
    LanguageModel,
    dtype_of,
    load,
    on_fastest_path,
    open_model,
)
from cdgen.errors import UsageError
from cdgen.recipes.schema import (
    Amateur,
    DropoutAmateur,
    EarlyExitAmateur,
    NgramAmateur,
    NoAmateur,
    QuantizedAmateur,
    TemperatureAmateur,
    TruncatedContextAmateur,
)

Pair = tuple[LanguageModel, LanguageModel | None]


def open_pair(
    spec: Amateur,
    *,
    expert: Path,
    amateur: Path | None,
    weights_dtype: str,
    cache_dtype: str,
    devices: tuple[str, str],
    vocab_size: int | None = None,
) -> Pair:
    """Load expert and amateur.

    Args:
        spec: the recipe's amateur.
        expert: the expert's folder.
        amateur: the folder of an amateur that has one: a model's, or an n-gram model's counts.
        weights_dtype, cache_dtype: float32 or bfloat16.
        devices: of the expert and of the amateur. One that listens to the expert is where that is, an n-gram model is
            on the CPU.
        vocab_size: the tokenizer's, among which an n-gram model divides what it has not seen; the expert's by default.

    Raises:
        UsageError: a folder without a model that can be loaded, or an amateur that this expert cannot be.
    """
    dtypes = {"weights_dtype": weights_dtype, "cache_dtype": cache_dtype}
    strong = open_model(expert, **dtypes, device=devices[0])
    match spec:
        case NoAmateur():
            return strong, None
        case TemperatureAmateur():
            heard = Heard(strong)
            return heard, Echo(heard)
        case EarlyExitAmateur():
            return strong, _early_exit(strong, spec.layer)
        case NgramAmateur():
            assert amateur is not None
            size = vocab_size or strong.vocab_size
            return strong, ngram.NgramModel(ngram.load(amateur), vocab_size=size)
        case DropoutAmateur():
            model = load(expert, dtype=dtype_of(weights_dtype), device=torch.device(devices[1]))
            cache = dtype_of(cache_dtype)
            return strong, DropoutModel(model, cache_dtype=cache, probability=spec.attention)
        case QuantizedAmateur():
            return strong, _quantized(expert, spec.bits, device=devices[1], **dtypes)
        case TruncatedContextAmateur():
            again = open_model(expert, **dtypes, device=devices[1])
            if spec.tokens is not None:
                return strong, LastTokens(again, spec.tokens)
            assert spec.prefix_tokens is not None
            return strong, LatePrefix(again, spec.prefix_tokens)
        case _:  # checkpoint, model
            assert amateur is not None
            return strong, open_model(amateur, **dtypes, device=devices[1])


def _early_exit(expert: LanguageModel, layer: int) -> LanguageModel:
    if isinstance(expert, GeneralModel):
        return HookedExit(expert, layer)
    exit_at = getattr(expert, "exit_at", None)
    if exit_at is None:
        raise UsageError(
            f"amateur early_exit needs an expert with a cache; this one runs through the {expert.path}"
        )
    amateur: LanguageModel = exit_at(layer)
    return amateur


def _quantized(
    folder: Path, bits: int, *, weights_dtype: str, cache_dtype: str, device: str
) -> LanguageModel:
    model = load(folder, dtype=dtype_of(weights_dtype), device=torch.device(device))
    round_weights(model, bits)
    return on_fastest_path(model, cache_dtype=dtype_of(cache_dtype))
