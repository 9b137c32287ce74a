"""The fused draw: the same tokens and records as `sampling.draw`."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from decode.tiny_models import METHODS, rule_of
from decode.triton_here import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cdgen.decode import contrast, draw_kernel, reference, sampling
from cdgen.decode.contrast import LOG_FLOOR, Rule
from cdgen.decode.sampling import Draw

LARGEST_UNIFORM = 1 - 2.0**-53
COVERED = {
    "contrastive": {},
    "wide-head": {"alpha": 1e-4, "lambda": 0.5},
    "temperatures": METHODS["temperatures"],
    "epsilon": {"log_epsilon": 1.0e-10},
    "head-only": {"method": "head_only"},
    "sample": {"method": "sample"},
    "sample-hot": {"method": "sample", "temperature": 1.3, "score_temperature": 0.7},
}


def fused(
    expert_BV: Tensor, amateur_BV: Tensor | None, uniform_B: Tensor, rule: Rule, block: int = 16
) -> Draw:
    """The kernel's answer, on the CPU."""
    amateur_BV = None if amateur_BV is None else amateur_BV.to(DEVICE)
    with np.errstate(all="ignore"):  # the interpreter computes in numpy, which warns of infinities
        out = draw_kernel.draw(
            expert_BV.to(DEVICE), amateur_BV, uniform_B.to(DEVICE), rule, block=block
        )
    return Draw(
        token_B=out.token_B.cpu(),
        logp_expert_B=out.logp_expert_B.cpu(),
        logp_amateur_B=None if out.logp_amateur_B is None else out.logp_amateur_B.cpu(),
        head_size_B=out.head_size_B.cpu(),
    )


def logits(rows: int, vocab: int, seed: int, *, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def uniform(rows: int, seed: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).random(rows))


def assert_agrees(
    got: Draw, expert_BV: Tensor, amateur_BV: Tensor | None, uniform_B: Tensor, rule: Rule
) -> None:
    """A token may differ from `sampling.draw`'s only at a CDF boundary; its records are its own."""
    expert_BV = expert_BV.float()
    amateur_BV = None if amateur_BV is None else amateur_BV.float()
    score_BV = contrast.scores(expert_BV, amateur_BV, rule)
    largest = score_BV[score_BV > -torch.inf].abs().max()
    error = 1e-6 * (10.0 + float(largest)) / rule.score_temperature  # of float32 scores, in nats
    begin, end = reference.cdf_interval(score_BV.unsqueeze(1), got.token_B.unsqueeze(1))
    begin, end = begin.squeeze(1), end.squeeze(1)
    assert (uniform_B >= begin - error).all() and (uniform_B < end + error).all()
    assert (score_BV.gather(1, got.token_B.unsqueeze(1)) > -torch.inf).all()

    want = sampling.draw(expert_BV, amateur_BV, uniform_B, rule)
    same = got.token_B == want.token_B
    near = (uniform_B - begin).abs().minimum((uniform_B - end).abs()) <= error
    assert (same | near).all()
    assert torch.equal(got.head_size_B, want.head_size_B)
    models = [(expert_BV, rule.temperature, got.logp_expert_B)]
    assert (got.logp_amateur_B is None) == (amateur_BV is None)
    if amateur_BV is not None and got.logp_amateur_B is not None:
        hot = rule.temperature * rule.amateur_temperature
        models.append((amateur_BV, hot, got.logp_amateur_B))
    for logits_BV, temperature, logp_B in models:
        logp_BV = contrast.log_probs(logits_BV, temperature=temperature)
        want_B = logp_BV.gather(1, got.token_B.unsqueeze(1)).squeeze(1).clamp(min=LOG_FLOOR)
        torch.testing.assert_close(logp_B.clamp(min=LOG_FLOOR), want_B, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", COVERED)
def test_draws_what_the_torch_path_draws(name: str, dtype: torch.dtype) -> None:
    """Several blocks, the last one partly filled."""
    rule = rule_of(**COVERED[name])
    expert_BV, amateur_BV = logits(6, 77, 0).to(dtype), logits(6, 77, 1, scale=1.0).to(dtype)
    uniform_B = uniform(6, 2)
    assert draw_kernel.covers(rule)

    got = fused(expert_BV, amateur_BV, uniform_B, rule)

    assert_agrees(got, expert_BV, amateur_BV, uniform_B, rule)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 3),
    vocab=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 0.1, 3.0, 40.0]),
    excluded=st.sampled_from([0.0, 0.5, 0.95]),
    amateur=st.booleans(),
    name=st.sampled_from([*COVERED]),
    u=st.one_of(st.sampled_from([0.0, LARGEST_UNIFORM]), st.floats(0, LARGEST_UNIFORM)),
)
def test_draws_what_the_torch_path_draws_from_any_logits(
    *,
    rows: int,
    vocab: int,
    seed: int,
    scale: float,
    excluded: float,
    amateur: bool,
    name: str,
    u: float,
) -> None:
    """Ties (scale 0), certain tokens (scale 40), -inf logits in both models, both ends of [0, 1)."""
    rule = rule_of(**COVERED[name])
    made = torch.Generator().manual_seed(seed)
    pair = []
    for _ in range(2):
        logits_BV = torch.randn(rows, vocab, generator=made) * scale
        gone_BV = torch.rand(rows, vocab, generator=made) < excluded
        gone_BV[:, seed % vocab] = False
        pair.append(logits_BV.masked_fill(gone_BV, -torch.inf))
    amateur_BV = pair[1] if amateur or rule.method == "contrastive" else None
    uniform_B = torch.full((rows,), u, dtype=torch.float64)

    got = fused(pair[0], amateur_BV, uniform_B, rule)

    assert_agrees(got, pair[0], amateur_BV, uniform_B, rule)


def test_an_even_grid_of_uniforms_reproduces_the_distribution() -> None:
    """Each token is drawn as often as its probability says, to one grid point."""
    rule = rule_of(alpha=0.01)
    expert_1V, amateur_1V = logits(1, 30, 3, scale=1.0), logits(1, 30, 4, scale=1.0)
    points = 100

    got = fused(
        expert_1V.expand(points, -1),
        amateur_1V.expand(points, -1),
        (torch.arange(points).double() + 0.5) / points,
        rule,
    )

    want = contrast.scores(expert_1V, amateur_1V, rule)[0].double().softmax(-1)
    share = torch.bincount(got.token_B, minlength=30).double() / points
    torch.testing.assert_close(share, want, rtol=0, atol=1.001 / points)


@pytest.mark.parametrize("u", [0.0, 0.5, LARGEST_UNIFORM])
@pytest.mark.parametrize("token", [0, 15, 16, 40])
def test_all_mass_on_one_token_is_that_token(token: int, u: float) -> None:
    expert_BV = torch.full((2, 41), -torch.inf)
    expert_BV[:, token] = 0.0

    got = fused(expert_BV, logits(2, 41, 0), torch.full((2,), u, dtype=torch.float64), rule_of())

    assert got.token_B.tolist() == [token, token]
    assert got.head_size_B.tolist() == [1, 1]
    assert got.logp_expert_B.tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # the interpreter's numpy
@pytest.mark.parametrize("name", ["contrastive", "head-only", "sample"])
@pytest.mark.parametrize("broken", ["expert", "amateur"])
def test_a_row_of_nan_gives_a_token_and_says_nan(broken: str, name: str) -> None:
    """The engine reads it in the log-probabilities; the token must not be out of range meanwhile."""
    pair = {"expert": logits(2, 50, 0), "amateur": logits(2, 50, 1)}
    pair[broken][0, 20] = math.nan

    got = fused(pair["expert"], pair["amateur"], uniform(2, 2), rule_of(**COVERED[name]))

    logp_B = {"expert": got.logp_expert_B, "amateur": got.logp_amateur_B}[broken]
    assert logp_B is not None
    assert logp_B.isnan().tolist() == [True, False]
    assert (got.token_B >= 0).all() and (got.token_B < 50).all()


def test_a_row_does_not_depend_on_its_neighbours_or_its_memory() -> None:
    """Bit for bit: alone, or as a row of a wider tensor."""
    expert_BV, amateur_BV, uniform_B = logits(5, 77, 5), logits(5, 77, 6), uniform(5, 7)
    want = fused(expert_BV, amateur_BV, uniform_B, rule_of())
    wide_BV = torch.cat([expert_BV, amateur_BV], dim=1)

    alone = fused(expert_BV[3:4], amateur_BV[3:4], uniform_B[3:4], rule_of())
    strided = fused(wide_BV[:, :77], wide_BV[:, 77:], uniform_B, rule_of())

    for name in ("token_B", "logp_expert_B", "logp_amateur_B", "head_size_B"):
        assert torch.equal(getattr(alone, name)[0], getattr(want, name)[3])
        assert torch.equal(getattr(strided, name), getattr(want, name))


@pytest.mark.parametrize("name", METHODS)
def test_it_takes_only_the_rules_that_it_computes(name: str) -> None:
    taken = {"contrastive", "lambda-half", "temperatures", "head-only", "sample"}

    assert draw_kernel.covers(rule_of(**METHODS[name])) == (name in taken)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="compiled for this GPU by the other tests")
@pytest.mark.parametrize("flags", [(False, True, True), (True, False, False)])
def test_it_compiles_for_hopper(flags: tuple[bool, bool, bool]) -> None:
    """To machine code, on a machine without a GPU, in a process that does not interpret."""
    from decode.compile_kernel import compile_for_hopper

    names = ("SAMPLE", "CONTRAST", "AMATEUR")
    sizes: dict[str, Any] = {"EPSILON": True, "BLOCK": draw_kernel.BLOCK, "NUM_BLOCKS": 8}
    compile_for_hopper(
        "cdgen.decode.draw_kernel",
        "_draw",
        constants=dict(zip(names, flags, strict=True)) | sizes,
        types={"expert_ptr": "*bf16", "amateur_ptr": "*bf16", "uniform_ptr": "*fp64"}
        | {"token_ptr": "*i64", "head_size_ptr": "*i64"}
        | dict.fromkeys(("logp_expert_ptr", "logp_amateur_ptr"), "*fp32")
        | dict.fromkeys(("expert_stride", "amateur_stride", "vocab"), "i32"),
        warps=draw_kernel.NUM_WARPS,
    )
