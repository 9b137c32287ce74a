"""The scores a token is drawn from, as pure functions of two models' logits (paper sections 1 and 8).

One function per step of the formula; `scores` composes them over the whole vocabulary and is the
definition that everything faster is tested against. Nothing here chooses a device, allocates ahead or
draws. Cost of `scores`: one log-softmax per model and about five passes over [B, V] in float32; when
heads are small, `sampling.draw` does the same arithmetic on the head's entries alone.

Shapes: B rows, V vocabulary entries; a `…` stands for any shape. Logs are natural. Every step but
`exp` and `log` is one IEEE operation per element, so an entry's score does not depend on where in a
tensor it lies: the compacted path gets the same bits as the dense one.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdgen.errors import UsageError

if TYPE_CHECKING:
    from cdgen.recipes.schema import Decode

LOG_FLOOR = math.log(torch.finfo(torch.float32).tiny)
"""-87.34: a probability below the smallest normal float32 counts as that number inside a score."""

NUCLEUS_WIDTH = 512
"""Tokens that top-p sorts first; the whole vocabulary only where a row's nucleus is larger."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a token is chosen: the numbers of a recipe's `decode`, ready for arithmetic."""

    method: str = "contrastive"
    """contrastive | head_only | sample."""
    lam: float = 1.0
    """Weight of the amateur's log-probability (`lambda` in a recipe)."""
    alpha: float = 0.1
    """The head: tokens with p_G more than alpha times the largest p_G."""
    temperature: float = 1.0
    """Divides both models' logits."""
    amateur_temperature: float = 1.0
    """Divides the amateur's logits, besides `temperature`."""
    score_temperature: float = 1.0
    """Divides the score after the mask."""
    top_k: int | None = None
    top_p: float | None = None
    outside: float = -math.inf
    """Score outside the head."""
    epsilon: float = 0.0
    """Added to probabilities before the logarithm."""

    def __post_init__(self) -> None:
        if self.method not in ("contrastive", "head_only", "sample"):
            raise UsageError(f"decode.method {self.method} is not implemented yet")
        if not 0 < self.alpha < 1:
            raise UsageError(f"decode.alpha must lie strictly between 0 and 1, found {self.alpha}")
        if math.isnan(self.outside) or self.outside == math.inf:
            raise UsageError(f"decode.outside_head must be -inf or a number, found {self.outside}")

    @classmethod
    def of(cls, decode: "Decode", *, amateur_temperature: float = 1.0) -> "Rule":
        """The rule of a recipe's `decode` part; UsageError names what is not implemented yet."""
        if decode.no_repeat_ngram is not None:
            raise UsageError("decode.no_repeat_ngram is not implemented yet")
        if decode.outside_head == "tail":
            raise UsageError("decode.outside_head: tail is not implemented yet")
        return cls(
            method=decode.method,
            lam=decode.lambda_,
            alpha=decode.alpha,
            temperature=decode.temperature,
            amateur_temperature=amateur_temperature,
            score_temperature=decode.score_temperature,
            top_k=decode.top_k,
            top_p=decode.top_p,
            outside=float(decode.outside_head),  # float("-inf") reads the recipe's word
            epsilon=decode.log_epsilon,
        )

    @property
    def head_carries_all(self) -> bool:
        """True when a token outside the head can never be drawn."""
        return self.method != "sample" and self.outside == -math.inf


def log_probs(logits_BV: Tensor, *, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the last dimension, in nats (paper section 1.1)."""
    if temperature != 1.0:  # x / 1.0 is x: a pass over [B, V] saved
        logits_BV = logits_BV / temperature
    return torch.log_softmax(logits_BV, dim=-1)


def head_mask(logits_BV: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """True where p_G > alpha * max p_G at `temperature`, strictly (paper section 1.2); bool [B, V].

    Computed on the logits, where the normaliser cancels: g > max g + temperature * log(alpha).
    """
    limit_B1 = logits_BV.amax(dim=-1, keepdim=True) + temperature * math.log(alpha)
    return logits_BV > limit_B1


def soft_log(logp: Tensor, *, epsilon: float) -> Tensor:
    """log(p + epsilon), never below LOG_FLOOR; the shape of `logp`, nats.

    The floor gives -inf a meaning: an amateur that gives a token of the head no probability at all
    counts as one that gives it 1.2e-38, so the score is high but a number.
    """
    if epsilon:
        logp = torch.log(torch.exp(logp) + epsilon)
    return logp.clamp(min=LOG_FLOOR)


def inside_score(logp_expert: Tensor, logp_amateur: Tensor | None, rule: Rule) -> Tensor:
    """Score of tokens in the head (paper section 1.3), elementwise: shapes `…`, nats.

    contrastive: log(p_G + eps) - lambda * log(p_B + eps); head_only: log(p_G + eps).
    """
    score = soft_log(logp_expert, epsilon=rule.epsilon)
    if rule.method == "head_only":
        return score
    assert logp_amateur is not None, "contrastive needs an amateur: Engine checks that"
    # Two operations, each rounded once: `sub(alpha=…)` may fuse them in some lanes and not in others.
    # In place, on `soft_log`'s fresh tensors: over a whole vocabulary, memory is what costs.
    return score.sub_(soft_log(logp_amateur, epsilon=rule.epsilon).mul_(rule.lam))


def cool(score: Tensor, *, temperature: float) -> Tensor:
    """Score divided by the output temperature; the outside value is divided too."""
    return score if temperature == 1.0 else score / temperature


def keep_top_k(score_BV: Tensor, k: int) -> Tensor:
    """-inf below the row's k-th largest score; ties with it stay (paper section 1.5)."""
    if k >= score_BV.shape[-1]:
        return score_BV
    kth_B1 = torch.topk(score_BV, k, dim=-1).values[..., -1:]
    return score_BV.masked_fill(score_BV < kth_B1, -torch.inf)


def keep_top_p(score_BV: Tensor, p: float) -> Tensor:
    """-inf outside the nucleus of the scores' own softmax (paper section 1.5).

    By falling score, tokens are kept while the cumulative probability is at most p, plus the first
    that exceeds it. Equal scores rank in vocabulary order.
    """
    if p >= 1.0:
        return score_BV
    limit_B1 = p * masses(score_BV).cumsum_(dim=-1)[..., -1:]
    num_kept_B1, last_B1 = _nucleus(score_BV, limit_B1)
    above_BV, tie_BV = score_BV > last_B1, score_BV == last_B1
    num_ties_B1 = num_kept_B1 - above_BV.sum(dim=-1, keepdim=True)
    tie_BV &= tie_BV.cumsum(dim=-1) <= num_ties_B1
    return score_BV.masked_fill(~(above_BV | tie_BV), -torch.inf)


def _nucleus(score_BV: Tensor, limit_B1: Tensor) -> tuple[Tensor, Tensor]:
    """How many tokens a row keeps and the last one's score, given the mass that may precede it."""
    # Nuclei are small: sorting the best tokens costs a tenth of sorting a vocabulary.
    for width in (NUCLEUS_WIDTH, score_BV.shape[-1]):
        best_BK = torch.topk(score_BV, min(width, score_BV.shape[-1]), dim=-1).values
        cdf_BK = masses(best_BK).cumsum_(dim=-1)
        before_BK = torch.nn.functional.pad(cdf_BK[..., :-1], (1, 0))
        num_kept_B1 = (before_BK <= limit_B1).sum(dim=-1, keepdim=True)
        if bool((num_kept_B1 < best_BK.shape[-1]).all()):
            break
    num_kept_B1.clamp_(min=1)  # a row of NaN keeps none
    return num_kept_B1, best_BK.gather(-1, num_kept_B1 - 1)


def masses(score_BV: Tensor) -> Tensor:
    """exp(score - row maximum) in float64: softmax up to a factor per row, at most 1."""
    top_B1 = score_BV.amax(dim=-1, keepdim=True)
    return score_BV.to(torch.float64, copy=True).sub_(top_B1).exp_()


def truncate(score_BV: Tensor, rule: Rule) -> Tensor:
    """Output temperature, then top-k, then top-p, on masked scores (paper section 1.5)."""
    score_BV = cool(score_BV, temperature=rule.score_temperature)
    if rule.top_k is not None:
        score_BV = keep_top_k(score_BV, rule.top_k)
    if rule.top_p is not None:
        score_BV = keep_top_p(score_BV, rule.top_p)
    return score_BV


def scores(expert_BV: Tensor, amateur_BV: Tensor | None, rule: Rule) -> Tensor:
    """The scores whose softmax a token is drawn from: the whole of paper section 1 in one place.

    Args:
        expert_BV: the expert's logits g, float32 or float64.
        amateur_BV: the amateur's logits b; None for head_only and sample.
        rule: how to combine them.

    Returns:
        Scores [B, V] in nats; -inf marks tokens that cannot be drawn.
    """
    logp_expert_BV = log_probs(expert_BV, temperature=rule.temperature)
    logp_amateur_BV = None
    if amateur_BV is not None:
        hot = rule.temperature * rule.amateur_temperature
        logp_amateur_BV = log_probs(amateur_BV, temperature=hot)
    head_BV = head_mask(expert_BV, alpha=rule.alpha, temperature=rule.temperature)
    return combine(logp_expert_BV, logp_amateur_BV, head_BV, rule)


def combine(
    logp_expert_BV: Tensor, logp_amateur_BV: Tensor | None, head_BV: Tensor, rule: Rule
) -> Tensor:
    """`scores` from log-probabilities and a head that are already there; [B, V], nats."""
    if rule.method == "sample":
        score_BV = logp_expert_BV
    else:
        score_BV = inside_score(logp_expert_BV, logp_amateur_BV, rule)
        score_BV.masked_fill_(~head_BV, rule.outside)
    return truncate(score_BV, rule)
