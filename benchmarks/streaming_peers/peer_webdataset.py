"""webdataset: our very tars, the .npy member decoded by webdataset itself (tars) or viewed by hand (tars_raw)."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import webdataset as wds
from data import BATCH, Collate, Part

FORMS = ("tars", "tars_raw")
CONVERTED = ()
RESUMES = "no state: iterate again and skip"


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Any:
    """Batches of documents."""
    data = _samples(part, form, shuffle=shuffle, seed=seed).batched(
        BATCH, partial=True, collation_fn=collate
    )
    return wds.WebLoader(data, batch_size=None, num_workers=workers)


def mixed(
    parts: Sequence[Part], shares: Sequence[float], form: str, collate: Collate, *, seed: int = 0
) -> Any:
    """Batches of both parts at the shares asked for."""
    random.seed(seed)
    mix = wds.RandomMix(
        [_samples(part, form, shuffle=True, seed=seed) for part in parts], list(shares)
    )
    return _batches(mix, collate)


def _samples(part: Part, form: str, *, shuffle: bool, seed: int) -> Any:
    data = wds.WebDataset(
        part.tars,
        shardshuffle=len(part.tars) if shuffle else False,
        seed=seed,
        empty_check=False,
        nodesplitter=wds.split_by_node,
    )
    data = data.shuffle(1000, rng=random.Random(seed)) if shuffle else data
    return data.map(_viewed) if form == "tars_raw" else data.decode(only=["npy"]).map(_ids)


def _ids(sample: dict[str, Any]) -> Any:
    return sample["npy"]


def _viewed(sample: dict[str, Any]) -> Any:
    """No decoding: what follows the header of the .npy, whose length is its bytes 8 and 9."""
    data = sample["npy"]
    return np.frombuffer(data, np.uint16, offset=10 + int.from_bytes(data[8:10], "little"))


def _batches(samples: Any, collate: Collate) -> Any:
    kept = []
    for ids in samples:
        kept.append(ids)
        if len(kept) == BATCH:
            yield collate(kept)
            kept = []
