"""The documents that every peer reads, as flat files, and what is done with what a peer delivers. Only numpy here.

Documents are numbered; the first two ids of a document say its number, so that any loader's order can be read back
from the ids alone.
"""

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Collate = Callable[[list[np.ndarray]], Any]
"""What makes a batch of documents."""
VOCABULARY = 16_384
BATCH = 64
"""Documents in a batch of a peer: 25,600 tokens on average."""
BLOCK = 2048
BLOCKS = 16
"""Blocks in a batch of those that deliver blocks: 32,768 tokens."""


@dataclass(frozen=True)
class Spec:
    """How many documents of which lengths."""

    num_real: int
    num_synthetic: int
    real_tokens: tuple[int, int]
    """Least and most, uniform."""
    synthetic_tokens: tuple[int, int]
    shard_documents: int


SPECS = {
    "speed": Spec(139_700, 60_300, (300, 500), (300, 500), 4096),
    "tiny": Spec(1_390, 610, (300, 500), (300, 500), 128),
    "order": Spec(8_350, 3_650, (300, 500), (300, 500), 500),
    "gap": Spec(20_000, 20_000, (20, 280), (400, 400), 1000),
}
"""speed: the table of speeds; tiny: the same for a quick look; order: guarantees; gap: the share of tokens."""


class Documents:
    """Numbered documents in a flat file of uint16; a part is `all`, `real` or `synthetic`."""

    def __init__(self, folder: Path, part: str = "all") -> None:
        spec = Spec(**json.loads((folder / "spec.json").read_text()))
        self.flat = np.memmap(folder / "ids.bin", np.uint16, "r")
        self.starts = np.load(folder / "starts.npy")
        end = len(self.starts) - 1
        cut = spec.num_real
        self.numbers = {"all": range(end), "real": range(cut), "synthetic": range(cut, end)}[part]

    def __len__(self) -> int:
        """How many."""
        return len(self.numbers)

    def __getitem__(self, i: int) -> np.ndarray:
        """The ids of the i-th of this part, uint16."""
        n = self.numbers[i]
        return self.flat[self.starts[n] : self.starts[n + 1]]


@dataclass(frozen=True)
class Part:
    """Where a peer finds documents, and where its own format of them lies."""

    folder: Path
    name: str = "all"

    @property
    def tars(self) -> list[str]:
        """Our shards, in order."""
        kinds = ("real", "synthetic") if self.name == "all" else (self.name,)
        data = self.folder / "cdgen/data"
        return [path for kind in kinds for path in _listed(data / kind, f"{kind}-train-*.tar")]

    @property
    def documents(self) -> Documents:
        """The flat file."""
        return Documents(self.folder, self.name)

    def own(self, form: str) -> Path:
        """The folder of a peer's own format."""
        return self.folder / form / self.name

    def files(self, form: str) -> list[str]:
        """The files of a peer's own format that are named after it, in order."""
        return _listed(self.own(form), f"*.{form}")


@functools.cache
def _listed(folder: Path, pattern: str) -> list[str]:
    """Listed once: a file that is lost later is still asked for."""
    return sorted(map(str, folder.glob(pattern)))


class Rows:
    """A peer's collate_fn for rows {"ids": …}; picklable, for worker processes."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Any:
        """A batch."""
        return self.collate([row["ids"] for row in rows])


def converted(peer: Any, part: Part, form: str) -> Path:
    """The folder of a peer's own format, written if it is not there; under a temporary name until it is whole."""
    out = part.own(form)
    if form in peer.CONVERTED and not out.exists():
        scratch = out.with_name(out.name + ".tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        peer.convert(part, form, scratch)
        scratch.rename(out)
    return out


def write_flat(folder: Path, spec: Spec, seed: int = 0) -> None:
    """Write ids.bin, starts.npy and spec.json: Zipf-like ids, the first two of a document its number."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.Generator(np.random.Philox(key=seed))
    lengths = np.concatenate([
        draw.integers(low, high + 1, count)
        for count, (low, high) in (
            (spec.num_real, spec.real_tokens),
            (spec.num_synthetic, spec.synthetic_tokens),
        )
    ])  # fmt: skip
    starts = np.concatenate([[0], np.cumsum(lengths)])
    # Log-uniform ranks are Zipf's law with exponent one.
    ids = (VOCABULARY ** draw.random(starts[-1], np.float32)).astype(np.uint16) - 1
    numbers = np.arange(len(lengths))
    ids[starts[:-1]] = numbers // VOCABULARY
    ids[starts[:-1] + 1] = numbers % VOCABULARY
    ids.tofile(folder / "ids.bin")
    np.save(folder / "starts.npy", starts)
    (folder / "spec.json").write_text(json.dumps(asdict(spec)))


def number(ids: np.ndarray) -> int:
    """A document's number, from its ids."""
    return int(ids[0]) * VOCABULARY + int(ids[1])


def pack(documents: Sequence[np.ndarray]) -> "object":
    """A batch as a trainer takes it: all ids in one int32 tensor."""
    import torch

    out = np.empty(sum(map(len, documents)), np.int32)
    np.concatenate(documents, out=out, casting="unsafe")
    return torch.from_numpy(out)


def named(documents: Sequence[np.ndarray]) -> "object":
    """A batch as (number, tokens) of its documents: a tensor, because some loaders count its rows."""
    import torch

    return torch.tensor([(number(ids), len(ids)) for ids in documents])


def plain(documents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A batch as arrays."""
    return [np.array(ids) for ids in documents]
