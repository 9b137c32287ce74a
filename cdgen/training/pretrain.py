"""The expert of a build: a small Llama from scratch on the real shards, kept by its digest.

The loop is `fit`, that of `cdgen train`. A finished training is put into place whole, its record with it.
"""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from cdgen.decode.models import load
from cdgen.progress import Advance
from cdgen.recipes.schema import ModelTraining
from cdgen.storage import TEMPORARY_PREFIX, atomic_write
from cdgen.streaming.blocks import Blocks
from cdgen.training.fit import fit
from cdgen.training.perplexity import HeldOut
from cdgen.training.record import Checkpoint, step_name
from cdgen.training.steps import ShuffledBlocks

RECORD = "training.json"

Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A finished training run: a folder with one model folder per kept step."""

    folder: Path
    checkpoints: tuple[Checkpoint, ...]

    def path(self, step: int) -> Path:
        """The model folder of a step."""
        return self.folder / step_name(step)

    def pick(self, choice: int | str | None) -> Checkpoint:
        """The checkpoint a recipe asks for: a step, or `best` (lowest eval perplexity, the earlier on a tie)."""
        if isinstance(choice, int):
            return next(kept for kept in self.checkpoints if kept.step == choice)
        return min(self.checkpoints, key=lambda kept: (kept.perplexity, kept.step))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a model needs to know of its tokenizer."""

    size: int
    bos_id: int | None
    eos_id: int | None


def open_run(folder: Path) -> TrainingRun | None:
    """The finished run in `folder`, or None."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return TrainingRun(folder, tuple(Checkpoint(**kept) for kept in record["checkpoints"]))


def pretrain(
    spec: ModelTraining,
    vocabulary: Vocabulary,
    *,
    train: Blocks,
    held_out: HeldOut,
    work: Path,
    out: Path,
    tokenizer_files: dict[str, bytes],
    advance: Advance,
) -> TrainingRun:
    """Train, or go on training, and keep the checkpoints.

    Args:
        spec: the recipe's training section.
        vocabulary: size and special tokens.
        train: the train split in training order.
        held_out: the eval split.
        work: the run's working folder; an interrupted run goes on from what is here.
        out: where the finished run is put, complete or not at all.
        tokenizer_files: put beside every checkpoint, so that each loads by itself.
        advance: told of every step.
    """
    torch.set_num_threads(spec.threads)
    staged = work / "finished"
    fitted = fit(
        new_model(spec, vocabulary),
        spec,
        ShuffledBlocks(train),
        held_out,
        work=work,
        kept=staged,
        tokenizer_files=tokenizer_files,
        advance=advance,
    )
    record = {"version": 1, "checkpoints": [asdict(kept) for kept in fitted.checkpoints]}
    atomic_write(staged / RECORD, json.dumps(record, indent=2).encode())
    out.parent.mkdir(parents=True, exist_ok=True)
    publish_folder(staged, out)
    shutil.rmtree(work)
    run = open_run(out)
    assert run is not None
    return run


def model_config(spec: ModelTraining, vocabulary: Vocabulary) -> LlamaConfig:
    """The architecture of paper, section 3, in the recipe's size."""
    return LlamaConfig(
        vocab_size=vocabulary.size,
        hidden_size=spec.hidden,
        intermediate_size=spec.ffn,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=spec.context,
        rms_norm_eps=1e-6,
        tie_word_embeddings=spec.tie_embeddings,
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=None,
        use_cache=False,
    )


def new_model(spec: ModelTraining, vocabulary: Vocabulary) -> LlamaForCausalLM:
    """A model with weights drawn from the recipe's seed."""
    torch.manual_seed(spec.seed)
    model = LlamaForCausalLM(model_config(spec, vocabulary))
    if spec.zero_init:
        for layer in model.model.layers:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return _attending(model, spec)


def given_model(folder: Path, spec: ModelTraining) -> PreTrainedModel:
    """A model whose training goes on: float32, safetensors, no code of its own.

    Raises:
        UsageError: transformers cannot load it as a causal language model.
    """
    disable_progress_bar()
    model = load(folder, dtype=torch.float32, device=torch.device("cpu"))
    model.requires_grad_(True).train()
    model.config.use_cache = False
    return _attending(model, spec)


def _attending(model: Model, spec: ModelTraining) -> Model:
    if spec.precision == "bfloat16" and not torch.cuda.is_available():
        model.set_attn_implementation(
            "eager"
        )  # measured: on a CPU the fused kernel is slower in bfloat16
    return model


def publish_folder(staged: Path, out: Path) -> None:
    """Move a finished folder into place; another build that finished the same run first wins."""
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=out.parent))
    try:
        shutil.copytree(staged, temporary, dirs_exist_ok=True)
        temporary.rename(out)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (out / RECORD).is_file():
            raise
