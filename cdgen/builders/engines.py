"""The decode engine of a recipe on this machine."""

from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from cdgen.decode.engine import Engine
from cdgen.decode.models import open_model
from cdgen.recipes.schema import NoAmateur, Recipe


def open_engine(
    recipe: Recipe, *, expert: Path, amateur: Path | None, eos_id: int | None
) -> Engine:
    """Load expert and amateur, and set the threads that are part of the result.

    Args:
        recipe: the recipe.
        expert, amateur: model folders; no amateur = None.
        eos_id: the corpus tokenizer's end-of-text token.
    """
    disable_progress_bar()  # of the loading of weights: there is one of our own
    generate = recipe.generate
    torch.set_num_threads(generate.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [
        open_model(
            folder,
            weights_dtype=generate.weights_dtype,
            cache_dtype=generate.cache_dtype,
            device=device,
        )
        for folder in (expert, amateur)
        if folder is not None
    ]
    return Engine(
        expert=models[0],
        amateur=models[1] if len(models) > 1 else None,
        decode=recipe.decode,
        amateur_temperature=1.0
        if isinstance(recipe.amateur, NoAmateur)
        else recipe.amateur.temperature,
        new_tokens=generate.new_tokens,
        stop_at_eos=generate.stop_at_eos,
        eos_id=eos_id,
    )
