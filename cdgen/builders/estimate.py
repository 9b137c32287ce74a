"""What a build needs, before it begins: bytes on disk and in memory, from the shapes that the recipe fixes.

Estimates for people and for a preflight, not part of any result. Shards are known to a few per cent; training
memory, whose activations depend on kernels, to a factor of about 1.5.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import BuildError
from cdgen.recipes.schema import Generate, ModelTraining

SAMPLE_BYTES = 3 * 512 + 3 * 256 + 128 + 640 + 180
"""Of one sample besides its text and ids: tar headers, padding, the ids' own header, provenance, index."""

RESERVE_SHARE = 0.05
"""Of what is needed: kept free besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What memory depends on, of one model."""

    parameters: int
    layers: int
    kv_width: int
    """Key numbers per token and layer: key-value heads x head size."""
    vocab_size: int


def trained_shape(spec: ModelTraining, vocab_size: int) -> Shape:
    """The shape of a model that is trained here: every weight of a Llama, counted."""
    kv_width = spec.hidden // spec.heads * spec.kv_heads
    attention = 2 * spec.hidden * spec.hidden + 2 * spec.hidden * kv_width
    layer = attention + 3 * spec.hidden * spec.ffn + 2 * spec.hidden
    tables = (1 if spec.tie_embeddings else 2) * vocab_size * spec.hidden
    return Shape(
        parameters=spec.layers * layer + tables + spec.hidden,
        layers=spec.layers,
        kv_width=kv_width,
        vocab_size=vocab_size,
    )


def shard_bytes(*, num_samples: int, num_tokens: int, num_text_bytes: int, vocab_size: int) -> int:
    """Bytes of shards and their indexes."""
    id_bytes = 2 if vocab_size <= 1 << 16 else 4
    return num_samples * SAMPLE_BYTES + num_tokens * id_bytes + num_text_bytes


def training_disk_bytes(spec: ModelTraining, shape: Shape) -> int:
    """Bytes that a training run takes at its fullest: kept weights three times over, and two optimizer states."""
    weights = 4 * shape.parameters
    return 3 * len(spec.checkpoints()) * weights + 4 * weights


def training_memory_bytes(spec: ModelTraining, shape: Shape) -> int:
    """Bytes of weights, gradients, two moments, activations and three copies of the logits."""
    tokens = spec.micro_batch_tokens or spec.batch_tokens
    number = 2 if spec.precision == "bfloat16" else 4
    width = 16 * spec.hidden + 4 * spec.ffn + 3 * spec.heads * spec.context
    activations = tokens * spec.layers * width * number
    return 16 * shape.parameters + activations + 3 * 4 * tokens * shape.vocab_size


def decoding_memory_bytes(generate: Generate, shapes: list[Shape]) -> int:
    """Bytes of weights, caches and the steps' logits, for all models."""
    sizes = {"float32": 4, "bfloat16": 2}
    length = generate.prefix_tokens + generate.new_tokens
    total = 0
    for shape in shapes:
        cache = generate.rows_per_batch * length * shape.layers * 2 * shape.kv_width
        logits = 4 * 4 * generate.rows_per_batch * shape.vocab_size
        total += shape.parameters * sizes[generate.weights_dtype]
        total += cache * sizes[generate.cache_dtype] + logits
    return total


def free_disk_bytes(folder: Path) -> int:
    """Free bytes where `folder` is, or will be."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Stop before work that the disk cannot hold.

    Raises:
        BuildError: says how much is needed and how much is free.
    """
    free = free_disk_bytes(folder)
    if needed * (1 + RESERVE_SHARE) > free:
        raise BuildError(
            f"{folder}: {what} needs about {human(needed)}, {human(free)} are free; "
            "free some space, or choose another folder with --out"
        )


def human(num_bytes: float) -> str:
    """1.5 GB: decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
