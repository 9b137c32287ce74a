"""torchdata's StatefulDataLoader: its state holds those of its workers."""

import sys
from pathlib import Path

import torch
from tiny import tiny_llama
from torchdata.stateful_dataloader import StatefulDataLoader

import cdgen


def train(folder: str, state: Path, last_step: int, num_workers: int) -> None:
    """Read up to `last_step`, from the state if there is one; with the same number of workers."""
    corpus = cdgen.open_corpus(folder)
    stream = cdgen.stream(corpus, block=64, seed=1, epochs=20, batch_size=4)
    loader = StatefulDataLoader(stream, batch_size=None, num_workers=num_workers)
    step = 0
    if state.exists():
        saved = torch.load(state, weights_only=False)
        loader.load_state_dict(saved["loader"])
        step = saved["step"]

    model = tiny_llama(corpus)
    for batch in loader:
        model(**batch).loss.backward()
        step += 1
        if step == last_step:
            break
    torch.save({"loader": loader.state_dict(), "step": step}, state)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
