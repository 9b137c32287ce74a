"""What a recipe may say of its amateur: a misfit is one line with the place, before any work."""

import re
from pathlib import Path

import pytest
from small import SMALL_RECIPE

from cdgen.errors import UsageError
from cdgen.recipes.load import load_recipe

LINE = "amateur: {kind: checkpoint, checkpoint: 4}"

SIZE = "layers: 1, hidden: 16, heads: 1, kv_heads: 1, ffn: 32, context: 64"
TINY = f"{{{SIZE}, steps: 4, batch_tokens: 256, warmup_steps: 1}}"

MISFITS = [
    (
        "{kind: early_exit, layer: 2}",
        r"amateur.layer must be below expert.train.layers, found 2 and 2",
    ),
    ("{kind: early_exit, layer: 0}", r"amateur.layer: must be "),
    ("{kind: temperature, temperature: 1.0}", r"temperature 1 is the expert itself"),
    ("{kind: temperature}", r"amateur.temperature is missing"),
    (
        "{kind: truncated_context}",
        r"exactly one of tokens, prefix_tokens is needed, found none",
    ),
    (
        "{kind: truncated_context, tokens: 4, prefix_tokens: 4}",
        r"exactly one of tokens, prefix_tokens is needed, found tokens and prefix_tokens",
    ),
    (
        "{kind: truncated_context, prefix_tokens: 8}",
        r"amateur.prefix_tokens must be below generate.prefix_tokens, .*found 8 and 8",
    ),
    ("{kind: dropout, attention: 1.0}", r"amateur.attention: must be "),
    ("{kind: quantized, bits: 3}", r"amateur.bits: must be "),
    ("{kind: ngram, order: 9}", r"amateur.order: must be "),
    ("{kind: model}", r"exactly one of path, hf, train is needed, found none"),
    (
        f"{{kind: model, train: {TINY}, checkpoint: 3}}",
        r"checkpoint 3 is never written; the run keeps 4",
    ),
    ("{kind: model, path: there, checkpoint: 3}", r"checkpoint belongs to a trained model"),
    (
        f"{{kind: model, train: {TINY.replace('context: 64', 'context: 32')}}}",
        r"must fit amateur.train.context, found 56 and 32",
    ),
    ("{kind: none}", r"decode.method contrastive needs an amateur"),
]


def written(folder: Path, amateur: str) -> Path:
    file = folder / "r.yaml"
    file.write_text(SMALL_RECIPE.replace(LINE, f"amateur: {amateur}"), encoding="utf-8")
    return file


@pytest.mark.parametrize(("amateur", "expected"), MISFITS)
def test_a_misfit_is_named(tmp_path: Path, amateur: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(written(tmp_path, amateur))

    message = str(caught.value)
    assert re.search(rf"r\.yaml:\d+:\d+: .*{expected}", message) and "\n" not in message, message


@pytest.mark.parametrize(
    "amateur",
    [
        "{kind: early_exit, layer: 1, temperature: 0.5}",
        "{kind: truncated_context, prefix_tokens: 7}",
        "{kind: truncated_context, tokens: 1}",
        "{kind: temperature, temperature: 0.5}",
        f"{{kind: model, train: {TINY}}}",
        "{kind: ngram, order: 8}",
    ],
)
def test_what_fits_is_accepted(tmp_path: Path, amateur: str) -> None:
    """Every kind says its temperature, which the score is computed with."""
    recipe = load_recipe(written(tmp_path, amateur)).recipe

    assert recipe.amateur.kind != "none" and recipe.amateur.temperature > 0
