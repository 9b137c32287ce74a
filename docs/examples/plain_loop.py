"""A plain loop. Run it again with more steps, and it goes on where it stopped."""

import sys
from pathlib import Path

import torch
from tiny import tiny_llama

import cdgen


def train(folder: str, checkpoint: Path, last_step: int) -> None:
    """Train on the corpus up to `last_step`, from the checkpoint if there is one."""
    corpus = cdgen.open_corpus(folder)
    loader = cdgen.stream(corpus, block=64, seed=1, epochs=20).loader(batch_size=4)
    model = tiny_llama(corpus)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["stream"])
        step = saved["step"]

    for batch in (
        loader
    ):  # input_ids and labels, [4, 64]; a causal model of transformers shifts the labels itself
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step == last_step:
            break

    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**saved, "stream": loader.state_dict(), "step": step}, checkpoint)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
