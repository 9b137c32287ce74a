"""cdgen: the same tars, both sources mixed 70 to 30 by tokens and cut into blocks, shuffled by windows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from data import BLOCK, BLOCKS, Part

import cdgen

FORMS = ("blocks", "blocks_int32", "stream")
CONVERTED = False
RESUMES = "one number and a fingerprint"


def loader(
    part: Part,
    form: str,
    collate: Callable[[list[np.ndarray]], Any],
    *,
    shuffle: bool,
    workers: int,
    seed: int = 0,
) -> Any:
    """Batches of 16 blocks of 2,048 tokens, input_ids and labels."""
    options = {"block": BLOCK, "seed": seed, "shuffle": "windows" if shuffle else False}
    if form == "stream":
        return cdgen.stream(part.folder / "cdgen", **options).loader(BLOCKS, num_workers=workers)
    dtype = "int32" if form == "blocks_int32" else "int64"
    return cdgen.blocks(part.folder / "cdgen", dtype=dtype, **options).loader(
        BLOCKS, num_workers=workers
    )


def mixed(
    parts: Sequence[Part],
    shares: Sequence[float],
    form: str,
    collate: Callable[[list[np.ndarray]], Any],
    *,
    seed: int = 0,
) -> Any:
    """Per block (a number that says real or synthetic, tokens) of both sources, at the share asked for."""
    made = cdgen.blocks(
        parts[0].folder / "cdgen",
        block=BLOCK,
        seed=seed,
        synthetic=shares[1],
        fields=("input_ids", "source_ids"),
    )
    for j in range(len(made)):
        synthetic = int((made[j]["source_ids"] != 0).sum())
        yield [(0, BLOCK - synthetic), (len(parts[0].documents), synthetic)]
