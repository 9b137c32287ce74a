"""A small Llama from scratch, through the Hugging Face Trainer, on blocks read from the real shards.

Every optimizer step's data is an address (`Blocks`), so an interrupted run goes on from its last complete
checkpoint with the same bytes as one that was never interrupted. Checkpoints keep weights as safetensors; what only
a resume needs (optimizer, schedule) lives in the run's working folder and is not kept.
"""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

from cdgen.progress import Advance
from cdgen.recipes.schema import ModelTraining
from cdgen.storage import TEMPORARY_PREFIX, atomic_write, sha256_file
from cdgen.streaming.blocks import Blocks
from cdgen.training.optimizer import make_optimizer
from cdgen.training.perplexity import HeldOut, Perplexity, perplexity

RECORD = "training.json"
WEIGHTS = "model.safetensors"
_COMPLETE = "cdgen-complete.json"
_RESUME_STATE = "optimizer.pt"
_LOG_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One kept step of a training run."""

    step: int
    perplexity: float
    bits_per_byte: float
    sha256: str
    """Of the weights file."""


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


def step_name(step: int) -> str:
    """The folder name of a step: step-000500."""
    return f"step-{step:06d}"


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
    disable_progress_bar()  # of the writing of weights: there is one of our own
    torch.set_num_threads(spec.threads)
    resume = _last_resumable(work)
    trainer = _trainer(spec, vocabulary, train, _Checkpoints(spec, held_out, work, advance), work)
    if resume is not None:
        advance(resume, note="resumed")
    if resume != spec.steps:
        trainer.train(resume_from_checkpoint=str(work / f"checkpoint-{resume}") if resume else None)
    return _keep(spec, work, out, tokenizer_files)


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
    if spec.precision == "bfloat16" and not torch.cuda.is_available():
        model.set_attn_implementation(
            "eager"
        )  # measured: on a CPU the fused kernel is slower in bfloat16
    return model


class _StepBlocks(Dataset[dict[str, torch.Tensor]]):
    """The blocks of a whole run as one finite dataset, so that a resume skips by address."""

    def __init__(self, blocks: Blocks, count: int) -> None:
        self._blocks, self._count = blocks, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, j: int) -> dict[str, torch.Tensor]:
        ids_T = torch.from_numpy(self._blocks.shuffled(j))
        return {"input_ids": ids_T, "labels": ids_T}


class _InOrder(Trainer):
    """The Trainer, reading blocks in their own order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        assert isinstance(self.train_dataset, _StepBlocks)
        return SequentialSampler(self.train_dataset)


class _Checkpoints(TrainerCallback):
    """Keeps the recipe's steps, measures each, and marks it complete last of all."""

    def __init__(
        self, spec: ModelTraining, held_out: HeldOut, work: Path, advance: Advance
    ) -> None:
        self._spec, self._held_out, self._work, self._advance = spec, held_out, work, advance
        self._steps = set(spec.checkpoints())
        self._loss, self._best = "", ""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._advance(1, note=self._loss + self._best)
        control.should_save = state.global_step in self._steps

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is not None:
            self._loss = f"loss {float(loss):.3f}"

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        measured = perplexity(
            kwargs["model"],
            self._held_out,
            context=self._spec.context,
            autocast=autocast_dtype(self._spec),
        )
        folder = self._work / f"checkpoint-{state.global_step}"
        _write_complete(folder, state.global_step, measured)
        _drop_resume_state(self._work, keep=folder)
        self._best = f", eval perplexity {measured.perplexity:.1f}"


def _trainer(
    spec: ModelTraining,
    vocabulary: Vocabulary,
    train: Blocks,
    checkpoints: TrainerCallback,
    work: Path,
) -> Trainer:
    micro_tokens = spec.micro_batch_tokens or spec.batch_tokens
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=spec.steps,
        per_device_train_batch_size=micro_tokens // spec.context,
        gradient_accumulation_steps=spec.batch_tokens // micro_tokens,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.schedule,
        warmup_steps=spec.warmup_steps,
        max_grad_norm=spec.max_grad_norm,
        bf16=spec.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=spec.seed,
        save_strategy="no",  # the callback chooses the steps
        logging_steps=_LOG_EVERY,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    model = new_model(spec, vocabulary)
    count = spec.steps * (spec.batch_tokens // spec.context)
    trainer = _InOrder(
        model=model,
        args=arguments,
        train_dataset=_StepBlocks(train, count),
        optimizers=(make_optimizer(model, spec), None),
        callbacks=[checkpoints],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def autocast_dtype(spec: ModelTraining) -> torch.dtype | None:
    """The dtype of the matrix products, or None for the weights' own."""
    return torch.bfloat16 if spec.precision == "bfloat16" else None


def _write_complete(folder: Path, step: int, measured: Perplexity) -> None:
    record = Checkpoint(
        step=step,
        perplexity=measured.perplexity,
        bits_per_byte=measured.bits_per_byte,
        sha256=sha256_file(folder / WEIGHTS),
    )
    atomic_write(folder / _COMPLETE, json.dumps(asdict(record)).encode())


def _last_resumable(work: Path) -> int | None:
    """The last step that can be resumed from; half-written checkpoints are removed."""
    resumable = []
    for folder in work.glob("checkpoint-*"):
        if not (folder / _COMPLETE).is_file():
            shutil.rmtree(folder)
        elif (folder / _RESUME_STATE).is_file():
            resumable.append(int(folder.name.removeprefix("checkpoint-")))
    return max(resumable, default=None)


def _drop_resume_state(work: Path, *, keep: Path) -> None:
    """Optimizer states are twice the weights' size and only the last one is of use."""
    for folder in work.glob("checkpoint-*"):
        if folder != keep:
            (folder / _RESUME_STATE).unlink(missing_ok=True)


def _keep(
    spec: ModelTraining, work: Path, out: Path, tokenizer_files: dict[str, bytes]
) -> TrainingRun:
    """Put weights, configuration and record of all kept steps at `out`, by one rename."""
    staged = work / "finished"
    shutil.rmtree(staged, ignore_errors=True)
    records = []
    for step in spec.checkpoints():
        source, target = work / f"checkpoint-{step}", staged / step_name(step)
        target.mkdir(parents=True)
        for name in (WEIGHTS, "config.json"):
            shutil.copyfile(source / name, target / name)
        for name, content in tokenizer_files.items():
            (target / name).write_bytes(content)
        records.append(json.loads((source / _COMPLETE).read_text(encoding="utf-8")))
    atomic_write(
        staged / RECORD, json.dumps({"version": 1, "checkpoints": records}, indent=2).encode()
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    publish_folder(staged, out)
    shutil.rmtree(work)
    run = open_run(out)
    assert run is not None
    return run


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
