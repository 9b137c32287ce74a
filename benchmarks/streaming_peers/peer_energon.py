"""megatron-energon: our very tars, with its own index beside links to them."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data import BATCH, Collate, Part
from megatron.energon import (
    Cooker,
    Sample,
    TaskEncoder,
    WorkerConfig,
    basic_sample_keys,
    get_savable_loader,
    get_train_dataset,
    stateless,
)

FORMS = ("energon",)
CONVERTED = FORMS
RESUMES = "save_state_rank"
SHUFFLE_BUFFER = 1000


def convert(part: Part, form: str, out: Path) -> None:
    """`energon prepare` over links to the shards."""
    out.mkdir()
    for tar in part.tars:
        (out / Path(tar).name).symlink_to(Path(tar).resolve())
    command = [
        str(Path(sys.executable).parent / "energon"),
        "prepare",
        "--non-interactive",
        "--no-progress",
        "--num-workers",
        "2",
        "--split-ratio",
        "1,0,0",
        "--sample-type",
        "CrudeWebdataset",
        str(out),
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Any:
    """Batches of documents."""
    return _loader(part.own(form), collate, shuffle=shuffle, workers=workers, seed=seed)


def mixed(
    parts: Sequence[Part], shares: Sequence[float], form: str, collate: Collate, *, seed: int = 0
) -> Any:
    """Batches of both parts at the shares asked for."""
    blend = "".join(
        f"        - {{path: {part.own(form)}, weight: {share}}}\n"
        for part, share in zip(parts, shares, strict=True)
    )
    path = parts[0].folder / "energon-mix.yaml"
    path.write_text(
        f"__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n    blend:\n{blend}"
    )
    return _loader(path, collate, shuffle=True, workers=0, seed=seed, repeat=True)


def _loader(
    path: Path, collate: Collate, *, shuffle: bool, workers: int, seed: int, repeat: bool = False
) -> Any:
    config = WorkerConfig(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        num_workers=workers,
        seed_offset=seed,
        global_error_handler=_raise,
    )
    made = get_train_dataset(
        path,
        worker_config=config,
        batch_size=BATCH,
        repeat=repeat,
        task_encoder=_Encoder(collate),
        shuffle_buffer_size=SHUFFLE_BUFFER if shuffle else None,
        max_samples_per_sequence=100 if shuffle else None,
        shuffle_over_epochs_multiplier=1,
        parallel_shard_iters=None if shuffle else 1,
    )
    return _Loader(get_savable_loader(made))


def _raise(error: Exception, *_: Any) -> None:
    raise error


@dataclass
class _Document(Sample):
    ids: np.ndarray


@stateless
def _cook(sample: dict[str, Any]) -> _Document:
    return _Document(**basic_sample_keys(sample), ids=np.load(io.BytesIO(sample["npy"])))


class _Encoder(TaskEncoder):
    cookers = [Cooker(_cook)]  # noqa: RUF012 - as its base class has it
    decoder = None

    def __init__(self, collate: Collate) -> None:
        super().__init__()
        self.collate = collate

    @stateless
    def batch(self, samples: list[_Document]) -> Any:
        return self.collate([sample.ids for sample in samples])


class _Loader:
    """State by the names that the other peers use."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def __iter__(self) -> Any:
        return iter(self.made)

    def state_dict(self) -> Any:
        return self.made.save_state_rank()

    def load_state_dict(self, state: Any) -> None:
        self.made.restore_state_rank(state)
