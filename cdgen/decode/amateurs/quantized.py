"""An amateur that is the expert with rounded weights: round to nearest, no calibration data.

8 bits: symmetric, one scale per output channel (absmax, as LLM.int8() takes it for weights, arXiv 2208.07339).
4 bits: asymmetric, 16 levels with a scale and a zero point per group of 128 inputs (the round-to-nearest baseline
of GPTQ, arXiv 2210.17323, and AWQ, arXiv 2306.00978). Embeddings, norms, biases and the head stay, as there.

The rounded numbers are stored in the weights' own dtype and run through the expert's path: the model is worse, not
smaller. In float32 they lie on the grid; in bfloat16 each is rounded once more, by at most 2^-9 of it.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cdgen.errors import UsageError

GROUP = 128
"""Inputs that share a scale with 4 bits; the last group of a row may be smaller."""

SMALLEST_SHARE = 0.9
"""Of the weights besides the embeddings and the head, how much must lie in linear layers."""


@torch.no_grad()
def round_weights(model: PreTrainedModel, bits: int) -> None:
    """Round the weights of all linear layers but the head, in place.

    Args:
        model: of transformers.
        bits: 4 or 8.

    Raises:
        UsageError: most of the weights lie elsewhere (mixtures of experts, state spaces).
    """
    head = model.get_output_embeddings()
    linear = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables.add(id(getattr(head, "weight", None)))
    total = sum(weight.numel() for weight in model.parameters() if id(weight) not in tables)
    if sum(module.weight.numel() for module in linear) < SMALLEST_SHARE * total:
        raise UsageError(
            f"amateur quantized: {type(model).__name__} keeps most of its weights outside of linear layers, "
            "which are what can be rounded here"
        )
    for module in linear:
        weight = module.weight
        if isinstance(module, Conv1D):  # GPT-2 keeps [inputs, outputs]
            weight.copy_(rounded(weight.T.float(), bits).T)
        else:
            weight.copy_(rounded(weight.float(), bits))


def rounded(weight_OI: Tensor, bits: int) -> Tensor:
    """The nearest representable weights, [outputs, inputs], float32."""
    if bits == 8:
        return _symmetric(weight_OI, levels=127)
    groups = [_asymmetric(group, levels=15) for group in torch.split(weight_OI, GROUP, dim=1)]
    return torch.cat(groups, dim=1)


def _symmetric(weight_OI: Tensor, *, levels: int) -> Tensor:
    scale_O1 = _positive(weight_OI.abs().amax(dim=1, keepdim=True) / levels)
    return (weight_OI / scale_O1).round().clamp(-levels, levels) * scale_O1


def _asymmetric(weight_OI: Tensor, *, levels: int) -> Tensor:
    low_O1 = weight_OI.amin(dim=1, keepdim=True).clamp(max=0.0)  # zero is always a level
    high_O1 = weight_OI.amax(dim=1, keepdim=True).clamp(min=0.0)
    scale_O1 = _positive((high_O1 - low_O1) / levels)
    zero_O1 = (-low_O1 / scale_O1).round()
    return ((weight_OI / scale_O1).round() + zero_O1).clamp(0, levels).sub(zero_O1) * scale_O1


def _positive(scale_O1: Tensor) -> Tensor:
    """Scales of channels that are all zero: any will do."""
    return torch.where(scale_O1 > 0, scale_O1, torch.ones_like(scale_O1))
