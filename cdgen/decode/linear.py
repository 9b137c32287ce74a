"""Matrix products of the fast path: weights laid out once for the rows they will meet.

On x86 CPUs torch's `linear` rearranges the weights in every call, which for a hundred rows costs as much as
the product. The operators that torch's own compiler uses take weights already arranged. They are looked
for when a model is built; where they are not, `linear` does the same arithmetic.

Shapes: R rows, I inputs, O outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 128
"""The number of rows that weights are laid out for; others work, too."""


class Linear:
    """x W^T + b, from weights [O, I] and an optional bias [O]."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.dtype = weight_OI.dtype
        self.bias = bias_O
        self.packed = _packed(weight_OI)
        self.weight = weight_OI if self.packed is None else None

    def __call__(self, x_RI: Tensor) -> Tensor:
        """[R, O] in the weights' dtype, from `x_RI` in the same."""
        if self.packed is None:
            assert self.weight is not None
            return functional.linear(x_RI, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            x_RI, self.packed, self.bias, "none", [], ""
        )
        return out


class Head:
    """The projection to the vocabulary, [V, C], from and to float32.

    A GPU's product of bfloat16 can give float32. A CPU's cannot: there the weights are kept in float32, at twice
    their bytes and two to four times their time.
    """

    def __init__(self, weight_VC: Tensor, bias_V: Tensor | None = None) -> None:
        self.bias = None if bias_V is None else bias_V.float()
        self.rounded_CV: Tensor | None = None
        if weight_VC.device.type == "cuda" and weight_VC.dtype == torch.bfloat16:
            self.rounded_CV = weight_VC.t()
        else:
            self.linear = Linear(weight_VC.float(), self.bias)

    def __call__(self, hidden_RC: Tensor) -> Tensor:
        """Logits [R, V]."""
        if self.rounded_CV is None:
            return self.linear(hidden_RC)
        inputs = hidden_RC.to(self.rounded_CV.dtype)
        logits_RV = torch.mm(inputs, self.rounded_CV, out_dtype=torch.float32)
        return logits_RV if self.bias is None else logits_RV.add_(self.bias)


def _packed(weight_OI: Tensor) -> Tensor | None:
    """The weights in oneDNN's own layout, or None where this torch or this device has none."""
    if weight_OI.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(  # noqa: SLF001
        weight_OI.contiguous(), ROWS
    )
    return packed
