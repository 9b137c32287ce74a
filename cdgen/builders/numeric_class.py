"""The numeric class: within one of them, equal inputs give equal bits.

Device model, versions, dtypes and threads. Read without importing torch, so that a finished build is recognised
in a moment.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cdgen import __version__
from cdgen.decode import ENGINE_VERSION
from cdgen.recipes.schema import ModelTraining, Recipe

_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "fma", "asimd", "sve")


def training_class(train: ModelTraining) -> dict[str, str]:
    """The class of a training run on this machine."""
    return {**_machine(), "dtype": train.precision, "threads": str(train.threads)}


def decoding_class(recipe: Recipe) -> dict[str, str]:
    """The class of a recipe's decoding on this machine."""
    generate = recipe.generate
    return {
        **_machine(),
        "engine": str(ENGINE_VERSION),
        "dtype": f"{generate.weights_dtype} weights, {generate.cache_dtype} cache",
        "threads": str(generate.threads),
    }


def refusal(
    worker: str, host: str, version: str, found: Mapping[str, str], wanted: Mapping[str, str]
) -> str | None:
    """Why a worker may not take part in a build, in one line; None if it may."""
    if version != __version__:
        return (
            f"{worker} on {host} is refused: it has cdgen {version}, and the driver {__version__}; "
            "install the same version on every machine"
        )
    other = {key: found.get(key, "none") for key in wanted if found.get(key) != wanted[key]}
    if not other:
        return None
    facts = "; ".join(f"{key} {value}, the build's {wanted[key]}" for key, value in other.items())
    return (
        f"{worker} on {host} is refused: it is of another numeric class ({facts}), whose tokens need not agree "
        "with the build's; choose workers of one kind with workers.labels of the profile"
    )


@cache
def _machine() -> dict[str, str]:
    gpu = _gpu()
    return {
        "device": gpu or _cpu(),
        # On a GPU the build counts, too: +cu126 and +cu130 bring other matrix kernels.
        "torch": version("torch") if gpu else version("torch").split("+")[0],
        "transformers": version("transformers"),
        **({"kernels": _kernels()} if gpu else {}),
    }


def _gpu() -> str | None:
    """The name of the NVIDIA GPU that torch will use first, asked of its driver's own tool; None = the CPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "+cpu" in version("torch") or visible in ("", "-1") or shutil.which("nvidia-smi") is None:
        return None
    first = (visible or "0").split(",")[0].strip()  # a number, or a UUID: nvidia-smi knows both
    asked = ["nvidia-smi", f"--id={first}", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    names = answer.stdout.strip().splitlines()
    return names[0] if answer.returncode == 0 and names else None


def _kernels() -> str:
    """What computes attention and draws on a GPU: which of its kernels a step takes follows from the recipe."""
    try:
        return f"triton {version('triton')}"
    except PackageNotFoundError:
        return "torch"


def _cpu() -> str:
    """Model name and the instruction sets that numerical libraries choose between."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.processor() or platform.machine()}"
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    name = facts.get("model name") or platform.machine()
    return " ".join([name, *(feature for feature in _CPU_FEATURES if feature in flags)])
