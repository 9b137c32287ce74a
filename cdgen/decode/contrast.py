"""The scores a token is drawn from, as pure functions of the models' logits (paper sections 1 and 8).

Every method is one weighted sum of log-probabilities, sum_i w_i log p_i, inside the expert's head: contrastive
has the weights (1, -lambda), head_only (1,), weighted_sum those of the recipe. The order of models is always
the expert, the amateur, further ones.

One function per step of the formula; `scores` composes them over the whole vocabulary and is the
definition that everything faster is tested against. Nothing here chooses a device, allocates ahead or
draws. Cost of `scores`: one log-softmax per model and about five passes over [B, V] in float32; when
heads are small, `sampling.draw` does the same arithmetic on the head's entries alone.

Shapes: B rows, V vocabulary entries; a `…` stands for any shape. Logs are natural. Every step but
`exp` and `log` is one IEEE operation per element, so an entry's score does not depend on where in a
tensor it lies: the compacted path gets the same bits as the dense one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
    """contrastive | head_only | sample | weighted_sum."""
    lam: float = 1.0
    """Of contrastive: weight of the amateur's log-probability, subtracted (`lambda` in a recipe)."""
    weights: tuple[float, ...] = ()
    """Of weighted_sum: of the expert's log-probability, the amateur's and each further model's."""
    further_temperatures: tuple[float, ...] = ()
    """Of weighted_sum: each divides a further model's logits, besides `temperature`."""
    alpha: float = 0.1
    """The head: tokens with p_G more than alpha times the largest p_G."""
    temperature: float = 1.0
    """Divides every model's logits."""
    amateur_temperature: float = 1.0
    """Divides the amateur's logits, besides `temperature`."""
    score_temperature: float = 1.0
    """Divides the score after the mask."""
    top_k: int | None = None
    top_p: float | None = None
    outside: float | Literal["tail"] = -math.inf
    """Score outside the head; tail: log p_G, shifted so that the best one equals the head's worst score."""
    no_repeat_ngram: int | None = None
    """No token may end an n-gram of so many tokens that its row has already."""
    epsilon: float = 0.0
    """Added to probabilities before the logarithm."""

    def __post_init__(self) -> None:
        if self.method not in ("contrastive", "head_only", "sample", "weighted_sum"):
            raise UsageError(f"decode.method {self.method} is not known")
        if not 0 < self.alpha < 1:
            raise UsageError(f"decode.alpha must lie strictly between 0 and 1, found {self.alpha}")
        if self.outside != "tail" and (math.isnan(self.outside) or self.outside == math.inf):
            raise UsageError(
                f"decode.outside_head must be -inf, tail or a number, found {self.outside}"
            )
        if self.method == "weighted_sum" and len(self.weights) != 2 + len(
            self.further_temperatures
        ):
            raise UsageError("decode.models: weights of expert, amateur and each model are needed")

    @classmethod
    def of(cls, decode: "Decode", *, amateur_temperature: float = 1.0) -> "Rule":
        """The rule of a recipe's `decode` part."""
        models = decode.models or ()
        further = decode.further
        return cls(
            method=decode.method,
            lam=decode.lambda_,
            weights=()
            if decode.models is None
            else (
                sum(found.weight for found in models if found.model == "expert"),
                sum(found.weight for found in models if found.model == "amateur"),
                *(found.weight for found in further),
            ),
            further_temperatures=tuple(found.temperature for found in further),
            alpha=decode.alpha,
            temperature=decode.temperature,
            amateur_temperature=amateur_temperature,
            score_temperature=decode.score_temperature,
            top_k=decode.top_k,
            top_p=decode.top_p,
            outside="tail" if decode.outside_head == "tail" else float(decode.outside_head),
            no_repeat_ngram=decode.no_repeat_ngram,
            epsilon=decode.log_epsilon,
        )

    @property
    def terms(self) -> tuple[float, ...]:
        """Weights inside the head: of the expert's log-probability, the amateur's, further ones."""
        if self.method == "contrastive":
            return (1.0, -self.lam)
        return self.weights if self.method == "weighted_sum" else (1.0,)

    @property
    def needs_amateur(self) -> bool:
        """True when the score contains the amateur."""
        return self.method == "contrastive" or (len(self.terms) > 1 and self.terms[1] != 0.0)

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
    top_B1 = logits_BV.amax(dim=-1, keepdim=True)
    return logits_BV > _head_limit(top_B1, alpha=alpha, temperature=temperature)


def _head_limit(top_B1: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """The logit that a row's head lies above; always below its top, also where alpha is 1 but for rounding."""
    below_B1 = torch.nextafter(top_B1, torch.full_like(top_B1, -torch.inf))
    return torch.minimum(top_B1 + temperature * math.log(alpha), below_B1)


def soft_log(logp: Tensor, *, epsilon: float) -> Tensor:
    """log(p + epsilon), never below LOG_FLOOR; the shape of `logp`, nats.

    The floor gives -inf a meaning: an amateur that gives a token of the head no probability at all
    counts as one that gives it 1.2e-38, so the score is high but a number.
    """
    if epsilon:
        logp = torch.log(torch.exp(logp) + epsilon)
    return logp.clamp(min=LOG_FLOOR)


def inside_score(logps: Sequence[Tensor | None], rule: Rule) -> Tensor:
    """Score of tokens in the head (paper sections 1.3 and 8): sum_i w_i log(p_i + eps), nats.

    Args:
        logps: the models' log-probabilities in the order of `Rule.terms`, of one shape `…`; one whose weight
            is 0 may be None, and those beyond the terms do not count.
        rule: has the weights and epsilon.
    """
    # Each operation is rounded once: `add(alpha=…)` may fuse two in some lanes and not in others.
    # In place, on `soft_log`'s fresh tensors: over a whole vocabulary, memory is what costs.
    score: Tensor | None = None
    for weight, logp in zip(rule.terms, logps, strict=False):
        if logp is None or (weight == 0.0 and score is not None):
            assert weight == 0.0, "a model that counts is missing: Engine checks that"
            continue
        term = soft_log(logp, epsilon=rule.epsilon)
        if weight != 1.0:
            term.mul_(weight)
        score = term if score is None else score.add_(term)
    assert score is not None
    return score


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


def all_log_probs(
    expert_BV: Tensor, amateur_BV: Tensor | None, further: Sequence[Tensor], rule: Rule
) -> list[Tensor | None]:
    """log p of the expert, the amateur (None without one) and further models, each at its temperature."""
    hot = rule.temperature * rule.amateur_temperature
    return [
        log_probs(expert_BV, temperature=rule.temperature),
        None if amateur_BV is None else log_probs(amateur_BV, temperature=hot),
        *(
            log_probs(logits_BV, temperature=rule.temperature * own)
            for logits_BV, own in zip(further, rule.further_temperatures, strict=True)
        ),
    ]


def open_head(expert_BV: Tensor, banned_BV: Tensor | None, rule: Rule) -> Tensor:
    """The head without banned tokens; bool [B, V], never empty in a row."""
    head_BV = head_mask(expert_BV, alpha=rule.alpha, temperature=rule.temperature)
    return head_BV if banned_BV is None else without(banned_BV, head_BV, expert_BV, rule)


def without(banned_BV: Tensor, head_BV: Tensor, expert_BV: Tensor, rule: Rule) -> Tensor:
    """`head_BV` without banned tokens; where that leaves none, the head of the tokens that are not banned.

    That is those with p_G more than alpha times the largest p_G among them (docs/decisions/0011).
    """
    open_BV = head_BV & ~banned_BV
    if open_BV.device.type == "cpu":
        return _refill_some(open_BV, banned_BV, expert_BV, rule)
    return _refill_all(open_BV, banned_BV, expert_BV, rule)


def _refill_some(open_BV: Tensor, banned_BV: Tensor, expert_BV: Tensor, rule: Rule) -> Tensor:
    """Looks which heads are empty: few or none, as a rule."""
    empty_B = torch.from_numpy(~open_BV.numpy().any(axis=-1))  # 100 times faster than torch's
    if bool(empty_B.any()):
        open_BV[empty_B] = _head_of_rest(expert_BV[empty_B], banned_BV[empty_B], rule)
    return open_BV


def _refill_all(open_BV: Tensor, banned_BV: Tensor, expert_BV: Tensor, rule: Rule) -> Tensor:
    """The same without a look, for which a GPU would have to be waited for."""
    kept_B1 = open_BV.any(dim=-1, keepdim=True)
    return torch.where(kept_B1, open_BV, _head_of_rest(expert_BV, banned_BV, rule))


def _head_of_rest(expert_BV: Tensor, banned_BV: Tensor, rule: Rule) -> Tensor:
    left_BV = expert_BV.masked_fill(banned_BV, -torch.inf)
    return head_mask(left_BV, alpha=rule.alpha, temperature=rule.temperature)


def scores(
    expert_BV: Tensor,
    amateur_BV: Tensor | None,
    rule: Rule,
    *,
    further: Sequence[Tensor] = (),
    banned_BV: Tensor | None = None,
) -> Tensor:
    """The scores whose softmax a token is drawn from: the whole of paper section 1 in one place.

    Args:
        expert_BV: the expert's logits g, float32 or float64.
        amateur_BV: the amateur's logits b; None where the rule does not need them.
        rule: how to combine them.
        further: logits of the further models of weighted_sum, in the recipe's order.
        banned_BV: bool, tokens that may not be drawn (no_repeat_ngram); never all of a row's.

    Returns:
        Scores [B, V] in nats; -inf marks tokens that cannot be drawn.
    """
    logps = all_log_probs(expert_BV, amateur_BV, further, rule)
    return combine(logps, open_head(expert_BV, banned_BV, rule), rule, banned_BV=banned_BV)


def combine(
    logps: Sequence[Tensor | None],
    head_BV: Tensor,
    rule: Rule,
    *,
    banned_BV: Tensor | None = None,
) -> Tensor:
    """`scores` from log-probabilities and an open head that are already there; [B, V], nats."""
    logp_expert_BV = logps[0]
    assert logp_expert_BV is not None
    if rule.method == "sample":
        score_BV = logp_expert_BV
    else:
        score_BV = inside_score(logps, rule)
        if rule.outside == "tail":
            score_BV = with_tail(score_BV, logp_expert_BV, head_BV, banned_BV, rule)
        else:
            score_BV.masked_fill_(~head_BV, rule.outside)
    if banned_BV is not None:
        score_BV = score_BV.masked_fill(banned_BV, -torch.inf)
    return truncate(score_BV, rule)


def with_tail(
    score_BV: Tensor,
    logp_expert_BV: Tensor,
    head_BV: Tensor,
    banned_BV: Tensor | None,
    rule: Rule,
) -> Tensor:
    """Outside the head log(p_G + eps), shifted by row so that its largest equals the head's smallest score.

    (Paper section 1, contrastive_tail.) Banned tokens are in neither.
    """
    tail_BV = soft_log(logp_expert_BV, epsilon=rule.epsilon)
    not_tail_BV = head_BV if banned_BV is None else head_BV | banned_BV
    worst_B1 = score_BV.masked_fill(~head_BV, torch.inf).amin(dim=-1, keepdim=True)
    best_B1 = tail_BV.masked_fill(not_tail_BV, -torch.inf).amax(dim=-1, keepdim=True)
    return torch.where(head_BV, score_BV, tail_BV - best_B1 + worst_B1)
