"""The recipe that the tests build: every stage is real, and takes seconds."""

import json
from pathlib import Path
from typing import Any

import yaml

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


def shrunk(text: Path, *, generate: dict[str, Any], mix: dict[str, Any]) -> list[str]:
    """Settings that give any recipe the small one's text, expert and geometry; amateur and method stay its own.

    Args:
        text: the small recipe's text.
        generate, mix: fields that differ from the small recipe's.
    """
    small = yaml.safe_load(SMALL_RECIPE)
    small["text"]["sources"][0]["path"] = str(text)
    small["generate"] |= generate
    small["mix"] |= mix
    whole = ("text", "tokenizer", "expert", "generate", "mix", "shards")
    return [f"{part}={json.dumps(small[part])}" for part in whole]
