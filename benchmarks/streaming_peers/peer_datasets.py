"""datasets: Arrow map-style, Parquet streaming, and `load_dataset("webdataset")` streaming our very tars."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data import BATCH, Collate, Part, Rows

FORMS = ("arrow", "parquet", "webdataset")
CONVERTED = ("arrow", "parquet")
RESUMES = "state_dict (streaming); a sampler of one's own (map-style)"
ROWS_PER_FILE = 4096
SHUFFLE_BUFFER = 1000


def convert(part: Part, form: str, out: Path) -> None:
    """Ids as lists of uint16, in files of 4,096 documents (Parquet, zstd) or one Arrow dataset."""
    out.mkdir()
    documents = part.documents
    rows = min(ROWS_PER_FILE, max(1, len(documents) // 20))
    tables = [
        pa.table(
            {
                "ids": pa.array(
                    [documents[i] for i in range(first, min(len(documents), first + rows))],
                    pa.list_(pa.uint16()),
                )
            }
        )
        for first in range(0, len(documents), rows)
    ]
    if form == "parquet":
        for number, table in enumerate(tables):
            pq.write_table(table, out / f"{number:05d}.parquet", compression="zstd")
        return
    datasets.Dataset(pa.concat_tables(tables)).save_to_disk(out / "saved")


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Any:
    """Batches of documents."""
    import torch

    if form == "arrow":
        made = datasets.load_from_disk(part.own(form) / "saved").with_format("numpy")
        generator = torch.Generator().manual_seed(seed)
        return torch.utils.data.DataLoader(
            _Batched(made),
            batch_size=BATCH,
            shuffle=shuffle,
            num_workers=workers,
            generator=generator,
            collate_fn=_Rows(collate),
        )
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(
        streamed(part, form, shuffle=shuffle, seed=seed),
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=_Rows(collate),
    )


def streamed(part: Part, form: str, *, shuffle: bool, seed: int) -> Any:
    """The iterable dataset, this rank's part of it."""
    files = part.tars if form == "webdataset" else part.files(form)
    made = datasets.load_dataset(form, data_files={"train": files}, split="train", streaming=True)
    made = made.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER) if shuffle else made
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        from datasets.distributed import split_dataset_by_node

        made = split_dataset_by_node(made, int(os.environ["RANK"]), world)
    return made


def mixed(
    parts: Sequence[Part], shares: Sequence[float], form: str, collate: Collate, *, seed: int = 0
) -> Iterator[Any]:
    """Batches of both parts at the shares asked for."""
    sources = [streamed(part, form, shuffle=True, seed=seed) for part in parts]
    both = datasets.interleave_datasets(sources, probabilities=list(shares), seed=seed)
    for batch in both.iter(BATCH):
        yield collate([np.asarray(ids) for ids in batch["ids" if form == "parquet" else "npy"]])


class _Batched:
    """Takes a whole batch of rows at once."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def __len__(self) -> int:
        return len(self.made)

    def __getitems__(self, rows: list[int]) -> list[np.ndarray]:
        return list(self.made[rows]["ids"])


class _Rows(Rows):
    def __call__(self, rows: list[Any]) -> Any:
        return self.collate([_ids(row) for row in rows])


def _ids(row: Any) -> np.ndarray:
    if isinstance(row, np.ndarray):
        return row
    return np.asarray(row["ids"] if "ids" in row else row["npy"], np.uint16)
