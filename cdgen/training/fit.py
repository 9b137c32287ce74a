"""The one training loop, of experts and of runs: the Hugging Face Trainer on blocks that are addresses.

An interrupted run goes on from its last kept checkpoint with the same numbers as one that was never interrupted. With
another number of processes it reads the same blocks in every step; only the order of the sums differs.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

from cdgen.errors import BuildError, UsageError
from cdgen.progress import Advance
from cdgen.recipes.schema import ModelTraining
from cdgen.training.checkpoints import Checkpoints
from cdgen.training.optimizer import make_optimizer
from cdgen.training.perplexity import HeldOut, perplexity
from cdgen.training.ranks import ALONE, Ranks
from cdgen.training.record import Checkpoint
from cdgen.training.steps import Order, StepBlocks


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished training.

    Attributes:
        checkpoints: the kept steps, ascending.
        losses: (step, training loss, learning rate) of every step.
        resumed_from: the step that this process went on from; 0 for none.
    """

    checkpoints: tuple[Checkpoint, ...]
    losses: tuple[tuple[int, float, float], ...]
    resumed_from: int


def fit(
    model: PreTrainedModel,
    spec: ModelTraining,
    order: Order,
    held_out: HeldOut,
    *,
    work: Path,
    kept: Path,
    tokenizer_files: dict[str, bytes],
    advance: Advance,
    compiled: bool = False,
    ranks: Ranks = ALONE,
) -> Fitted:
    """Train, or go on training.

    Args:
        model: with its first weights, float32; a resume replaces them.
        spec: how.
        order: the blocks of the run.
        held_out: measures every checkpoint.
        work: the working folder; an interrupted training goes on from what is here.
        kept: where the model folders of the kept steps are put, each complete or not at all.
        tokenizer_files: put beside every model.
        advance: told of every step.
        compiled: whether to compile the model.
        ranks: the processes that train together.

    Raises:
        UsageError: the number of processes does not divide the batch.
        BuildError: the loss is no number any more.
    """
    disable_progress_bar()  # of the writing of weights: there is one of our own
    checkpoints = Checkpoints(work, kept, tokenizer_files)
    if ranks.is_first:
        checkpoints.last_resumable()  # removes what is half-written before others look
    ranks.wait()
    resume = checkpoints.last_resumable()
    blocks_per_step = spec.batch_tokens // spec.context
    first = 0 if resume is None else order.block_at(checkpoints.stream(resume))
    assert first == (resume or 0) * blocks_per_step
    if resume is not None:
        advance(resume, note="resumed")
    if resume != spec.steps:
        trainer = Trainer(
            model=model,
            args=_arguments(spec, work, compiled=compiled, ranks=ranks),
            train_dataset=StepBlocks(order, first, spec.steps * blocks_per_step),
            optimizers=(make_optimizer(model, spec), None),
            callbacks=[
                _Keep(
                    spec=spec,
                    order=order,
                    held_out=held_out,
                    checkpoints=checkpoints,
                    advance=advance,
                    ranks=ranks,
                )
            ],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoints.folder(resume)) if resume else None)
    ranks.wait()
    return Fitted(
        checkpoints.records(spec.checkpoints()),
        tuple(checkpoints.losses(spec.steps)),
        resume or 0,
    )


def micro_batch(spec: ModelTraining, world_size: int) -> tuple[int, int]:
    """(blocks of a forward pass of one process, forward passes of a step).

    Raises:
        UsageError: the processes cannot divide the batch evenly.
    """
    blocks = spec.batch_tokens // spec.context
    micro = (spec.micro_batch_tokens or spec.batch_tokens // world_size) // spec.context
    if micro < 1 or blocks % (micro * world_size):
        raise UsageError(
            f"{world_size} processes cannot divide {spec.batch_tokens} batch_tokens evenly into forward passes of "
            f"{max(micro, 1) * spec.context} tokens each; set train.micro_batch_tokens, or start fewer processes"
        )
    return micro, blocks // (micro * world_size)


def _arguments(
    spec: ModelTraining, work: Path, *, compiled: bool, ranks: Ranks
) -> TrainingArguments:
    micro, passes = micro_batch(spec, ranks.world_size)
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=spec.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=passes,
        train_sampling_strategy="sequential",  # the order is the dataset's
        ignore_data_skip=True,  # the dataset begins with what is left
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.schedule,
        warmup_steps=spec.warmup_steps,
        max_grad_norm=spec.max_grad_norm,
        bf16=spec.precision == "bfloat16",
        torch_compile=compiled,
        ddp_find_unused_parameters=False,
        use_cpu=not torch.cuda.is_available(),
        seed=spec.seed,
        save_strategy="no",  # the callback chooses the steps
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:  # DataParallel would read several batches a step; torchrun divides one
        arguments._n_gpu = 1  # noqa: SLF001 - the Trainer's own way to switch it off
    return arguments


class _Keep(TrainerCallback):
    """Chooses the steps that are kept, measures each, and keeps it."""

    def __init__(
        self,
        *,
        spec: ModelTraining,
        order: Order,
        held_out: HeldOut,
        checkpoints: Checkpoints,
        advance: Advance,
        ranks: Ranks,
    ) -> None:
        self._spec, self._order, self._held_out = spec, order, held_out
        self._checkpoints, self._advance, self._ranks = checkpoints, advance, ranks
        self._steps = set(spec.checkpoints())
        self._loss, self._measured = "", ""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._advance(1, note=self._loss + self._measured)
        control.should_save = state.global_step in self._steps

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise BuildError(
                f"the training diverged: the loss of step {state.global_step} is {loss}; lower learning_rate, "
                "or set max_grad_norm"
            )
        self._loss = f"loss {loss:.3f}"

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        measured = perplexity(
            kwargs["model"],
            self._held_out,
            context=self._spec.context,
            autocast=autocast_dtype(self._spec),
            ranks=self._ranks,
        )
        if self._ranks.is_first:
            block = state.global_step * (self._spec.batch_tokens // self._spec.context)
            stream = self._order.state_at(block)
            self._checkpoints.keep(state.global_step, measured, stream)
        self._ranks.wait()
        self._measured = f", eval perplexity {measured.perplexity:.1f}"


def autocast_dtype(spec: ModelTraining) -> torch.dtype | None:
    """The dtype of the matrix products, or None for the weights' own."""
    return torch.bfloat16 if spec.precision == "bfloat16" else None
