"""torch's own DataLoader with any number of workers: the order is that of a plain loop."""

import json
import sys
from pathlib import Path

from tiny import tiny_llama
from torch.utils.data import DataLoader

import cdgen


def train(folder: str, state: Path, last_step: int, num_workers: int) -> None:
    """Read up to `last_step`, from the state if there is one."""
    corpus = cdgen.open_corpus(folder)
    stream = cdgen.stream(corpus, block=64, seed=1, epochs=20, batch_size=4)
    step = 0
    if state.exists():
        saved = json.loads(state.read_text())
        stream.load_state_dict(saved["stream"])
        step = saved["step"]

    model = tiny_llama(corpus)
    loader = DataLoader(
        stream, batch_size=None, num_workers=num_workers
    )  # the stream's items are batches
    for batch in loader:
        model(**batch).loss.backward()
        step += 1
        if step == last_step:
            break

    # The workers read ahead, so count what arrived: 4 blocks a step. `stream.loader` counts by itself.
    state.write_text(json.dumps({"stream": stream.blocks.state_at(4 * step), "step": step}))


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
