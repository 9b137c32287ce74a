"""An engine without models, whose rows follow from prefixes and uniforms alone, and which does what a folder says.

The scheduling tests decode with it: every other part of a build is real. Files in its folder are orders: `hold` makes
every worker wait in the middle of a batch; `fail-<mark>`, `kill-<mark>`, `memory-<mark>`, `other-<mark>` and
`hold-<mark>`, also with the number of a process, are about the batch with that mark. One that begins with `once-` is
obeyed by whoever can delete it, and by nobody else.
"""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def mark(prefix_ids: np.ndarray) -> str:
    """What a batch is called: by its first prefix."""
    return hashlib.sha256(prefix_ids.astype("<i8").tobytes()).hexdigest()[:12]


@dataclass(frozen=True)
class PretendRows:
    """As `cdgen.decode.engine.Rows`."""

    ids_BT: np.ndarray
    length_B: np.ndarray
    logp_expert_BT: np.ndarray
    logp_amateur_BT: np.ndarray
    head_size_BT: np.ndarray


@dataclass(frozen=True)
class PretendEngine:
    """As `cdgen.decode.engine.Engine`, where a build uses it."""

    folder: Path
    vocab_size: int
    path: str = "no models"

    def decode(
        self,
        prefix_PT: np.ndarray,
        uniforms_BT: np.ndarray,
        on_step: Callable[[int], None] | None = None,
    ) -> Any:
        name = mark(prefix_PT[0])
        tokens = uniforms_BT.size
        if on_step is not None:
            on_step(tokens // 2)
        (self.folder / f"began-{name}-{os.getpid()}").touch()
        self._obey(name)
        holds = ("hold", f"hold-{name}", f"hold-{name}-{os.getpid()}")
        while any((self.folder / order).exists() for order in holds):
            time.sleep(0.01)
        if on_step is not None:
            on_step(tokens)
        special = 5
        ids_BT = special + (uniforms_BT * (self.vocab_size - special)).astype(np.int64)
        if self._told(f"other-{name}"):
            ids_BT = ids_BT[:, ::-1]
        rows, length = uniforms_BT.shape
        return PretendRows(
            ids_BT=ids_BT,
            length_B=np.full(rows, length),
            logp_expert_BT=-uniforms_BT.astype(np.float32),
            logp_amateur_BT=-2 * uniforms_BT.astype(np.float32),
            head_size_BT=np.ones((rows, length), dtype=np.int32),
        )

    def _obey(self, name: str) -> None:
        if self._told(f"fail-{name}"):
            raise RuntimeError("a bug of ours")
        if self._told(f"memory-{name}"):
            raise MemoryError("not enough of it")
        if self._told(f"kill-{name}"):
            os.kill(os.getpid(), signal.SIGKILL)

    def _told(self, order: str) -> bool:
        if (self.folder / order).exists():
            return True
        with suppress(FileNotFoundError):
            (self.folder / f"once-{order}").unlink()
            return True
        return False


@dataclass(frozen=True)
class Opener:
    """As `cdgen.builders.engines.open_engine`."""

    folder: Path

    def __call__(self, recipe: object, *, vocab_size: int, **rest: object) -> PretendEngine:
        return PretendEngine(self.folder, vocab_size)
