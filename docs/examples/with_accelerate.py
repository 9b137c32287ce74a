"""Accelerate: the loader is already one rank's, so it is registered and not prepared."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from tiny import tiny_llama

import cdgen

GLOBAL_BATCH = 12


def train(folder: str, out: Path, last_step: int) -> None:
    """Train on the corpus up to `last_step`, from the checkpoint if there is one."""
    accelerator = Accelerator(cpu=True)  # before the stream, which asks it for the rank
    corpus = cdgen.open_corpus(folder)
    stream = cdgen.stream(corpus, block=64, seed=1, epochs=20)
    loader = stream.loader(batch_size=GLOBAL_BATCH // accelerator.num_processes)
    model = tiny_llama(corpus)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    accelerator.register_for_checkpointing(loader)
    if out.exists():
        accelerator.load_state(out)

    done = loader.state_dict()["block"] // GLOBAL_BATCH
    for step, batch in enumerate(loader, done + 1):
        inputs = {name: ids.to(accelerator.device) for name, ids in batch.items()}
        accelerator.backward(model(**inputs).loss)
        optimizer.step()
        optimizer.zero_grad()
        if step == last_step:
            break
    accelerator.save_state(out)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
