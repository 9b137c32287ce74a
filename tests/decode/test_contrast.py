"""The scores: against the formula written out token by token, and by their properties."""

import math
from typing import Any

import pytest
import torch
from decode.tiny_models import METHODS, rule_of, summands
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cdgen.decode import contrast, reference
from cdgen.decode.contrast import LOG_FLOOR, Rule
from cdgen.errors import UsageError


def logits(rows: int, vocab: int, seed: int, *, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def further_logits(rule: Rule, rows: int, vocab: int) -> list[Tensor]:
    """Logits of the rule's further models."""
    count = len(rule.further_temperatures)
    return [logits(rows, vocab, 70 + k).double() for k in range(count)]


def bans(rows: int, vocab: int, seed: int, share: float = 0.3) -> Tensor:
    """Each token banned by chance, token 7 never."""
    noise = torch.rand(rows, vocab, generator=torch.Generator().manual_seed(seed % 2**40))
    return (noise < share).index_fill_(1, torch.tensor([7]), False)


def written_out(
    row: int,
    expert_BV: Tensor,
    amateur_BV: Tensor,
    rule: Rule,
    *,
    further: list[Tensor],
    banned_BV: Tensor | None,
) -> list[float]:
    """One row's scores by the slow reference."""
    return reference.token_scores(
        expert_BV[row].tolist(),
        amateur_BV[row].tolist(),
        rule,
        further=[logits_BV[row].tolist() for logits_BV in further],
        banned=set() if banned_BV is None else set(banned_BV[row].nonzero().flatten().tolist()),
    )


@pytest.mark.parametrize("name", METHODS)
def test_matches_the_formula_written_out_token_by_token(name: str) -> None:
    """Each score equals the one computed in Python floats, and the same tokens are cut off."""
    rule = rule_of(**METHODS[name])
    expert_BV, amateur_BV = logits(9, 41, 1).double(), logits(9, 41, 2).double()
    further = further_logits(rule, 9, 41)
    banned_BV = bans(9, 41, 3) if rule.no_repeat_ngram else None

    got_BV = contrast.scores(expert_BV, amateur_BV, rule, further=further, banned_BV=banned_BV)

    for row in range(9):
        want = written_out(row, expert_BV, amateur_BV, rule, further=further, banned_BV=banned_BV)
        assert got_BV[row].tolist() == pytest.approx(want, rel=1e-9, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_combination_matches_the_formula_written_out(data: st.DataObject) -> None:
    """Weights, temperatures, head, outside, truncation, epsilon and bans, drawn together."""
    weight = st.floats(-2, 2)
    further = data.draw(st.lists(weight, max_size=2))
    rule = Rule(
        method=data.draw(st.sampled_from(["contrastive", "head_only", "sample", "weighted_sum"])),
        lam=data.draw(st.floats(0, 2)),
        weights=(data.draw(weight), data.draw(weight), *further),
        further_temperatures=tuple(data.draw(st.floats(0.3, 3)) for _ in further),
        alpha=data.draw(st.floats(0.001, 0.9)),
        temperature=data.draw(st.floats(0.3, 3)),
        amateur_temperature=data.draw(st.floats(0.3, 3)),
        score_temperature=data.draw(st.floats(0.3, 3)),
        top_k=data.draw(st.none() | st.integers(1, 30)),
        # Never k of n: where n scores are equal, rounding alone would say whether the next one is cut off.
        top_p=data.draw(st.none() | st.floats(0.05, 0.99).map(lambda share: share * 0.99937)),
        outside=data.draw(st.sampled_from([-math.inf, -20.0, 0.5, "tail"])),
        epsilon=data.draw(st.sampled_from([0.0, 1e-10, 1e-3])),
    )
    seed = data.draw(st.integers(0, 2**32))
    expert_BV, amateur_BV = logits(3, 29, seed).double(), logits(3, 29, seed + 1).double()
    others = further_logits(rule, 3, 29)
    banned_BV = data.draw(st.sampled_from([None, bans(3, 29, seed), bans(3, 29, seed, 0.9)]))

    got_BV = contrast.scores(expert_BV, amateur_BV, rule, further=others, banned_BV=banned_BV)

    for row in range(3):
        want = written_out(row, expert_BV, amateur_BV, rule, further=others, banned_BV=banned_BV)
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
@example(seed=0, scale=19.0, alpha=0.99999, temperature=0.25)
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


def test_o_brien_and_guidance_as_weights() -> None:
    """O'Brien & Lewis: weights 1 + b and -b; classifier-free guidance of strength w = 1 + b: w and 1 - w.

    Against the sum of logits, in float64, and against contrastive at lambda = b / (1 + b) and score
    temperature 1 / (1 + b).
    """
    expert_BV, amateur_BV, beta = logits(6, 19, 1).double(), logits(6, 19, 2).double(), 0.5
    head_BV = contrast.head_mask(expert_BV, alpha=0.1, temperature=1.0)
    want = torch.where(head_BV, (1 + beta) * expert_BV - beta * amateur_BV, -torch.inf).softmax(-1)
    guided = amateur_BV + (1 + beta) * (expert_BV - amateur_BV)

    rule = rule_of(**summands(1 + beta, -beta))
    contrastive = Rule(lam=beta / (1 + beta), score_temperature=1 / (1 + beta))

    got = contrast.scores(expert_BV, amateur_BV, rule).softmax(-1)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got, torch.where(head_BV, guided, -torch.inf).softmax(-1))
    same = contrast.scores(expert_BV, amateur_BV, contrastive).softmax(-1)
    torch.testing.assert_close(got, same)


def test_context_aware_decoding_is_a_weighted_sum() -> None:
    """Shi et al. 2023: p(y | c, x) (p(y | c, x) / p(y | x))^a, normalised, over the head."""
    with_BV, without_BV, a = logits(6, 19, 3).double(), logits(6, 19, 4).double(), 0.8
    p, q = with_BV.softmax(-1), without_BV.softmax(-1)
    head_BV = contrast.head_mask(with_BV, alpha=0.05, temperature=1.0)
    mass = torch.where(head_BV, p * (p / q) ** a, 0.0)

    rule = rule_of(**summands(1 + a, -a, alpha=0.05))

    got = contrast.scores(with_BV, without_BV, rule).softmax(-1)
    torch.testing.assert_close(got, mass / mass.sum(-1, keepdim=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), a=st.floats(0, 3))
def test_three_models_steer_by_the_quotient_of_two(seed: int, a: float) -> None:
    """DExperts and proxy tuning: softmax(z + a (z+ - z-)), over the base model's head.

    Weak-to-strong is the same sum: base + b (tuned - reference).
    """
    base, plus, minus = (logits(4, 23, seed + k).double() for k in range(3))
    head_BV = contrast.head_mask(base, alpha=0.1, temperature=1.0)
    want = torch.where(head_BV, base + a * (plus - minus), -torch.inf).softmax(-1)

    rule = rule_of(**summands(1.0, -a, a))

    got = contrast.scores(base, minus, rule, further=[plus]).softmax(-1)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), lam=st.floats(0, 3), tau=st.floats(0.2, 3))
def test_contrastive_is_the_weighted_sum_of_one_and_minus_lambda(
    seed: int, lam: float, tau: float
) -> None:
    """Li et al., amateur temperature included: one kernel, the same bits."""
    expert_BV, amateur_BV = logits(4, 23, seed), logits(4, 23, seed + 1)
    shared: dict[str, Any] = {"amateur_temperature": tau, "top_p": 0.9}

    want = contrast.scores(expert_BV, amateur_BV, Rule(lam=lam, **shared))
    got = contrast.scores(
        expert_BV, amateur_BV, Rule(method="weighted_sum", weights=(1.0, -lam), **shared)
    )

    assert torch.equal(got, want)


def test_tail_by_hand() -> None:
    """p_G = (.5, .3, .15, .05), alpha = .2: the last one alone is outside, and gets the head's worst score."""
    expert_BV = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.6, 0.2, 0.12, 0.08]]).double().log()
    amateur_BV = torch.zeros(2, 4, dtype=torch.float64)

    got = contrast.scores(expert_BV, amateur_BV, Rule(alpha=0.2, outside="tail"))

    assert got[0].tolist() == pytest.approx([math.log(x) for x in (2.0, 1.2, 0.6, 0.6)])
    shift = math.log(0.8) - math.log(0.12)  # alpha 0.2 of 0.6 is 0.12, which lies outside
    want = [math.log(2.4), math.log(0.8), math.log(0.8), math.log(0.08) + shift]
    assert got[1].tolist() == pytest.approx(want)


def test_a_head_that_is_the_whole_vocabulary_has_no_tail() -> None:
    expert_BV, amateur_BV = torch.zeros(2, 5), logits(2, 5, 1)

    got = contrast.scores(expert_BV, amateur_BV, Rule(outside="tail"))

    assert torch.equal(got, contrast.scores(expert_BV, amateur_BV, Rule()))


def test_a_head_that_is_banned_whole_is_taken_again_among_the_rest() -> None:
    """p_G = (.9, .06, .03, .009, .001), alpha = .1: the head is the first token alone."""
    expert_BV = torch.tensor([[0.9, 0.06, 0.03, 0.009, 0.001]]).double().log().repeat(3, 1)
    amateur_BV = torch.zeros(3, 5, dtype=torch.float64)
    banned_BV = torch.zeros(3, 5, dtype=torch.bool)
    banned_BV[1, 0] = True
    banned_BV[2, 1] = True

    got = contrast.scores(expert_BV, amateur_BV, Rule(), banned_BV=banned_BV)

    kept = [row.isfinite().nonzero().flatten().tolist() for row in got]
    assert kept == [[0], [1, 2, 3], [0]]
    assert got[1, 1:4].tolist() == pytest.approx([math.log(5 * p) for p in (0.06, 0.03, 0.009)])


@pytest.mark.parametrize("share", [0.1, 0.7, 0.95])
def test_heads_are_taken_again_alike_on_every_device(share: float) -> None:
    """The way that looks at the data (CPU) and the one that does not (GPU), on the same tensors."""
    rule = Rule(alpha=0.4)
    expert_BV, banned_BV = logits(200, 31, 1), bans(200, 31, 2, share)
    open_BV = contrast.head_mask(expert_BV, alpha=0.4, temperature=1.0) & ~banned_BV
    assert not open_BV.any(-1).all() and open_BV.any(-1).any()

    looking = contrast._refill_some(open_BV.clone(), banned_BV, expert_BV, rule)

    assert torch.equal(looking, contrast._refill_all(open_BV, banned_BV, expert_BV, rule))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    share=st.floats(0, 0.99),
    alpha=st.floats(0.001, 0.9),
    name=st.sampled_from(sorted(METHODS)),
)
def test_a_banned_token_has_no_score_and_some_token_has_one(
    seed: int, share: float, alpha: float, name: str
) -> None:
    """Whatever the method, whatever is banned short of everything."""
    rule = rule_of(**(METHODS[name] | {"alpha": alpha}))
    expert_BV, amateur_BV = logits(4, 23, seed), logits(4, 23, seed + 1)
    banned_BV = bans(4, 23, seed, share)

    got = contrast.scores(
        expert_BV,
        amateur_BV,
        rule,
        further=further_logits(rule, 4, 23),
        banned_BV=banned_BV,
    )

    assert (got[banned_BV] == -math.inf).all()
    assert got.isfinite().any(-1).all()


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(UsageError, match=r"decode\.method argmax is not known"):
        Rule(method="argmax")


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_a_wrong_alpha_is_named(alpha: float) -> None:
    with pytest.raises(UsageError, match=f"alpha must lie strictly between 0 and 1, found {alpha}"):
        Rule(alpha=alpha)


@pytest.mark.parametrize("outside", [math.nan, math.inf])
def test_a_wrong_outside_value_is_named(outside: float) -> None:
    with pytest.raises(UsageError, match="outside_head must be -inf, tail or a number"):
        Rule(outside=outside)
