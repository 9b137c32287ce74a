"""Attention of one query per row over a cache whose length stands on the GPU, as one kernel.

A CUDA graph replays fixed launches: nothing that the host knows may change from step to step. So the
length is read from device memory, and one graph serves every length: no buckets, no mask, no token read
that is not attended to. A program owns one head of one row and walks the keys once, in blocks: first those
of the prefix, stored once for all its completions (which run at about the same time, so that the L2 cache
serves all but the first), then the row's own. Sums are float32, in an order fixed by constants.

Needs Triton, which torch brings along with CUDA; under TRITON_INTERPRET=1 it runs on a CPU, for tests.

Shapes: B rows, P prefixes, H heads, J key-value heads, D head size, t tokens of a prefix, L slots of a row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096
"""Numbers of keys that a program holds at once; part of the result's bits, so never tuned per machine."""

NUM_WARPS = 4
"""Likewise."""


def attend(
    query_BHD: Tensor,
    key_BJD: Tensor,
    value_BJD: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    position_1: Tensor,
    *,
    prefix_keys: Tensor | None,
    prefix_values: Tensor | None,
    window: int | None,
    scale: float,
) -> Tensor:
    """Append each row's newest key and value to its cache, and attend to all that its query sees: [B, H, D].

    Args:
        query_BHD, key_BJD, value_BJD: of the newest token, the numbers of a head contiguous.
        own_keys, own_values: [B, J, L, D], likewise; written at the newest token's slot.
        position_1: int64 [1], on the device: the newest token's position in the row, prefix counted.
        prefix_keys, prefix_values: [P, J, t, D], shared by B / P rows in a run; then a row's own slots hold
            positions t and up. None: they hold all positions.
        window: tokens a query sees, itself included; None = all.
        scale: of the scores.
    """
    rows, heads, size = query_BHD.shape
    shared_keys, shared_values = own_keys, own_values  # never read without a prefix
    if prefix_keys is not None and prefix_values is not None:
        shared_keys, shared_values = prefix_keys, prefix_values
    for tensor in (query_BHD, key_BJD, value_BJD, own_keys, own_values, shared_keys, shared_values):
        assert tensor.stride(-1) == 1
    assert own_keys.stride() == own_values.stride()
    assert shared_keys.stride() == shared_values.stride()
    padded = triton.next_power_of_2(size)
    out_BHD = query_BHD.new_empty(rows, heads, size)
    with torch.cuda.device_of(query_BHD):  # type: ignore[no-untyped-call]  # Triton launches on the current device
        _attend[(rows * heads,)](
            query_BHD,
            key_BJD,
            value_BJD,
            shared_keys,
            shared_values,
            own_keys,
            own_values,
            position_1,
            out_BHD,
            0 if prefix_keys is None else prefix_keys.shape[2],
            rows // shared_keys.shape[0],
            heads,
            heads // own_keys.shape[1],
            *query_BHD.stride()[:2],
            *key_BJD.stride()[:2],
            *value_BJD.stride()[:2],
            *shared_keys.stride()[:3],
            *own_keys.stride()[:3],
            0 if window is None else window,
            scale,
            WINDOW=window is not None,
            PREFIX=prefix_keys is not None,
            SIZE=size,
            PADDED=padded,
            BLOCK=max(16, TILE // padded),
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,  # said aloud, because Triton's default changes
        )
    return out_BHD


@triton.jit
def _walk(
    state: tl.tuple,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    stride: tl.tensor,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Slots `first` to `end` into an online softmax: (largest score, sum of weights, weighted values)."""
    top, total, mixed = state
    lane = tl.arange(0, PADDED)
    for begin in range(first, end, BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        seen = slot < end
        at = slot.to(tl.int64)[:, None] * stride + lane[None, :]
        mask = seen[:, None] & (lane < SIZE)[None, :]
        key = tl.load(keys + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(values + at, mask=mask, other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(key * query[None, :], axis=1), float("-inf"))
        new = tl.maximum(top, tl.max(score, axis=0))
        weight = tl.exp(score - new)
        kept = tl.exp(top - new)
        total = total * kept + tl.sum(weight, axis=0)
        mixed = mixed * kept + tl.sum(weight[:, None] * value, axis=0)
        top = new
    return top, total, mixed


@triton.jit
def _attend(
    query_ptr: tl.tensor,
    key_ptr: tl.tensor,
    value_ptr: tl.tensor,
    shared_keys_ptr: tl.tensor,
    shared_values_ptr: tl.tensor,
    own_keys_ptr: tl.tensor,
    own_values_ptr: tl.tensor,
    position_ptr: tl.tensor,
    out_ptr: tl.tensor,
    prefix_tokens: tl.tensor,
    completions: tl.tensor,
    heads: tl.tensor,
    groups: tl.tensor,
    query_row: tl.tensor,
    query_head: tl.tensor,
    key_row: tl.tensor,
    key_head: tl.tensor,
    value_row: tl.tensor,
    value_head: tl.tensor,
    shared_row: tl.tensor,
    shared_head: tl.tensor,
    shared_slot: tl.tensor,
    own_row: tl.tensor,
    own_head: tl.tensor,
    own_slot: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    WINDOW: tl.constexpr,
    PREFIX: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One head of one row: see the module."""
    program = tl.program_id(0)
    row = (program // heads).to(tl.int64)  # rows times slots may exceed 2^31
    head = program % heads
    kv_head = (head // groups).to(tl.int64)
    lane = tl.arange(0, PADDED)
    real = lane < SIZE
    query = tl.load(query_ptr + row * query_row + head * query_head + lane, mask=real, other=0.0)
    key = tl.load(key_ptr + row * key_row + kv_head * key_head + lane, mask=real, other=0.0)
    value = tl.load(value_ptr + row * value_row + kv_head * value_head + lane, mask=real, other=0.0)
    query = query.to(tl.float32) * scale
    key = key.to(own_keys_ptr.dtype.element_ty)  # rounded now, as later steps will see them
    value = value.to(own_values_ptr.dtype.element_ty)

    position = tl.load(position_ptr).to(tl.int32)
    first = 0
    if WINDOW:
        first = tl.maximum(position + 1 - window, 0)
    end = position - prefix_tokens  # of the own slots that hold earlier tokens
    base = row * own_row + kv_head * own_head
    at = base + end.to(tl.int64) * own_slot + lane
    # Nobody reads this slot before the next step; one of the heads that share it writes it.
    if head % groups == 0:
        tl.store(own_keys_ptr + at, key, mask=real)
        tl.store(own_values_ptr + at, value, mask=real)

    state = (tl.sum(query * key.to(tl.float32), axis=0), 1.0, value.to(tl.float32))
    if PREFIX:
        shared = (row // completions) * shared_row + kv_head * shared_head
        state = _walk(
            state, query, shared_keys_ptr + shared, shared_values_ptr + shared,
            first, prefix_tokens, shared_slot, SIZE, PADDED, BLOCK,
        )  # fmt: skip
    _top, total, mixed = _walk(
        state, query, own_keys_ptr + base, own_values_ptr + base,
        tl.maximum(first - prefix_tokens, 0), end, own_slot, SIZE, PADDED, BLOCK,
    )  # fmt: skip
    tl.store(out_ptr + (row * heads + head) * SIZE + lane, mixed / total, mask=real)
