"""Every part in a process of its own, one after the other, and the table of what they found.

Threads that wait spin as long as they do by default: the machine is taken to be idle.
"""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from cdgen.decode.bench import peers
from cdgen.decode.bench.floor import floor
from cdgen.decode.bench.ours import Setting, decode
from cdgen.decode.bench.pairs import SIZES, Shape, Size
from cdgen.errors import BuildError, UsageError

FIXED_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
BF16, FP32 = torch.bfloat16, torch.float32
STOCK = "reference loop"
"""What others are compared with."""


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    call: Callable[[Size], dict[str, Any]]
    environment: tuple[tuple[str, str], ...] = ()
    floor: str | None = None
    """The part that is its floor."""
    beside: str | None = None
    """The part whose cost per token its own is compared with: plain sampling."""


def _ours(floor_: str | None = None, beside: str | None = None, **setting: Any) -> Part:
    return Part(lambda size: decode(size, Setting(**setting)), floor=floor_, beside=beside)


def _floor(*, pair: bool, weights: torch.dtype, cache: torch.dtype) -> Part:
    def call(size: Size) -> dict[str, Any]:
        shapes: list[Shape] = [size.shape] * (2 if pair else 1)
        return dict(floor(size, shapes, weights=weights, cache=cache))

    return Part(call)


PARTS: dict[str, Part] = {
    STOCK: Part(lambda size: dict(peers.reference_loop(size))),
    "reference loop, allocator fixed": Part(
        lambda size: dict(peers.reference_loop(size)), tuple(FIXED_ALLOCATOR.items())
    ),
    "generate(), dynamic cache": Part(lambda size: dict(peers.generate(size, static=False))),
    "generate(), static cache": Part(lambda size: dict(peers.generate(size, static=True))),
    "floor fp32": _floor(pair=True, weights=FP32, cache=FP32),
    "floor bf16 weights": _floor(pair=True, weights=BF16, cache=FP32),
    "floor bf16 weights, bf16 cache": _floor(pair=True, weights=BF16, cache=BF16),
    "general path fp32": _ours("floor fp32", fast=False),
    "general path bf16 weights": _ours("floor bf16 weights", fast=False, weights=BF16),
    "fp32": _ours("floor fp32"),
    "bf16 weights": _ours("floor bf16 weights", weights=BF16),
    "bf16 weights, bf16 cache": _ours("floor bf16 weights, bf16 cache", weights=BF16, cache=BF16),
    "sample fp32": _ours(amateur="none"),
    "early exit fp32": _ours(beside="sample fp32", amateur="early exit"),
    "20x smaller fp32": _ours(beside="sample fp32", amateur="20x smaller"),
    "sample bf16 weights": _ours(amateur="none", weights=BF16),
    "early exit bf16 weights": _ours(
        beside="sample bf16 weights", amateur="early exit", weights=BF16
    ),
    "20x smaller bf16 weights": _ours(
        beside="sample bf16 weights", amateur="20x smaller", weights=BF16
    ),
}


def measure(
    size: str, *, parts: Sequence[str] = (), threads: int = 2, rows: int | None = None
) -> dict[str, Any]:
    """Run the parts (all by default), each in a fresh process; a dictionary ready for JSON.

    Raises:
        UsageError: no such size or part, or the GPU's size without a GPU.
        BuildError: a part failed.
    """
    if size not in SIZES:
        raise UsageError(f"the size must be one of {', '.join(SIZES)}, found {size}")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UsageError(f"no such part: {unknown[0]}; there are: {'; '.join(PARTS)}")
    if size == "gpu" and not torch.cuda.is_available():
        raise UsageError("the size gpu needs a CUDA device, and torch sees none here")
    chosen = list(parts) or list(PARTS)
    shape = SIZES[size] if rows is None else replace(SIZES[size], rows=rows)
    found = {name: _in_a_process(name, size, threads, shape.rows) for name in chosen}
    return {
        "size": size,
        "rows": shape.rows,
        "prefix_tokens": shape.prefix_tokens,
        "new_tokens": shape.new_tokens,
        "threads": threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "parts": with_ratios(found),
    }


def _in_a_process(name: str, size: str, threads: int, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "cdgen.decode.bench", name, size, str(threads), str(rows)]
    environment = os.environ | dict(PARTS[name].environment)
    environment |= {"OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BuildError(f"the part {name} failed: {last}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run_part(name: str, size: str, threads: int, rows: int) -> dict[str, Any]:
    """One part in this process, with the process's peak memory."""
    torch.set_num_threads(threads)
    found = PARTS[name].call(replace(SIZES[size], rows=rows))
    # ru_maxrss is in kB on Linux.
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    if torch.cuda.is_available():
        found["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def with_ratios(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was found, with ratios to the stock reference loop, to the floor and to plain sampling."""
    out = {}
    for name, numbers in found.items():
        out[name] = dict(numbers)
        for key, other in (
            ("times_reference", STOCK),
            ("share_of_floor", PARTS[name].floor),
        ):
            if other in found and not name.startswith("floor"):
                out[name][key] = numbers["tokens_per_s"] / found[other]["tokens_per_s"]
        beside = PARTS[name].beside
        if beside in found:
            out[name]["cost_of_sampling"] = numbers["seconds"] / found[beside]["seconds"]
    return out


def table(found: dict[str, Any]) -> str:
    """The numbers for a person."""
    head = f"{'':34}{'tokens/s':>10}{'x reference':>13}{'of floor':>10}{'x sample':>10}{'head':>7}{'peak MB':>9}"
    setting = (
        f"{found['size']}: {found['rows']} rows, {found['prefix_tokens']} + {found['new_tokens']} tokens; "
        f"{found['device']}, {found['machine']}, {found['threads']} threads"
    )
    lines = [setting, head]
    for name, numbers in found["parts"].items():
        lines.append(
            f"{name:34}{numbers['tokens_per_s']:10.0f}"
            f"{_number(numbers.get('times_reference'), 13, '.2f')}"
            f"{_number(numbers.get('share_of_floor'), 10, '.0%')}"
            f"{_number(numbers.get('cost_of_sampling'), 10, '.2f')}"
            f"{_number(numbers.get('mean_head_size'), 7, '.1f')}{numbers['peak_mb']:9.0f}"
        )
    return "\n".join(lines)


def _number(value: float | None, width: int, form: str) -> str:
    return " " * width if value is None else f"{value:>{width}{form}}"
