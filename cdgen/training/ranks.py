"""The processes of one training run: one alone, or those that torchrun started."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, value: float) -> float:
        """The sum of every process's value, in every process."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=_device())
        dist.all_reduce(total)
        return float(total)


ALONE = Ranks(0, 1)


def join_ranks() -> Ranks:
    """The processes that torchrun started, if it did; they have found each other when this returns."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())  # the Trainer asks the same one
    return Ranks(state.process_index, state.num_processes)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
