"""litdata: its chunks of documents, and its one stream of tokens cut into blocks (TokensLoader)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litdata
import numpy as np
import torch
from data import BATCH, BLOCK, BLOCKS, Collate, Part, Rows

FORMS = ("litdata", "litdata_tokens", "litdata_tokens_int64")
CONVERTED = ("litdata", "litdata_tokens")
RESUMES = "state_dict of StreamingDataLoader"
CHUNKS = 100


def convert(part: Part, form: str, out: Path) -> None:
    """At least 80 chunks: with few chunks its shuffled reading from worker processes is far slower."""
    documents = part.documents
    num_bytes = int(sum(map(len, documents))) * 2
    tokens = form == "litdata_tokens"
    litdata.optimize(
        fn=_Read(part, tokens=tokens),
        inputs=list(range(0, len(documents), BATCH)),
        output_dir=str(out),
        num_workers=1,
        verbose=False,
        keep_data_ordered=True,
        item_loader=litdata.TokensLoader() if tokens else None,
        **(
            {"chunk_size": max(BLOCK, num_bytes // 2 // CHUNKS)}
            if tokens
            else {"chunk_bytes": num_bytes // CHUNKS}
        ),
    )


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Any:
    """Batches of documents, or of blocks of tokens."""
    if form != "litdata":
        made = litdata.StreamingDataset(
            str(part.own("litdata_tokens")),
            item_loader=litdata.TokensLoader(block_size=BLOCK),
            shuffle=shuffle,
            seed=seed,
        )
        return litdata.StreamingDataLoader(
            made,
            batch_size=BLOCKS,
            num_workers=workers,
            collate_fn=_as_trained if form.endswith("int64") else None,
        )
    # Left open, drop_last differs between one rank and two, and a state of the other is refused.
    made = litdata.StreamingDataset(
        str(part.own(form)), shuffle=shuffle, seed=seed, drop_last=False
    )
    return litdata.StreamingDataLoader(
        made, batch_size=BATCH, num_workers=workers, collate_fn=Rows(collate)
    )


def mixed(
    parts: Sequence[Part], shares: Sequence[float], form: str, collate: Collate, *, seed: int = 0
) -> Any:
    """Batches of both parts at the shares asked for."""
    sources = [
        litdata.StreamingDataset(str(part.own(form)), shuffle=True, seed=seed) for part in parts
    ]
    both = litdata.CombinedStreamingDataset(
        sources, weights=list(shares), seed=seed, iterate_over_all=False
    )
    return litdata.StreamingDataLoader(
        both, batch_size=BATCH, num_workers=0, collate_fn=Rows(collate)
    )


class _Read:
    """Documents of one input, for the converter's process."""

    def __init__(self, part: Part, *, tokens: bool) -> None:
        self.part, self.tokens = part, tokens

    def __call__(self, first: int) -> Any:
        documents = self.part.documents
        for i in range(first, min(len(documents), first + BATCH)):
            ids = np.array(documents[i])
            yield torch.from_numpy(ids) if self.tokens else {"ids": ids}


def _as_trained(blocks: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """As a trainer takes them."""
    ids = torch.stack(blocks).long()
    return {"input_ids": ids, "labels": ids}


os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
