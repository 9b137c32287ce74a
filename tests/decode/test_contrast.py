"""The scores: against the formula written out token by token, and by their properties."""

import math
from typing import Any

import pytest
import torch
from decode.tiny_models import METHODS, decode_part, rule_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cdgen.decode import contrast, reference
from cdgen.decode.contrast import LOG_FLOOR, Rule
from cdgen.errors import UsageError


def logits(rows: int, vocab: int, seed: int, *, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("name", METHODS)
def test_matches_the_formula_written_out_token_by_token(name: str) -> None:
    """Each score equals the one computed in Python floats, and the same tokens are cut off."""
    rule = rule_of(**METHODS[name])
    expert_BV, amateur_BV = logits(9, 41, 1).double(), logits(9, 41, 2).double()

    got_BV = contrast.scores(expert_BV, amateur_BV, rule)

    for row in range(9):
        want = reference.token_scores(expert_BV[row].tolist(), amateur_BV[row].tolist(), rule)
        assert got_BV[row].tolist() == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_the_formula_by_hand() -> None:
    """p_G = (.5, .3, .15, .05), p_B = (.25, .25, .25, .25), alpha = .2: the head is the first three."""
    expert_BV = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    amateur_BV = torch.zeros(1, 4, dtype=torch.float64)

    got = contrast.scores(expert_BV, amateur_BV, Rule(alpha=0.2, outside=-20.0))

    want = [math.log(2.0), math.log(1.2), math.log(0.6), -20.0]
    assert got[0].tolist() == pytest.approx(want)


def test_the_head_is_strict() -> None:
    """A token at exactly alpha times the largest probability is outside."""
    expert_BV = torch.tensor([[0.0, math.log(0.5), math.log(0.5) + 1e-9]], dtype=torch.float64)

    got = contrast.head_mask(expert_BV, alpha=0.5, temperature=1.0)

    assert got.tolist() == [[True, False, True]]


def test_epsilon_caps_the_contrast_at_minus_23() -> None:
    """Paper section 1.3: with epsilon 1e-10 an impossible amateur token counts 23.03 nats."""
    got = contrast.soft_log(torch.tensor([-math.inf]), epsilon=1e-10)

    assert got.item() == pytest.approx(-23.03, abs=0.01)


def test_an_amateur_probability_of_zero_in_the_head_is_floored() -> None:
    """log p_B = -inf counts as the logarithm of the smallest normal float32: a finite, high score."""
    expert_BV = torch.tensor([[1.0, 1.0, 1.0]])
    amateur_BV = torch.tensor([[0.0, -math.inf, 0.0]])

    got = contrast.scores(expert_BV, amateur_BV, Rule())

    assert got[0].tolist() == pytest.approx(
        [math.log(2 / 3), math.log(1 / 3) - LOG_FLOOR, math.log(2 / 3)]
    )
    assert round(LOG_FLOOR, 2) == -87.34


def test_top_k_keeps_ties_with_the_kth_score() -> None:
    """Scores >= the k-th largest stay."""
    got = contrast.keep_top_k(torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]]), 2)

    assert got.tolist() == [[3.0, -math.inf, 2.0, 2.0, -math.inf]]


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.4, [0]), (0.51, [0, 1]), (0.7, [0, 1]), (0.8, [0, 1, 2]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_sum_up_to_p_and_the_first_that_exceeds(p: float, kept: list[int]) -> None:
    """Probabilities (.5, .25, .125, .125): equal ones rank in vocabulary order."""
    score_BV = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()

    got = contrast.keep_top_p(score_BV, p)

    assert got.isfinite().nonzero()[:, 1].tolist() == kept


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("p", [0.3, 0.9, 0.999])
def test_top_p_on_wide_rows_with_ties_equals_a_plain_sort(p: float, scale: float) -> None:
    """Nuclei smaller and larger than what is sorted first; bfloat16 logits are full of equal scores."""
    score_BV = logits(6, 3 * contrast.NUCLEUS_WIDTH, 1, scale=scale).bfloat16().float()

    got_BV = contrast.keep_top_p(score_BV, p)

    order_BV = score_BV.argsort(dim=-1, descending=True, stable=True)
    mass_BV = score_BV.double().softmax(-1).gather(-1, order_BV)
    kept_BV = mass_BV.cumsum(-1) - mass_BV <= p + 1e-12
    for row in range(6):
        want = order_BV[row, kept_BV[row]].sort().values
        assert torch.equal(got_BV[row].isfinite().nonzero().squeeze(1), want)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scale=st.floats(0.01, 30),
    alpha=st.floats(1e-6, 1 - 1e-6),
    temperature=st.floats(0.05, 20),
)
def test_the_best_token_is_always_in_the_head(
    seed: int, scale: float, alpha: float, temperature: float
) -> None:
    """So the head is never empty, whatever alpha, temperature and logits."""
    expert_BV = logits(5, 23, seed, scale=scale)

    head_BV = contrast.head_mask(expert_BV, alpha=alpha, temperature=temperature)

    assert head_BV.gather(1, expert_BV.argmax(1, keepdim=True)).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), shift=st.floats(-50, 50), lam=st.floats(0, 4))
def test_a_constant_added_to_amateur_logits_changes_nothing(
    seed: int, shift: float, lam: float
) -> None:
    """Only the amateur's distribution counts."""
    expert_BV, amateur_BV = logits(4, 19, seed).double(), logits(4, 19, seed + 1).double()
    rule = Rule(lam=lam)

    want = contrast.scores(expert_BV, amateur_BV, rule)
    got = contrast.scores(expert_BV, amateur_BV + shift, rule)

    torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    epsilon=st.sampled_from([0.0, 1e-10]),
    outside=st.sampled_from([-math.inf, -20.0]),
)
def test_lambda_zero_equals_head_only(seed: int, epsilon: float, outside: float) -> None:
    """Without its weight the amateur is not there, bit for bit."""
    expert_BV, amateur_BV = logits(4, 19, seed), logits(4, 19, seed + 1)
    shared: dict[str, Any] = {"epsilon": epsilon, "outside": outside, "top_p": 0.9}

    got = contrast.scores(expert_BV, amateur_BV, Rule(lam=0.0, **shared))

    assert torch.equal(got, contrast.scores(expert_BV, None, Rule(method="head_only", **shared)))


def test_o_brien_beta_is_lambda_at_another_temperature() -> None:
    """(1 + b) s_E - b s_A has the softmax of lambda = b / (1 + b) at score temperature 1 / (1 + b).

    Paper section 8; s are logits, whose constants cancel.
    """
    expert_BV, amateur_BV, beta = logits(4, 19, 1).double(), logits(4, 19, 2).double(), 0.5
    head_BV = contrast.head_mask(expert_BV, alpha=0.1, temperature=1.0)
    want = torch.where(head_BV, (1 + beta) * expert_BV - beta * amateur_BV, -torch.inf).softmax(-1)

    rule = Rule(lam=beta / (1 + beta), score_temperature=1 / (1 + beta))
    got = contrast.scores(expert_BV, amateur_BV, rule).softmax(-1)

    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_repeat_ngram": 4}, "decode.no_repeat_ngram is not implemented yet"),
        ({"outside_head": "tail"}, "decode.outside_head: tail is not implemented yet"),
        ({"method": "weighted_sum"}, "decode.method weighted_sum is not implemented yet"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    """Never ignored."""
    with pytest.raises(UsageError, match=message):
        Rule.of(decode_part(**changes))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_a_wrong_alpha_is_named(alpha: float) -> None:
    with pytest.raises(UsageError, match=f"alpha must lie strictly between 0 and 1, found {alpha}"):
        Rule(alpha=alpha)


@pytest.mark.parametrize("outside", [math.nan, math.inf])
def test_a_wrong_outside_value_is_named(outside: float) -> None:
    with pytest.raises(UsageError, match="outside_head must be -inf or a number"):
        Rule(outside=outside)
