"""grain over ArrayRecord: ids as bytes, a global shuffle of indices."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain.python as grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from data import BATCH, Collate, Part

FORMS = ("arrayrecord",)
CONVERTED = FORMS
RESUMES = "get_state of the iterator"
ROWS_PER_FILE = 4096


def convert(part: Part, form: str, out: Path) -> None:
    """Files of 4,096 documents, one record each."""
    documents = part.documents
    out.mkdir()
    rows = min(ROWS_PER_FILE, max(1, len(documents) // 20))
    for number, first in enumerate(range(0, len(documents), rows)):
        writer = ArrayRecordWriter(str(out / f"{number:05d}.arrayrecord"), "group_size:1")
        for i in range(first, min(len(documents), first + rows)):
            writer.write(documents[i].tobytes())
        writer.close()


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Any:
    """Batches of documents."""
    made = _documents(part, form, shuffle=shuffle, seed=seed)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    made = made[rank::world].batch(BATCH, batch_fn=collate).to_iter_dataset()
    if workers:
        made = made.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return _Loader(made)


def mixed(
    parts: Sequence[Part], shares: Sequence[float], form: str, collate: Collate, *, seed: int = 0
) -> Any:
    """Batches of both parts at the shares asked for."""
    sources = [_documents(part, form, shuffle=True, seed=seed) for part in parts]
    return (
        grain.MapDataset.mix(sources, weights=list(shares))
        .batch(BATCH, batch_fn=collate)
        .to_iter_dataset()
    )


def _documents(part: Part, form: str, *, shuffle: bool, seed: int) -> Any:
    files = part.files(form)
    made = grain.MapDataset.source(grain.ArrayRecordDataSource(files))
    return (made.shuffle(seed=seed) if shuffle else made).map(_ids)


def _ids(record: bytes) -> np.ndarray:
    return np.frombuffer(record, np.uint16)


class _Loader:
    """State by the names that the other peers use."""

    def __init__(self, made: Any) -> None:
        self.made, self.state, self.now = made, None, None

    def __iter__(self) -> Any:
        self.now = iter(self.made)
        if self.state is not None:
            self.now.set_state(self.state)
        return self.now

    def state_dict(self) -> Any:
        return self.now.get_state()

    def load_state_dict(self, state: Any) -> None:
        self.state = state
