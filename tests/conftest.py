"""Shared fixtures: a small piece of the packaged fairy tales, and the recipe that the tests build from it."""

import io
import os
from pathlib import Path

import pytest
import zstandard

from cdgen.resources import resource

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

SMALL_RECIPE = """\
version: 1
name: small
description: A piece of the fairy tales, with models that are far too small.
text:
  sources:
    - {name: tales, path: tales.txt, format: text, document: blank-line, license: Apache-2.0}
  max_document_tokens: 400
  splits: {train: 0.5, eval: 0.1, prefix: 0.4, seed: 42}
tokenizer: {train: {algorithm: bpe, vocab_size: 400}}
expert:
  train: {architecture: llama, layers: 2, hidden: 32, heads: 2, kv_heads: 1, ffn: 64, context: 64, steps: 12,
          batch_tokens: 512, learning_rate: 1.0e-2, warmup_steps: 2, checkpoint_every: 4, seed: 43, threads: 1}
  checkpoint: best
amateur: {kind: checkpoint, checkpoint: 4}
decode: {method: contrastive, lambda: 1.0, alpha: 0.1}
generate: {prefix_tokens: 8, completions: 6, new_tokens: 48, rows_per_batch: 24, batches_per_shard: 3, threads: 1,
           weights_dtype: float32, cache_dtype: float32, seed: 42}
mix: {synthetic: 0.3, seed: 42}
shards: {documents: 16}
"""


@pytest.fixture(scope="session")
def tales() -> list[str]:
    """The packaged documents."""
    file = resource("recipes", "quickstart").parent / "quickstart/fairytales.txt.zst"
    raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(file.read_bytes())).read()
    return raw.decode().split("\n\n")


@pytest.fixture(scope="session")
def small_text(tales: list[str]) -> str:
    """Forty documents of about 1,500 characters, cut at line ends."""
    cut = [tale[: tale.rfind(".", 0, 1500) + 1] for tale in tales[:40]]
    return "\n\n".join(cut) + "\n"


@pytest.fixture
def small_recipe(tmp_path: Path, small_text: str) -> Path:
    """A recipe that builds in seconds, in a folder of its own."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "tales.txt").write_text(small_text, encoding="utf-8")
    recipe = folder / "small.yaml"
    recipe.write_text(SMALL_RECIPE, encoding="utf-8")
    return recipe
