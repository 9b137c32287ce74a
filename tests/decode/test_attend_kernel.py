"""The fused attention of a decoding step: what scaled_dot_product_attention gives over the same tokens."""

from typing import Any

import pytest
import torch
from decode.triton_here import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cdgen.decode import attend_kernel

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Numbers that `dtype` holds exactly, so that rounding them again changes nothing."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def seen(shared: Tensor | None, own: Tensor, position: int, window: int | None) -> Tensor:
    """The keys or values of all positions that the newest query sees, [B, J, T, D], float32."""
    rows = own if shared is None else torch.cat([repeated(shared, len(own)), own], dim=2)
    first = 0 if window is None else max(0, position + 1 - window)
    return rows[:, :, first : position + 1].float()


def repeated(shared: Tensor, rows: int) -> Tensor:
    return shared.repeat_interleave(rows // len(shared), dim=0)


def check(
    *,
    prefixes: int,
    completions: int,
    kv_heads: int,
    groups: int,
    size: int,
    prefix_tokens: int,
    length: int,
    position: int,
    window: int | None,
    dtype: torch.dtype,
    seed: int = 0,
) -> None:
    """The kernel appends the newest token and attends to what it sees."""
    rows, heads = prefixes * completions, kv_heads * groups
    query = random(rows, heads, size, seed=seed, dtype=dtype)
    key, value = (random(rows, kv_heads, size, seed=seed + i, dtype=dtype) for i in (1, 2))
    own = [random(rows, kv_heads, length, size, seed=seed + i, dtype=dtype) for i in (3, 4)]
    shared: list[Tensor | None] = [None, None]
    if prefix_tokens:
        shape = (prefixes, kv_heads, prefix_tokens, size)
        shared = [random(*shape, seed=seed + i, dtype=dtype) for i in (5, 6)]
    there = [None if tensor is None else tensor.to(DEVICE) for tensor in shared]
    own_keys, own_values = (tensor.to(DEVICE, copy=True) for tensor in own)

    got = attend_kernel.attend(
        query.to(DEVICE),
        key.to(DEVICE),
        value.to(DEVICE),
        own_keys,
        own_values,
        torch.tensor([position], device=DEVICE),
        prefix_keys=there[0],
        prefix_values=there[1],
        window=window,
        scale=size**-0.5,
    )

    for cache, new, after in ((own[0], key, own_keys), (own[1], value, own_values)):
        cache[:, :, position - prefix_tokens] = new
        assert torch.equal(after.cpu(), cache)
    want = torch.nn.functional.scaled_dot_product_attention(
        query.float().unsqueeze(2),
        seen(shared[0], own[0], position, window),
        seen(shared[1], own[1], position, window),
        enable_gqa=True,
    ).squeeze(2)
    torch.testing.assert_close(got.cpu().float(), want, rtol=0, atol=TOLERANCE[dtype])


CASES: dict[str, dict[str, Any]] = {
    "shared prefix": {},
    "no prefix apart": {"prefix_tokens": 0, "length": 40, "position": 33},
    "grouped queries": {"kv_heads": 2, "groups": 2},
    "window within the row's own": {"window": 4, "position": 20},
    "window into the prefix": {"window": 9, "position": 8},
    "first token after the prefix": {"position": 5},
    "window of one": {"window": 1},
    "head size no power of two": {"size": 24},
    "several blocks": {"size": 256, "length": 60, "position": 50},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_equals_attention_over_the_tokens_seen(name: str, dtype: torch.dtype) -> None:
    usual: dict[str, Any] = {
        "prefixes": 2, "completions": 2, "kv_heads": 1, "groups": 1, "size": 16,
        "prefix_tokens": 5, "length": 30, "position": 17, "window": None,
    }  # fmt: skip
    check(**(usual | CASES[name]), dtype=dtype)


@settings(max_examples=15, deadline=None)
@given(
    prefixes=st.integers(1, 2),
    completions=st.integers(1, 3),
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    size=st.sampled_from([2, 8, 20, 32]),
    prefix_tokens=st.integers(0, 9),
    own=st.integers(0, 20),
    window=st.one_of(st.none(), st.integers(1, 40)),
    seed=st.integers(0, 2**31),
)
def test_equals_attention_in_any_geometry(
    *,
    prefixes: int,
    completions: int,
    kv_heads: int,
    groups: int,
    size: int,
    prefix_tokens: int,
    own: int,
    window: int | None,
    seed: int,
) -> None:
    check(
        prefixes=prefixes,
        completions=completions,
        kv_heads=kv_heads,
        groups=groups,
        size=size,
        prefix_tokens=prefix_tokens,
        length=21,
        position=prefix_tokens + own,
        window=window,
        dtype=torch.float32,
        seed=seed,
    )


def test_reads_queries_and_keys_where_one_projection_left_them() -> None:
    """Views of one [B, (H + 2J) D] tensor: strides, not copies."""
    qkv = random(3, 8 * 16, seed=0, dtype=torch.float32).view(3, 8, 16).to(DEVICE)
    own = [random(3, 2, 9, 16, seed=i, dtype=torch.float32).to(DEVICE) for i in (1, 2)]
    position = torch.tensor([6], device=DEVICE)
    parts = (qkv[:, :4], qkv[:, 4:6], qkv[:, 6:])

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend_kernel.attend(
            query, key, value, own[0].clone(), own[1].clone(), position,
            prefix_keys=None, prefix_values=None, window=None, scale=0.25,
        )  # fmt: skip

    assert torch.equal(attend(*parts), attend(*(part.contiguous() for part in parts)))


@pytest.mark.skipif(DEVICE.type == "cuda", reason="compiled for this GPU by the other tests")
def test_it_compiles_for_hopper() -> None:
    from decode.compile_kernel import compile_for_hopper

    numbers = ["prefix_tokens", "completions", "heads", "groups", "window"]
    strides = [f"{what}_{which}" for what in ("query", "key", "value") for which in ("row", "head")]
    strides += [
        f"{what}_{which}" for what in ("shared", "own") for which in ("row", "head", "slot")
    ]
    tensors = [
        "query",
        "key",
        "value",
        "shared_keys",
        "shared_values",
        "own_keys",
        "own_values",
        "out",
    ]
    compile_for_hopper(
        "cdgen.decode.attend_kernel",
        "_attend",
        constants={"WINDOW": True, "PREFIX": True, "SIZE": 64, "PADDED": 64, "BLOCK": 64},
        types=dict.fromkeys(numbers + strides, "i32")
        | {f"{name}_ptr": "*bf16" for name in tensors}
        | {"position_ptr": "*i64"},
        warps=attend_kernel.NUM_WARPS,
    )
