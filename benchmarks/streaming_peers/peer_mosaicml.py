"""mosaicml-streaming: MDS shards of ids."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streaming
from data import BATCH, Collate, Part, Rows

FORMS = ("mds",)
CONVERTED = FORMS
RESUMES = "state_dict of StreamingDataLoader"

os.environ.setdefault("LOCAL_WORLD_SIZE", "1")


def convert(part: Part, form: str, out: Path) -> None:
    """Uncompressed, with hashes, shards of 8 MB (or twenty of them)."""
    documents = part.documents
    size = min(8 << 20, int(sum(map(len, documents))) * 2 // 20)
    with streaming.MDSWriter(
        out=str(out),
        columns={"ids": "ndarray:uint16"},
        hashes=["xxh64"],
        size_limit=size,
    ) as writer:
        for i in range(len(documents)):
            writer.write({"ids": np.array(documents[i])})


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Any:
    """Batches of documents."""
    if "RANK" not in os.environ:  # what another rank shares is not stale
        streaming.base.util.clean_stale_shared_memory()
    made = streaming.StreamingDataset(
        local=str(part.own(form)),
        shuffle=shuffle,
        shuffle_seed=seed,
        batch_size=_per_rank(),
        num_canonical_nodes=1,
    )
    return streaming.StreamingDataLoader(
        made, batch_size=_per_rank(), num_workers=workers, collate_fn=_Counted(collate)
    )


def mixed(
    parts: Sequence[Part], shares: Sequence[float], form: str, collate: Collate, *, seed: int = 0
) -> Any:
    """Batches of both parts at the shares asked for."""
    streaming.base.util.clean_stale_shared_memory()
    streams = [
        streaming.Stream(local=str(part.own(form)), proportion=share)
        for part, share in zip(parts, shares, strict=True)
    ]
    made = streaming.StreamingDataset(
        streams=streams, shuffle=True, shuffle_seed=seed, batch_size=BATCH, epoch_size=10_240
    )
    return streaming.StreamingDataLoader(made, batch_size=BATCH, collate_fn=_Counted(collate))


class _Counted(Rows):
    """Its state counts the rows of a batch's first value: one a document, which a tensor of all ids has not."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Any:
        return {"lengths": [len(row["ids"]) for row in rows], "input_ids": super().__call__(rows)}


def _per_rank() -> int:
    """Its state is elastic where the global batch stays the same."""
    return BATCH // int(os.environ.get("WORLD_SIZE", "1"))
