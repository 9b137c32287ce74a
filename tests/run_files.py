"""Run files for the tests of training: a tiny model on the golden corpus; and a process that trains and dies."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdgen.builders.train import Trained, train
from cdgen.progress import Advance

CORPUS = Path(__file__).parents[1] / "shards/golden/format-1"
TRAIN = (
    "{layers: 1, hidden: 16, heads: 2, kv_heads: 1, ffn: 32, context: 32, steps: 9, batch_tokens: 128,\n"
    "  warmup_steps: 2, learning_rate: 1.0e-2, checkpoint_every: 3, threads: 1, seed: 7}"
)


def run_file(folder: Path, *lines: str, name: str = "tiny", train: str = TRAIN) -> Path:
    """A run file on the golden corpus with further lines."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    text = [f"version: 1\nname: {name}\ncorpus: {CORPUS}", *lines, f"train: {train}\n"]
    file.write_text("\n".join(text), encoding="utf-8")
    return file


class Interrupting:
    """A listener that stops the work in the middle of a step, by an error or as `kill -9` does."""

    def __init__(self, stop_at: int, *, kill: bool = False) -> None:
        self.stop_at, self.kill, self.stages = stop_at, kill, 0

    def say(self, line: str) -> None:
        pass

    def heard(self, event: Mapping[str, Any]) -> None:
        pass

    @contextmanager
    def stage(self, name: str, *, total: int | None, unit: str) -> Iterator[Advance]:
        self.stages += 1
        done = 0

        def advance(amount: int = 1, *, note: str = "") -> None:
            nonlocal done
            done += amount
            if done == self.stop_at:
                if self.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise InterruptedError

        yield advance


def trained(file: Path, out: Path) -> Trained:
    return train(file, out)


def killed(file: Path, out: Path, stop_at: int, ranks: int = 1) -> list[subprocess.Popen[bytes]]:
    """Processes that train, as torchrun starts them, the first of which kills itself at a step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    several = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    started = []
    for rank in range(ranks):
        own = {**several, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        command = [sys.executable, "-W", "ignore", __file__, str(file), str(out), str(stop_at)]
        started.append(
            subprocess.Popen(
                command,
                env={**os.environ, **own, "OMP_NUM_THREADS": "1"},
                stderr=subprocess.DEVNULL,
            )
        )
    return started


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], progress=Interrupting(int(sys.argv[3]), kill=True))
