"""The optimizers a recipe can name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from cdgen.recipes.schema import ModelTraining


def make_optimizer(model: nn.Module, spec: ModelTraining) -> Optimizer:
    """The optimizer of a run.

    `adamw` decays every parameter, norms included, as the reference code does (the Trainer's own would spare them).
    `muon` steps the layers' matrices by orthogonalised momentum, embeddings and norms by AdamW, and spares the norms.
    """
    adamw = partial(AdamW, lr=spec.learning_rate, betas=(0.9, spec.adam_beta2), fused=True)
    if spec.optimizer == "adamw":
        return adamw(model.parameters(), weight_decay=spec.weight_decay)
    named = dict(model.named_parameters())
    hidden = {name for name, p in named.items() if ".layers." in name and p.ndim == 2}
    tables = [p for name, p in named.items() if p.ndim == 2 and name not in hidden]
    vectors = [p for p in named.values() if p.ndim < 2]
    groups = [
        {"params": tables, "weight_decay": spec.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    matrices = [p for name, p in named.items() if name in hidden]
    muon = Muon(matrices, lr=spec.matrix_learning_rate, weight_decay=spec.weight_decay)
    return Together(muon, adamw(groups))


class Together(Optimizer):
    """Several optimizers of different parameters, which the Trainer sees as one."""

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each part."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The parts' states, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # The parts have new groups now; a schedule must reach those.
        self.param_groups = [group for part in self.parts for group in part.param_groups]
