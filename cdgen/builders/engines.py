"""The decode engine of a recipe on this machine."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from cdgen.decode.amateurs.opening import open_pair
from cdgen.decode.engine import Engine
from cdgen.decode.models import open_model
from cdgen.recipes.schema import NoAmateur, Recipe


def open_engine(
    recipe: Recipe,
    *,
    expert: Path,
    amateur: Path | None,
    further: Sequence[Path] = (),
    vocab_size: int | None,
    eos_id: int | None,
    devices: tuple[str, str] | None = None,
) -> Engine:
    """Load the models, and set the threads that are part of the result.

    Args:
        recipe: the recipe.
        expert: its folder.
        amateur: the folder of an amateur with weights or counts of its own; None for every other.
        further: folders of `decode.further`.
        vocab_size, eos_id: the corpus tokenizer's entries, special ones included, and its end-of-text token.
        devices: of the expert and of the amateur, such as cuda:0 and cuda:1; both on the first GPU, or on the CPU where
            there is none, by default.
    """
    disable_progress_bar()  # of the loading of weights: there is one of our own
    generate = recipe.generate
    torch.set_num_threads(generate.threads)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    devices = devices or (here, here)
    dtypes = {"weights_dtype": generate.weights_dtype, "cache_dtype": generate.cache_dtype}
    strong, weak = open_pair(
        recipe.amateur,
        expert=expert,
        amateur=amateur,
        vocab_size=vocab_size,
        devices=devices,
        **dtypes,
    )
    return Engine(
        expert=strong,
        amateur=weak,
        further=[open_model(folder, device=devices[0], **dtypes) for folder in further],
        vocab_size=vocab_size,
        decode=recipe.decode,
        amateur_temperature=1.0
        if isinstance(recipe.amateur, NoAmateur)
        else recipe.amateur.temperature,
        new_tokens=generate.new_tokens,
        stop_at_eos=generate.stop_at_eos,
        eos_id=eos_id,
    )
