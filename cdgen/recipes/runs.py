"""What a run file may say: one model, trained on one corpus. Strict YAML like a recipe, read by the same loader.

A run file has the top-level key `corpus`, which no recipe has: that is how `cdgen check` tells them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cdgen.recipes.load import CheckedFile, load_strict
from cdgen.recipes.schema import (
    Count,
    HubModel,
    ModelPath,
    ModelTraining,
    Name,
    Share,
    Spec,
    one_of,
)

ARCHITECTURE = (
    "architecture", "layers", "hidden", "heads", "kv_heads", "ffn", "tie_embeddings", "zero_init",
)  # fmt: skip
"""Fields of `train` that a given model brings with it."""


class RunMix(Spec):
    """Which of the corpus's text the model reads, and how often."""

    synthetic: Share | None = None
    """Share of synthetic tokens: 0 for real text alone, 1 for synthetic text alone. Absent: the corpus's own share."""
    weights: dict[str, Annotated[int, Field(ge=0, lt=2**20)]] | None = None
    """Instead: whole numbers by source (real, synthetic, also-<8 digits>), such as {real: 7, synthetic: 3}; one that is
    not named rests."""
    repeat: Literal["allow", "error"] = "allow"
    """allow: a source is read as often as the run needs, in another order each time; error: once, or the run stops
    before it begins."""
    max_passes: dict[str, Count] | None = None
    """The most passes by source, such as {real: 16, synthetic: 4}; they count before repeat."""
    shuffle: Literal["windows", "corpus"] = "windows"
    """windows: documents among 16 neighbouring shards; corpus: among all."""
    shuffle_blocks: Annotated[int, Field(ge=0, le=2**20)] = 1024
    """Blocks of train.context tokens are shuffled among so many neighbours too, so that a batch is not of one long
    document; 0: the stream's own order."""

    @model_validator(mode="after")
    def _one_share(self) -> Self:
        if self.synthetic is not None and self.weights is not None:
            raise ValueError("weights and synthetic both say the share; keep one of them")
        if self.weights is not None and not any(self.weights.values()):
            raise ValueError("weights: at least one source needs a weight above 0")
        return self


class Start(Spec):
    """A model whose training goes on, with a fresh optimizer; it must have been made for the corpus's tokenizer."""

    path: ModelPath | None = None
    """A model folder, relative to the run file, such as ../runs/baseline/step-002500, or the address of one, s3:// or
    gs://; safetensors only."""
    hf: HubModel | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "path", "hf")
        return self


class RunTraining(ModelTraining):
    """How it is trained: the fields of `expert.train` in a recipe, whose defaults are the paper's."""

    seed: Annotated[int, Field(ge=0, le=2**53)] = 42
    """Of the first weights and of the order of the text."""
    compile: bool = False
    """Compile the model with torch.compile: faster on a GPU; the last bits of the results may differ."""


class Run(Spec):
    """One model trained on one corpus."""

    version: Literal[1]
    """Of the format of run files."""
    name: Name
    """The default output folder is runs/<name>."""
    description: str = ""
    """For people."""
    condition: Name | None = None
    """What is compared: runs of one condition differ in their seed alone. Absent: the name."""
    corpus: Annotated[str, Field(min_length=1)]
    """A corpus folder, relative to the run file, or the address of one: hf://, s3://, gs://, https://."""
    held_out: Annotated[str, Field(min_length=1)] | None = None
    """The corpus whose eval split measures the checkpoints. Absent: this one. Runs that are compared need the same."""
    mix: RunMix = RunMix()
    start: Start | None = None
    """Absent: a new model, its weights drawn from train.seed."""
    train: RunTraining = RunTraining()

    @property
    def condition_name(self) -> str:
        """The condition, or the name."""
        return self.condition or self.name

    @model_validator(mode="after")
    def _start_brings_its_architecture(self) -> Self:
        if self.start is not None:
            odd = [name for name in ARCHITECTURE if name in self.train.model_fields_set]
            if odd:
                raise ValueError(
                    f"train.{odd[0]} belongs to a new model; the one of start brings its own: leave it out"
                )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile(CheckedFile):
    """A checked run file.

    Attributes:
        run: what it says, with what was set on the command line.
    """

    run: Run


def load_run(path: str | Path, set: Sequence[str] = ()) -> RunFile:  # noqa: A002 - the option's name
    """Read and check a run file.

    Args:
        path: the file.
        set: changes such as `train.seed=44`; each value is YAML.

    Raises:
        UsageError: one line, `file:line:column: field: what was found; what is allowed`.
    """
    file = Path(path)
    run, _, positions = load_strict(file, Run, "run file", set)
    return RunFile(run=run, path=file.absolute(), positions=positions)
