"""The floor: a mapped file of uint16 copied into int64 or int32 blocks. No documents, no order, no mix."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from data import BLOCK, BLOCKS, Collate, Part

FORMS = ("memcpy_int64", "memcpy_int32")
CONVERTED = ()
RESUMES = ""


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Iterator[Any]:
    """Batches of 16 blocks."""
    flat = part.documents.flat
    dtype = np.int64 if form.endswith("64") else np.int32
    size = BLOCK * BLOCKS
    order = np.arange(len(flat) // size)
    if shuffle:
        np.random.default_rng(seed).shuffle(order)
    for n in order:
        yield torch.from_numpy(flat[n * size : (n + 1) * size].astype(dtype).reshape(BLOCKS, BLOCK))
