"""Given models that are far too small, and a recipe that names two of them."""

from pathlib import Path

from small import SMALL_RECIPE
from tokenizers import Tokenizer as Backend
from transformers import LlamaConfig, LlamaForCausalLM

from cdgen.text.tokenizer import tokenizer_files


def save_model(folder: Path, backend: Backend, layers: int, vocab_size: int = 300) -> None:
    """A model with new weights, and its tokenizer."""
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name, content in tokenizer_files(backend, context=128).items():
        (folder / name).write_bytes(content)


def given_recipe(expert: str, amateur: str) -> str:
    """The small recipe with two given models; each is what stands after its role, such as `path: models/expert`."""
    return (
        SMALL_RECIPE[: SMALL_RECIPE.index("tokenizer:")]
        + f"expert: {{{expert}}}\namateur: {{kind: model, {amateur}}}\n"
        + SMALL_RECIPE[SMALL_RECIPE.index("decode:") :].replace("synthetic: 0.3", "synthetic: 0.2")
    )
