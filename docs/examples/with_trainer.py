"""The Trainer of transformers: it resumes without reading what it has seen."""

import json
import sys
from pathlib import Path

from tiny import tiny_llama
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import cdgen

STATE = "stream.json"


class SaveStream(TrainerCallback):
    """Writes the state of the stream into every checkpoint."""

    def __init__(self, blocks):
        self.blocks = blocks

    def on_save(self, args, state, control, **kwargs):
        taken = (
            state.global_step
            * args.train_batch_size
            * args.gradient_accumulation_steps
            * args.world_size
        )
        file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
        file.write_text(json.dumps(self.blocks.state_at(taken)))


def train(folder: str, out: str, last_step: int, num_workers: int = 0) -> None:
    """Train on the corpus up to `last_step`, from the last checkpoint if there is one."""
    corpus = cdgen.open_corpus(folder)
    blocks = cdgen.blocks(corpus, block=64, seed=1, epochs=20)
    checkpoint = get_last_checkpoint(out) if Path(out).is_dir() else None
    first = blocks.block_at(json.loads((Path(checkpoint) / STATE).read_text())) if checkpoint else 0
    arguments = TrainingArguments(
        out,
        max_steps=last_step,
        per_device_train_batch_size=4,
        train_sampling_strategy="sequential",  # the blocks are shuffled already
        ignore_data_skip=True,  # `skip` has done it, in no time
        dataloader_drop_last=True,
        dataloader_num_workers=num_workers,
        dataloader_persistent_workers=num_workers > 0,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        tiny_llama(corpus),
        arguments,
        train_dataset=blocks.skip(first),
        callbacks=[SaveStream(blocks)],
    )
    trainer.train(resume_from_checkpoint=checkpoint)


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
