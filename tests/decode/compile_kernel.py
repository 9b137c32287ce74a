"""Compile a Triton kernel for a GPU that is not here: a process of its own, since this one may interpret."""

import json
import os
import subprocess
import sys
from typing import Any

_PROGRAM = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
asked = json.load(sys.stdin)
kernel = getattr(importlib.import_module(asked["module"]), asked["kernel"])
types = {name: "fp32" for name in kernel.arg_names} | asked["types"]
types |= {name: "constexpr" for name in asked["constants"]}
source = ASTSource(kernel, types, constexprs=asked["constants"])
options = {"num_warps": asked["warps"], "enable_fp_fusion": False}
out = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
assert len(out.asm["cubin"]) > 1000
"""


def compile_for_hopper(
    module: str, kernel: str, *, constants: dict[str, Any], types: dict[str, str], warps: int
) -> None:
    """Fails unless Triton makes machine code of `module`.`kernel`; arguments not in `types` are fp32."""
    asked = {
        "module": module,
        "kernel": kernel,
        "constants": constants,
        "types": types,
        "warps": warps,
    }
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(asked),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
