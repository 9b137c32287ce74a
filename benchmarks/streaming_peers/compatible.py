"""Every tar of a corpus read by other people's loaders, row by row beside cdgen's own reader; prints JSON.

    python compatible.py CORPUS [LOADER...]     # webdataset datasets datasets-streaming wids energon

A row is a sample's key, text, ids and provenance. A loader is given the tars of one kind (mixed, real, synthetic) at a
time: a mixed sample has its source's key, and Energon wants no key twice. Its rows must be as many as cdgen's, in the
order of the files, and each equal in all four. Exit 1 where one is not, and the first that differs is named.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

OUT = os.fdopen(os.dup(1), "w")
Row = tuple[str, str, list[int], dict[str, Any]]
"""(key, text, ids, provenance)."""


def main() -> int:
    """Compare, print, and say whether all rows are equal."""
    warnings.simplefilter("ignore")
    os.dup2(2, 1)  # what a loader prints is no finding
    corpus, wanted = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(LOADERS)
    kinds = {path.name: sorted(map(str, path.glob("*.tar"))) for path in corpus.glob("data/*")}
    found: dict[str, dict[str, Any]] = {"tars": {kind: len(tars) for kind, tars in kinds.items()}}
    found["rows"] = {kind: sum(1 for _ in _by_cdgen(tars)) for kind, tars in kinds.items()}
    for name in wanted:
        found[name] = {kind: _tried(name, tars) for kind, tars in kinds.items()}
    OUT.write(json.dumps(found, indent=1) + "\n")
    OUT.flush()
    return int(any(said != "equal" for name in wanted for said in found[name].values()))


def _tried(name: str, tars: list[str]) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        return _compared(_by_cdgen(tars), LOADERS[name](tars, Path(scratch)))


def _compared(ours: Iterator[Row], theirs: Iterator[Row]) -> str:
    for number, (one, other) in enumerate(zip_longest(ours, theirs)):
        if one is None or other is None:
            return f"has {'more' if one is None else 'fewer'} rows than {number}"
        for what, a, b in zip(("key", "text", "ids", "json"), one, other, strict=True):
            if a != b or type(a) is not type(b):
                return f"row {number}: its {what} is {b!r:.200}, not {a!r:.200}"
    return "equal"


def _by_cdgen(tars: list[str]) -> Iterator[Row]:
    from cdgen.shards.reader import samples

    for tar in tars:
        for sample in samples(Path(tar)):
            yield sample.key, sample.text, sample.ids.tolist(), sample.meta.columns()


def _by_webdataset(tars: list[str], _: Path) -> Iterator[Row]:
    import webdataset

    for row in webdataset.WebDataset(tars, shardshuffle=False).decode():
        yield row["__key__"], row["txt"], row["npy"].tolist(), row["json"]


def _by_datasets(tars: list[str], scratch: Path, *, streaming: bool = False) -> Iterator[Row]:
    import datasets

    datasets.disable_progress_bars()
    made = datasets.load_dataset(
        "webdataset", data_files=tars, split="train", streaming=streaming, cache_dir=str(scratch)
    )
    for row in made:
        yield row["__key__"], row["txt"], list(row["npy"]), row["json"]


def _by_datasets_streaming(tars: list[str], scratch: Path) -> Iterator[Row]:
    return _by_datasets(tars, scratch, streaming=True)


def _by_wids(tars: list[str], scratch: Path) -> Iterator[Row]:
    """By number, as its sampler asks for them."""
    from wids.wids import ShardListDataset, compute_num_samples

    shards = [{"url": tar, "nsamples": compute_num_samples(tar)} for tar in tars]
    made = ShardListDataset(shards, cache_dir=str(scratch), keep=True)
    for number in range(len(made)):
        row = made[number]
        yield row["__key__"], row[".txt"], row[".npy"].tolist(), row[".json"]


def _by_energon(tars: list[str], scratch: Path) -> Iterator[Row]:
    """Its own index is made beside links to the tars; fields come as bytes, and are decoded here."""
    for tar in tars:
        (scratch / Path(tar).name).symlink_to(tar)
    command = [
        str(Path(sys.executable).parent / "energon"), "prepare", "--non-interactive", "--no-progress",
        "--num-workers", "1", "--split-ratio", "0,1,0", "--sample-type", "CrudeWebdataset", str(scratch),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    from megatron.energon import TaskEncoder, WorkerConfig, get_loader, get_val_dataset

    class Raw(TaskEncoder):
        cookers = [_cooker()]  # noqa: RUF012 - as its base class has it
        decoder = None

    made = get_val_dataset(  # that of training is shuffled by shards
        scratch,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        task_encoder=Raw(),
    )
    for sample in get_loader(made):
        ids = np.load(io.BytesIO(sample.ids)).tolist()
        key = sample.__key__.rpartition("/")[2]
        yield key, sample.text.decode(), ids, json.loads(sample.meta)


def _cooker() -> Any:
    from dataclasses import dataclass

    from megatron.energon import Cooker, Sample, basic_sample_keys, stateless

    @dataclass
    class Fields(Sample):
        text: bytes
        ids: bytes
        meta: bytes

    @stateless
    def cook(row: dict[str, Any]) -> Fields:
        return Fields(**basic_sample_keys(row), text=row["txt"], ids=row["npy"], meta=row["json"])

    return Cooker(cook)


LOADERS: dict[str, Callable[[list[str], Path], Iterator[Row]]] = {
    "webdataset": _by_webdataset,
    "datasets": _by_datasets,
    "datasets-streaming": _by_datasets_streaming,
    "wids": _by_wids,
    "energon": _by_energon,
}

if __name__ == "__main__":
    os._exit(main())  # some loaders leave threads behind
