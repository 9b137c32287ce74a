"""A model larger than one GPU: its weights divided over processes by transformers' tensor-parallel plan.

    torchrun --nproc-per-node 2 decode_my_rows.py

Every process (rank) opens the same models, one GPU each, and runs the same engine with the same prefixes and
uniforms; attention heads and feed-forward columns are divided, sums meet in an all-reduce, and each rank holds
the caches of its own heads. Rank 0's logits are given to all, so all draw the same tokens, whatever rounds
differently elsewhere; what rank 0 returns is the result. An amateur that fits one GPU needs no division: opened
with `models.open_model` on each rank's own device, it runs there as it is.

The sums are in another order than in one process: tokens agree with a single process's up to CDF boundaries, and
the number of ranks belongs to the numeric class. Recipes built by `cdgen build` run in one process: this is for
programs that call the engine.
"""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoConfig
from transformers.distributed.configuration_utils import DistributedConfig

from cdgen.decode.models import GeneralModel, State, dtype_of, load
from cdgen.errors import UsageError


class ParallelModel(GeneralModel):
    """A model divided over ranks, behind the engine's interface; all ranks must make the same calls."""

    @property
    def path(self) -> str:
        """How it runs."""
        return f"{super().path}, divided over {dist.get_world_size()} processes"

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Rank 0's logits [P, V] after the prefixes."""
        return _of_first_rank(super().prefill(state, prefix_PT))

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Rank 0's logits [B, V] after one more token."""
        return _of_first_rank(super().step(state, token_B))


def open_parallel(folder: Path, *, weights_dtype: str, cache_dtype: str) -> ParallelModel:
    """The model of a folder, divided over the processes that torchrun started.

    Args:
        folder: with config.json and *.safetensors.
        weights_dtype, cache_dtype: float32 or bfloat16, as a recipe says it.

    Raises:
        UsageError: not under torchrun; a model without a plan, or with heads that the ranks cannot share evenly;
            and what `models.load` raises.
    """
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        raise UsageError(
            "a model divided over processes needs one process per GPU: start the program with "
            "torchrun --nproc-per-node N"
        )
    ranks = int(os.environ["WORLD_SIZE"])
    _check_plan(folder, ranks)
    device = rank_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    model = load(
        folder,
        dtype=dtype_of(weights_dtype),
        device=device,
        spread=DistributedConfig(tp_size=ranks, tp_plan="auto"),
    )
    return ParallelModel(model, cache_dtype=dtype_of(cache_dtype))


def rank_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _check_plan(folder: Path, ranks: int) -> None:
    """What transformers would answer with wrong shapes, or not at all."""
    if not (folder / "config.json").is_file():
        return  # `load` says it better
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not getattr(config, "base_model_tp_plan", None):
        raise UsageError(
            f"{folder}: transformers has no tensor-parallel plan for {config.model_type}; it must fit one GPU"
        )
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    if heads % ranks or text.num_attention_heads % ranks:
        raise UsageError(
            f"{folder}: {text.num_attention_heads} heads and {heads} key-value heads cannot be divided over "
            f"{ranks} processes; take a number that divides both"
        )


def _of_first_rank(logits: Tensor) -> Tensor:
    logits = logits.contiguous()
    dist.broadcast(logits, src=0)
    return logits
