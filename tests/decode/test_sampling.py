"""Keyed uniforms, picking, and the two roads to the same token."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from decode.tiny_models import METHODS, rule_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cdgen.decode import contrast, sampling
from cdgen.decode.contrast import Rule

LARGEST_UNIFORM = 1 - 2.0**-53


def logits(rows: int, vocab: int, seed: int, *, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def uniform(rows: int, seed: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).random(rows))


# ------------------------------------------------------------------ keys and uniforms


def test_keys_are_golden() -> None:
    """These numbers are in published samples: a change here makes corpora irreproducible."""
    key = sampling.rng_key(42, "f00d:123", 7)

    assert sampling.key_hex(key) == "6c895ec31244228c4471cd2617d53a4a"
    assert sampling.uniforms(key, 3).tolist() == [
        0.19022090038707296,
        0.5558138943566546,
        0.2096934273988339,
    ]


@given(
    a=st.tuples(st.integers(0, 2**63 - 1), st.text(), st.integers(0, 1000)),
    b=st.tuples(st.integers(0, 2**63 - 1), st.text(), st.integers(0, 1000)),
)
@settings(deadline=None)
def test_different_completions_have_different_keys(
    a: tuple[int, str, int], b: tuple[int, str, int]
) -> None:
    assert (sampling.rng_key(*a) == sampling.rng_key(*b)) == (a == b)


def test_the_encoding_of_a_key_is_unambiguous() -> None:
    """No text in a prefix id can imitate the fields beside it."""
    keys = {
        sampling.rng_key(1, "2,3", 4),
        sampling.rng_key(1, "2", 34),
        sampling.rng_key(12, "", 34),
        sampling.rng_key(1, '2",3', 4),
        sampling.rng_key(1, "2\x00", 4),
    }

    assert len(keys) == 5


def test_uniforms_lie_on_the_grid_below_one() -> None:
    """float64 multiples of 2^-53 in [0, 1), the same ones for a longer request."""
    values = sampling.uniforms(123, 1000)

    assert values.dtype == np.float64
    assert ((values >= 0) & (values < 1)).all()
    assert (values * 2.0**53 == np.floor(values * 2.0**53)).all()
    assert np.array_equal(values[:10], sampling.uniforms(123, 10))


def test_streams_of_neighbouring_completions_are_not_shifted_copies() -> None:
    """The trap of `counter=index`: stream n + 1 would be stream n without its first words."""
    streams = [sampling.uniforms(sampling.rng_key(0, "p", c), 400) for c in range(8)]

    assert len(np.unique(np.concatenate(streams))) == 8 * 400


def test_uniforms_of_many_completions_are_uniform() -> None:
    """Chi-square over 100 bins of 64k values, fixed keys: within 5 standard deviations."""
    values = np.concatenate(
        [sampling.uniforms(sampling.rng_key(1, "x", c), 64) for c in range(1000)]
    )

    counts = np.histogram(values, bins=100, range=(0, 1))[0]

    chi = ((counts - 640.0) ** 2 / 640).sum()
    assert abs(chi - 99) < 5 * math.sqrt(2 * 99)


# ------------------------------------------------------------------ picking


def test_an_even_grid_of_uniforms_reproduces_the_distribution() -> None:
    """50,000 uniforms hit each token as often as its probability says, to one grid point."""
    score_V = logits(1, 30, 0)[0].masked_fill(torch.arange(30) % 3 == 0, -torch.inf)
    points = 50_000

    token = sampling.pick(
        score_V.expand(points, -1), (torch.arange(points).double() + 0.5) / points
    )

    share = torch.bincount(token, minlength=30).double() / points
    torch.testing.assert_close(share, score_V.double().softmax(-1), rtol=0, atol=1 / points)


@settings(max_examples=80, deadline=None)
@given(
    score=st.lists(
        st.one_of(st.just(-math.inf), st.floats(-800, 800, width=32)), min_size=1, max_size=40
    ),
    u=st.one_of(st.sampled_from([0.0, LARGEST_UNIFORM, 0.5]), st.floats(0, LARGEST_UNIFORM)),
)
def test_a_token_of_zero_mass_is_never_picked(score: list[float], u: float) -> None:
    """At the ends of [0, 1) too, and when masses underflow."""
    if max(score) == -math.inf:
        score[0] = 0.0
    score_BV = torch.tensor([score])

    token = int(sampling.pick(score_BV, torch.tensor([u], dtype=torch.float64)))

    assert contrast.masses(score_BV)[0, token] > 0


def test_the_ends_of_the_unit_interval_are_defined() -> None:
    """u = 0 picks the first token that has mass, u = 1 - 2^-53 the last."""
    score_V = torch.tensor([-math.inf, -2.0, 1.0, -math.inf, -1.0, -math.inf])

    got = sampling.pick(
        score_V.expand(2, -1), torch.tensor([0.0, LARGEST_UNIFORM], dtype=torch.float64)
    )

    assert got.tolist() == [1, 4]


@settings(max_examples=30, deadline=None)
@given(total=st.integers(1, 400), seed=st.integers(0, 2**32))
def test_the_largest_uniform_stays_below_any_total(total: int, seed: int) -> None:
    """u * total rounds to less than the total, so the last token with mass is found."""
    score_BV = logits(1, total, seed, scale=5.0)

    token = int(sampling.pick(score_BV, torch.tensor([LARGEST_UNIFORM], dtype=torch.float64)))

    assert token < total and contrast.masses(score_BV)[0, token + 1 :].sum() < 1e-12


# ------------------------------------------------------------------ one step


def further_logits(rule: Rule, rows: int, vocab: int) -> list[Tensor]:
    """Logits of the rule's further models."""
    return [logits(rows, vocab, 70 + k) for k in range(len(rule.further_temperatures))]


def bans(rule: Rule, rows: int, vocab: int) -> Tensor | None:
    """A third of the tokens, and in every other row its eight best ones too, where the rule bans any."""
    if rule.no_repeat_ngram is None:
        return None
    banned_BV = logits(rows, vocab, 80) > 1.0
    best_BK = logits(rows, vocab, 3).topk(8).indices
    banned_BV[::2] = banned_BV[::2].scatter(1, best_BK[::2], True)
    return banned_BV


@pytest.mark.parametrize("scale", [0.02, 1.0, 4.0])
@pytest.mark.parametrize("name", METHODS)
def test_the_compacted_road_draws_the_dense_road_s_tokens(name: str, scale: float) -> None:
    """Every method, heads from one token to the whole vocabulary."""
    rule = rule_of(**METHODS[name])
    expert_BV, amateur_BV = logits(500, 211, 3, scale=scale), logits(500, 211, 4, scale=scale)
    uniform_B = uniform(500, 5)
    more: dict[str, Any] = {
        "further": further_logits(rule, 500, 211),
        "banned_BV": bans(rule, 500, 211),
    }

    got = sampling.draw(expert_BV, amateur_BV, uniform_B, rule, **more)

    dense_B = sampling.pick(contrast.scores(expert_BV, amateur_BV, rule, **more), uniform_B)
    assert torch.equal(got.token_B, dense_B)


@pytest.mark.parametrize("name", ["contrastive", "top-k", "top-p", "head-only", "top-k-and-p"])
def test_compacted_scores_are_the_dense_scores_bit_for_bit(name: str) -> None:
    """Also when heads are too large for the engine to choose this road."""
    rule = rule_of(**METHODS[name])
    expert_BV, amateur_BV = logits(64, 211, 6, scale=0.5), logits(64, 211, 7)
    logps = contrast.all_log_probs(expert_BV, amateur_BV, (), rule)
    head_BV = contrast.head_mask(expert_BV, alpha=rule.alpha, temperature=rule.temperature)

    entries = sampling.head_entries(head_BV)
    token_BK, score_BK = sampling.compact(logps, entries, 211, rule)

    want_BV = contrast.combine(logps, head_BV, rule)
    for row in range(64):
        size = int(entries.size_B[row])
        tokens = head_BV[row].nonzero().squeeze(1)
        assert torch.equal(token_BK[row, :size], tokens)
        assert torch.equal(score_BK[row, :size], want_BV[row, tokens])
        assert (score_BK[row, size:] == -torch.inf).all()


def test_what_is_recorded_is_the_full_vocabulary_log_probability() -> None:
    """log p_G and log p_B at the decode temperature, without epsilon; the head's size at alpha."""
    rule = rule_of(temperature=0.7, amateur_temperature=1.4, log_epsilon=1.0e-3, top_k=2)
    expert_BV, amateur_BV = logits(50, 97, 8), logits(50, 97, 9)

    got = sampling.draw(expert_BV, amateur_BV, uniform(50, 10), rule)

    index = got.token_B.unsqueeze(1)
    want_expert = (expert_BV.double() / 0.7).log_softmax(-1).gather(1, index).squeeze(1)
    want_amateur = (amateur_BV.double() / 0.7 / 1.4).log_softmax(-1).gather(1, index).squeeze(1)
    torch.testing.assert_close(got.logp_expert_B.double(), want_expert, rtol=0, atol=1e-5)
    assert got.logp_amateur_B is not None
    torch.testing.assert_close(got.logp_amateur_B.double(), want_amateur, rtol=0, atol=1e-5)
    p = (expert_BV.double() / 0.7).softmax(-1)
    assert torch.equal(got.head_size_B, (p > 0.1 * p.amax(-1, keepdim=True)).sum(-1))


@pytest.mark.parametrize("name", METHODS)
def test_a_row_does_not_depend_on_the_rows_beside_it(name: str) -> None:
    """Not on their order and not on their heads: a flat neighbour makes K large and the road dense."""
    rule = rule_of(**METHODS[name])
    expert_BV, amateur_BV = logits(200, 157, 11), logits(200, 157, 12)
    uniform_B, order = uniform(200, 13), torch.randperm(200)
    further, banned_BV = further_logits(rule, 200, 157), bans(rule, 200, 157)

    def draw(rows: Tensor, flat: int) -> sampling.Draw:
        """These rows, and so many flat ones after them."""

        def with_flat(value_BV: Tensor) -> Tensor:
            return torch.cat([value_BV[rows], torch.zeros(flat, 157).to(value_BV.dtype)])

        return sampling.draw(
            with_flat(expert_BV),
            with_flat(amateur_BV),
            torch.cat([uniform_B[rows], uniform(flat, 1)]),
            rule,
            further=[with_flat(value_BV) for value_BV in further],
            banned_BV=None if banned_BV is None else with_flat(banned_BV),
        )

    alone, mixed, beside = draw(torch.arange(200), 0), draw(order, 0), draw(torch.arange(200), 3)

    for field in dataclasses.fields(sampling.Draw):
        found = [getattr(made, field.name) for made in (alone, mixed, beside)]
        each = [value if isinstance(value, tuple) else (value,) for value in found]
        for want, other, padded in zip(*each, strict=True):
            assert torch.equal(other, want[order])
            assert torch.equal(padded[:200], want)


def test_torch_s_exp_and_log_do_not_depend_on_the_place_in_a_tensor() -> None:
    """What row independence rests on besides IEEE arithmetic: no other code for the last few elements."""
    value = torch.randn(10_007, generator=torch.Generator().manual_seed(0)).abs() * 5

    for wide in (value, value.double()):
        for function in (torch.exp, torch.log):
            pieces = torch.cat([function(piece) for piece in torch.split(wide, 7)])
            assert torch.equal(pieces, function(wide))


def test_rows_of_nan_do_not_crash_a_step() -> None:
    """They are recorded as they are: the engine names the model that produced them."""
    expert_BV = torch.full((2, 9), math.nan)

    got = sampling.draw(expert_BV, expert_BV, uniform(2, 0), Rule())

    assert got.logp_expert_B.isnan().all()
