"""Data-parallel training: torchrun --nproc-per-node 2 with_ddp.py DIR CHECKPOINT STEPS; resume on 1 or 3 processes."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tiny import tiny_llama
from torch.nn.parallel import DistributedDataParallel

import cdgen

GLOBAL_BATCH = 12


def train(folder: str, checkpoint: Path, last_step: int) -> None:
    """Train on the corpus up to `last_step`, from the checkpoint if there is one."""
    corpus = cdgen.open_corpus(folder)
    stream = cdgen.stream(
        corpus, block=64, seed=1, epochs=20
    )  # knows its rank from torch.distributed
    loader = stream.loader(batch_size=GLOBAL_BATCH // dist.get_world_size())
    torch.manual_seed(0)
    model = tiny_llama(corpus)
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        loader.load_state_dict(saved["stream"])
        step = saved["step"]

    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for batch in loader:
        parallel(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step == last_step:
            break

    if dist.get_rank() == 0:  # the state is the same on every rank
        saved = {"model": model.state_dict(), "stream": loader.state_dict(), "step": step}
        torch.save(saved, checkpoint)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    dist.destroy_process_group()
