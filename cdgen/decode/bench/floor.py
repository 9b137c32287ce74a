"""The time that this machine needs at least, for the products and for the bytes that must be read.

Products count at the rate measured for their very shapes and dtypes, bytes at the rate measured for reading.

Caches are counted with a prefix stored once for its completions; weights once per step. Nothing else is counted:
no softmax, no norm, no draw. What is measured is the best of several, so no load of the moment lowers the floor.
"""

import time
from collections.abc import Callable

import torch
from torch.nn import functional

from cdgen.decode.bench.pairs import Shape, Size
from cdgen.decode.linear import Linear

READ_BYTES = 256 * 2**20
ROUNDS = 12
COPIES_BYTES = 48 * 2**20
"""Weights of one shape are repeated up to this size, so that they come from memory as in a real step."""


def floor(
    size: Size, shapes: list[Shape], *, weights: torch.dtype, cache: torch.dtype
) -> dict[str, float]:
    """Seconds and tokens per second of a batch decoded by models of these shapes, and the rates behind them."""
    rate = read_rate()
    products = sum(_step_seconds(size, shape, weights) for shape in shapes)
    num_bytes = sum(
        _cache_bytes(size, shape, cache) + _weight_bytes(size, shape, weights) for shape in shapes
    )
    flops = sum(2 * size.rows * _num_weights(size, shape) for shape in shapes)
    step = products + num_bytes / rate
    return {
        "seconds": step * size.new_tokens,
        "tokens_per_s": size.rows / step,
        "read_gb_per_s": rate / 1e9,
        "gflop_per_s": flops / products / 1e9,
        "product_ms_per_step": products * 1e3,
        "read_mb_per_step": num_bytes / 1e6,
    }


def read_rate() -> float:
    """Bytes per second, from memory far larger than the caches."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    buffers = [torch.ones(READ_BYTES // 16, device=device) for _ in range(4)]
    best = _best(lambda: [buffer.sum() for buffer in buffers])
    return READ_BYTES / best


def products_of(size: Size, shape: Shape) -> list[tuple[int, int, int]]:
    """(inputs, outputs, times) of a step's matrix products."""
    c = shape.hidden
    return [
        (c, c + 2 * shape.kv_hidden, shape.layers),
        (c, c, shape.layers),
        (c, 2 * shape.ffn, shape.layers),
        (shape.ffn, c, shape.layers),
        (c, size.vocab, 1),
    ]


def _step_seconds(size: Size, shape: Shape, dtype: torch.dtype) -> float:
    return sum(
        times * _product_seconds(size.rows, inputs, outputs, dtype)
        for inputs, outputs, times in products_of(size, shape)
    )


def _product_seconds(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> float:
    """The faster of torch's `linear` and of weights laid out ahead."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    count = min(64, 1 + COPIES_BYTES // (inputs * outputs * dtype.itemsize))
    x = torch.randn(rows, inputs, device=device).to(dtype)
    weights = [torch.randn(outputs, inputs, device=device).to(dtype) for _ in range(count)]
    packed = [Linear(weight) for weight in weights]
    return (
        min(
            _best(lambda: [functional.linear(x, weight) for weight in weights]),
            _best(lambda: [linear(x) for linear in packed]),
        )
        / count
    )


def _num_weights(size: Size, shape: Shape) -> int:
    return sum(inputs * outputs * times for inputs, outputs, times in products_of(size, shape))


def _weight_bytes(size: Size, shape: Shape, dtype: torch.dtype) -> int:
    return _num_weights(size, shape) * dtype.itemsize


def _cache_bytes(size: Size, shape: Shape, dtype: torch.dtype) -> float:
    """Keys and values of a step, on average over the steps."""
    token = 2 * shape.layers * shape.kv_hidden * dtype.itemsize
    return token * (size.prefixes * size.prefix_tokens + size.rows * size.new_tokens / 2)


@torch.inference_mode()
def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls."""
    seconds = []
    for _ in range(ROUNDS):
        begun = _now()
        call()
        seconds.append(_now() - begun)
    return min(seconds)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
