"""Lightning: its checkpoints hold the state of the loader."""

import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import tiny_llama

import cdgen


class Module(lightning.LightningModule):
    """A causal language model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, _):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(folder: str, out: Path, last_step: int) -> None:
    """Train on the corpus up to `last_step`, from the last checkpoint if there is one."""
    corpus = cdgen.open_corpus(folder)
    loader = cdgen.stream(corpus, block=64, seed=1, epochs=20).loader(batch_size=4)
    trainer = lightning.Trainer(
        max_steps=last_step,
        callbacks=[ModelCheckpoint(out, every_n_train_steps=1, save_last=True)],
        use_distributed_sampler=False,  # the loader knows its rank
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = out / "last.ckpt"
    trainer.fit(Module(tiny_llama(corpus)), loader, ckpt_path=last if last.exists() else None)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
