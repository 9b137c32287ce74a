"""run.json: what a finished run is, written last of all. No path, no host, no time."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdgen.errors import BuildError
from cdgen.recipes.schema import NAME_PATTERN
from cdgen.storage import atomic_write, check_format, parse_json, reading, typed

RUN_FORMAT = 1
RECORD = "run.json"
LOSSES = "losses.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One kept step of a training."""

    step: int
    perplexity: float
    bits_per_byte: float
    sha256: str
    """Of the weights file."""


def step_name(step: int) -> str:
    """The folder name of a step: step-000500."""
    return f"step-{step:06d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRead:
    """A corpus that a run read."""

    name: str
    digest: str
    """Of its manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutRead(CorpusRead):
    """The corpus whose eval split measured the checkpoints."""

    shards: str = ""
    """One hash over its eval shards: corpora of one text and tokenizer share them. "" in earlier records."""

    @property
    def text(self) -> str:
        """What two records must have in common for their perplexities to be compared."""
        return self.shards or self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRead:
    """What a run read of one source."""

    tokens: int
    passes: float
    """How often its text was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticShare:
    """Of the tokens that were trained on."""

    asked: float
    realised: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A finished run."""

    name: str
    condition: str
    seed: int
    digest: str
    """Of everything that can change the result but the machine: corpus, mix, first weights, training."""
    corpus: CorpusRead
    held_out: HeldOutRead
    synthetic_share: SyntheticShare
    tokens: int
    """Trained on, repeated ones too."""
    sources: dict[str, SourceRead]
    spec: dict[str, Any]
    """The sections mix, start and train, defaults filled in."""
    checkpoints: tuple[Checkpoint, ...]
    versions: dict[str, str]
    numeric_classes: tuple[dict[str, str], ...]
    """Of every machine that trained a part of it."""
    description: str = ""

    def __post_init__(self) -> None:
        # They are shown on pages and terminals, and a record may come from a stranger.
        for called in (self.name, self.condition):
            if not re.fullmatch(NAME_PATTERN, called):
                raise ValueError(f"{called[:60]!r} is not a name")

    @property
    def best(self) -> Checkpoint:
        """The checkpoint with the lowest held-out perplexity, the earlier on a tie."""
        return min(self.checkpoints, key=lambda kept: (kept.perplexity, kept.step))

    def folder(self, run: Path, step: int) -> Path:
        """The model folder of a step."""
        return run / step_name(step)


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json, complete or not at all."""
    value = {"format": RUN_FORMAT, **asdict(record)}
    text = json.dumps(value, indent=1, ensure_ascii=False)
    atomic_write(folder / RECORD, text.encode() + b"\n")


def read_record(folder: Path) -> RunRecord | None:
    """The run in `folder`, or None if it is not finished.

    Raises:
        BuildError: run.json is damaged, or of a newer format.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    with reading(path):
        value = check_format(parse_json(path.read_bytes(), path), RUN_FORMAT, str(path))
    record: RunRecord = typed(RunRecord, value, str(path))
    if not record.checkpoints:
        raise BuildError(f"{path}: damaged: it names no checkpoint")
    return record


def write_losses(folder: Path, losses: Sequence[tuple[int, float, float]]) -> None:
    """losses.csv: step, training loss (nats per token) and learning rate of every step."""
    lines = [
        "step,loss,learning_rate",
        *(f"{step},{loss!r},{rate!r}" for step, loss, rate in losses),
    ]
    atomic_write(folder / LOSSES, ("\n".join(lines) + "\n").encode())
