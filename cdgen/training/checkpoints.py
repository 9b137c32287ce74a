"""The checkpoints of a run: kept model folders, their records, and what a resume needs.

In the working folder the Trainer writes checkpoint-<step>. A step is kept when its model folder was put into place and,
last of all, its record was written. So the files are the truth: a run goes on from the last checkpoint that has a
record, and what was being written when a process died is not there.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdgen.storage import TEMPORARY_PREFIX, atomic_file, atomic_write, sha256_file
from cdgen.training.perplexity import Perplexity
from cdgen.training.record import Checkpoint, step_name

WEIGHTS = "model.safetensors"
_STREAM = "stream.json"
_OPTIMIZER = "optimizer.pt"
_TRAINER = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        work: the working folder.
        kept: where model folders go, step-<number> each.
        tokenizer_files: put beside every model, so that each loads by itself.
    """

    work: Path
    kept: Path
    tokenizer_files: Mapping[str, bytes]

    def folder(self, step: int) -> Path:
        """Where the Trainer writes a step."""
        return self.work / f"checkpoint-{step}"

    def last_resumable(self) -> int | None:
        """The last step that can be resumed from; what is half-written, or is of a later step, is removed."""
        for folder in self.kept.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(folder)
        resumable = []
        for folder in self.work.glob("checkpoint-*"):
            step = int(folder.name.removeprefix("checkpoint-"))
            if self._record(step).is_file() and (folder / _OPTIMIZER).is_file():
                resumable.append(step)
            else:
                shutil.rmtree(folder)
        return max(resumable, default=None)

    def keep(self, step: int, measured: Perplexity, stream: Mapping[str, Any]) -> None:
        """Keep a step that the Trainer has written: model folder, the stream's position, the record last of all."""
        source = self.folder(step)
        atomic_write(source / _STREAM, json.dumps(stream).encode())
        self._publish(source, self.kept / step_name(step))
        record = Checkpoint(
            step=step,
            perplexity=measured.perplexity,
            bits_per_byte=measured.bits_per_byte,
            sha256=sha256_file(source / WEIGHTS),
        )
        atomic_write(self._record(step), json.dumps(asdict(record)).encode())
        for folder in self.work.glob("checkpoint-*"):  # only the last one is of use
            if folder != source:
                shutil.rmtree(folder)

    def stream(self, step: int) -> dict[str, Any]:
        """The stream's position after a step."""
        state: dict[str, Any] = json.loads((self.folder(step) / _STREAM).read_text("utf-8"))
        return state

    def losses(self, step: int) -> list[tuple[int, float, float]]:
        """(step, training loss, learning rate) of every step up to a checkpoint that can be resumed from."""
        state = json.loads((self.folder(step) / _TRAINER).read_text(encoding="utf-8"))
        logs = [log for log in state["log_history"] if "loss" in log]
        return [(log["step"], log["loss"], log["learning_rate"]) for log in logs]

    def records(self, steps: tuple[int, ...]) -> tuple[Checkpoint, ...]:
        """What is known of kept steps."""
        files = [self._record(step) for step in steps]
        return tuple(Checkpoint(**json.loads(file.read_text(encoding="utf-8"))) for file in files)

    def _record(self, step: int) -> Path:
        return self.work / f"{step_name(step)}.json"

    def _publish(self, source: Path, target: Path) -> None:
        """Weights, configuration and tokenizer of a step, put into place by one rename."""
        temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}-{os.getpid()}")
        temporary.mkdir(parents=True)
        for name in (WEIGHTS, "config.json"):
            with (source / name).open("rb") as read, atomic_file(temporary / name) as write:
                shutil.copyfileobj(read, write, 1 << 24)
        for name, content in self.tokenizer_files.items():
            atomic_write(temporary / name, content)
        if target.exists():  # of a process that died before it wrote the record
            shutil.rmtree(target)
        temporary.rename(target)
