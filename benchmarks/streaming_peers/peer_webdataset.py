"""webdataset: our very tars, the .npy member decoded by webdataset itself."""

import random
from collections.abc import Sequence
from typing import Any

import webdataset as wds
from data import BATCH, Collate, Part

FORMS = ("tars",)
CONVERTED = ()
RESUMES = "no state: iterate again and skip"


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Any:
    """Batches of documents."""
    data = _samples(part, shuffle=shuffle, seed=seed).batched(
        BATCH, partial=True, collation_fn=collate
    )
    return wds.WebLoader(data, batch_size=None, num_workers=workers)


def mixed(
    parts: Sequence[Part], shares: Sequence[float], form: str, collate: Collate, *, seed: int = 0
) -> Any:
    """Batches of both parts at the shares asked for."""
    random.seed(seed)
    mix = wds.RandomMix([_samples(part, shuffle=True, seed=seed) for part in parts], list(shares))
    return _batches(mix, collate)


def _samples(part: Part, *, shuffle: bool, seed: int) -> Any:
    data = wds.WebDataset(
        part.tars,
        shardshuffle=len(part.tars) if shuffle else False,
        seed=seed,
        empty_check=False,
        nodesplitter=wds.split_by_node,
    )
    data = data.shuffle(1000, rng=random.Random(seed)) if shuffle else data
    return data.decode(only=["npy"]).map(_ids)


def _ids(sample: dict[str, Any]) -> Any:
    return sample["npy"]


def _batches(samples: Any, collate: Collate) -> Any:
    kept = []
    for ids in samples:
        kept.append(ids)
        if len(kept) == BATCH:
            yield collate(kept)
            kept = []
