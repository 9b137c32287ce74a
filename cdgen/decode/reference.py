"""The slow, obvious version of decoding, that everything faster is tested against.

`token_scores`, `choose` and `decode_rows` are paper section 1 written out token by token in Python floats,
with no cache and no batch. `replay` recomputes given rows by one full forward of each model, teacher-forced:
for tests, `verify --replay` and `explain`.

Cost: `decode_rows` is quadratic in the length and takes milliseconds per token; `replay` is fast but holds
[B, T, V] float32 several times over, so give it few rows at once.

Shapes: B rows, P prefixes, T new tokens, V vocabulary entries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cdgen.decode import contrast
from cdgen.decode.contrast import LOG_FLOOR, Rule


def token_scores(
    expert_V: Sequence[float], amateur_V: Sequence[float] | None, rule: Rule
) -> list[float]:
    """Scores of one step, in nats, from logits (paper section 1); -inf = cannot be drawn."""
    p_expert = _softmax([g / rule.temperature for g in expert_V])
    if rule.method == "sample":
        score_V = [_log(p) for p in p_expert]
    else:
        hot = rule.temperature * rule.amateur_temperature
        p_amateur = None if amateur_V is None else _softmax([b / hot for b in amateur_V])
        limit = rule.alpha * max(p_expert)
        score_V = [
            _inside(p_expert[v], 1.0 if p_amateur is None else p_amateur[v], rule)
            if p_expert[v] > limit
            else rule.outside
            for v in range(len(p_expert))
        ]
    score_V = [score / rule.score_temperature for score in score_V]
    return _nucleus(_largest(score_V, rule.top_k), rule.top_p)


def _inside(p_expert: float, p_amateur: float, rule: Rule) -> float:
    score = max(_log(p_expert + rule.epsilon), LOG_FLOOR)
    if rule.method == "contrastive":
        score -= rule.lam * max(_log(p_amateur + rule.epsilon), LOG_FLOOR)
    return score


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf


def _softmax(score_V: Sequence[float]) -> list[float]:
    top = max(score_V)
    mass_V = [math.exp(score - top) for score in score_V]
    total = math.fsum(mass_V)
    return [mass / total for mass in mass_V]


def _largest(score_V: list[float], k: int | None) -> list[float]:
    if k is None or k >= len(score_V):
        return score_V
    kth = sorted(score_V, reverse=True)[k - 1]
    return [score if score >= kth else -math.inf for score in score_V]


def _nucleus(score_V: list[float], p: float | None) -> list[float]:
    if p is None:
        return score_V
    mass_V = _softmax(score_V)
    kept, cumulative = set(), 0.0
    for v in sorted(range(len(score_V)), key=lambda v: (-score_V[v], v)):
        if cumulative > p:
            break
        kept.add(v)
        cumulative += mass_V[v]
    return [score if v in kept else -math.inf for v, score in enumerate(score_V)]


def choose(score_V: Sequence[float], uniform: float) -> int:
    """The first token, in vocabulary order, whose cumulative probability exceeds `uniform`."""
    cumulative, last = 0.0, 0
    for token, p in enumerate(_softmax(score_V)):
        cumulative += p
        if p > 0:
            last = token
        if cumulative > uniform and p > 0:
            return token
    return last  # rounding left the whole sum a little under the uniform


def decode_rows(
    expert: PreTrainedModel,
    amateur: PreTrainedModel | None,
    prefix_PT: npt.NDArray[np.int64],
    uniforms_BT: npt.NDArray[np.float64],
    rule: Rule,
) -> npt.NDArray[np.int32]:
    """Free-running decoding, one row and one token at a time, without a cache: ids [B, T]."""
    completions = len(uniforms_BT) // len(prefix_PT)
    out = []
    for row, uniform_T in enumerate(uniforms_BT):
        ids = prefix_PT[row // completions].tolist()
        for uniform in uniform_T.tolist():
            expert_V = _next_logits(expert, ids)
            amateur_V = None if amateur is None else _next_logits(amateur, ids)
            ids.append(choose(token_scores(expert_V, amateur_V, rule), uniform))
        out.append(ids[prefix_PT.shape[1] :])
    return np.array(out, dtype=np.int32)


@torch.inference_mode()
def _next_logits(model: PreTrainedModel, ids: list[int]) -> list[float]:
    logits_V: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits_V.double().tolist()


@dataclass(frozen=True)
class Replay:
    """What both models say at every drawn position of given rows, on the CPU."""

    score_BTV: Tensor
    """Scores whose softmax each token was drawn from, nats; -inf = could not be drawn."""
    logp_expert_BTV: Tensor
    """log p_G at the decode temperature, nats."""
    logp_amateur_BTV: Tensor | None
    """log p_B likewise."""
    head_BTV: Tensor
    """True inside the expert's head."""


@torch.inference_mode()
def replay(
    expert: PreTrainedModel,
    amateur: PreTrainedModel | None,
    ids_BT: npt.NDArray[np.int64],
    *,
    prefix_tokens: int,
    rule: Rule,
) -> Replay:
    """Recompute given rows, teacher-forced: one full forward of each model, without a cache.

    Args:
        expert: p_G.
        amateur: p_B, or None.
        ids_BT: whole rows, prefix first.
        prefix_tokens: tokens of each row that were given, not drawn.
        rule: how the tokens were chosen.
    """
    expert_BTV = _logits(expert, ids_BT, prefix_tokens)
    amateur_BTV = None if amateur is None else _logits(amateur, ids_BT, prefix_tokens)
    hot = rule.temperature * rule.amateur_temperature
    return Replay(
        score_BTV=contrast.scores(expert_BTV, amateur_BTV, rule),
        logp_expert_BTV=contrast.log_probs(expert_BTV, temperature=rule.temperature),
        logp_amateur_BTV=None
        if amateur_BTV is None
        else contrast.log_probs(amateur_BTV, temperature=hot),
        head_BTV=contrast.head_mask(expert_BTV, alpha=rule.alpha, temperature=rule.temperature),
    )


def _logits(model: PreTrainedModel, ids_BT: npt.NDArray[np.int64], prefix_tokens: int) -> Tensor:
    """The logits each drawn token was drawn from, float32 [B, T - prefix_tokens, V]."""
    ids = torch.as_tensor(ids_BT, dtype=torch.int64, device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[:, prefix_tokens - 1 : -1].float().cpu()


def cdf_interval(score_BTV: Tensor, token_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The uniforms that pick `token_BT`: from (inclusive) and to (exclusive), float64 [B, T].

    Two computations may differ in a token only where the uniform lies within their score error of such
    a boundary. An empty interval means that the token cannot be drawn.
    """
    mass = contrast.masses(score_BTV)
    cdf = mass.cumsum(dim=-1) / mass.sum(dim=-1, keepdim=True)
    index = token_BT.unsqueeze(-1)
    end = cdf.gather(-1, index).squeeze(-1)
    begin = torch.nn.functional.pad(cdf, (1, 0)).gather(-1, index).squeeze(-1)
    return begin, end
