"""Triton's kernels on this machine: compiled where there is a GPU, else by its interpreter, else skipped."""

from importlib.util import find_spec

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where the kernels run; `tests/conftest.py` asks Triton to interpret where there is no GPU."""

if find_spec("triton") is None:
    pytest.skip(
        "triton is not installed: torch for CUDA brings it, `pip install triton` adds its interpreter",
        allow_module_level=True,
    )
