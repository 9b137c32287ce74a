"""The slow, obvious version of decoding, that everything faster is tested against.

`token_scores`, `banned_tokens`, `choose` and `decode_rows` are paper sections 1 and 8 written out token by token
in Python floats, with no cache and no batch. `replay` recomputes given rows by one full forward of each model,
teacher-forced; `stepped` and `judge` do so for models behind the engine's interface.

Cost: `decode_rows` is quadratic in the length and takes milliseconds per token; `replay` is fast but holds
[B, T, V] float32 several times over, so give it few rows at once.

Shapes: B rows, P prefixes, T new tokens, V vocabulary entries.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cdgen.decode import contrast
from cdgen.decode.contrast import LOG_FLOOR, Rule
from cdgen.decode.models import Keyed, LanguageModel


def token_scores(
    expert_V: Sequence[float],
    amateur_V: Sequence[float] | None,
    rule: Rule,
    *,
    further: Sequence[Sequence[float]] = (),
    banned: Collection[int] = (),
) -> list[float]:
    """Scores of one step, in nats, from logits (paper section 1); -inf = cannot be drawn."""
    p_expert = _softmax([g / rule.temperature for g in expert_V])
    vocab = range(len(p_expert))
    if rule.method == "sample":
        score_V = [_log(p) for p in p_expert]
    else:
        head = _head(p_expert, rule.alpha, banned)
        parts = _parts(expert_V, amateur_V, further, rule)
        score_V = [_inside([(weight, p_V[v]) for weight, p_V in parts], rule) for v in vocab]
        score_V = _outside(score_V, p_expert, head, rule, banned)
    score_V = [-math.inf if v in banned else score_V[v] for v in vocab]
    score_V = [score / rule.score_temperature for score in score_V]
    return _nucleus(_largest(score_V, rule.top_k), rule.top_p)


def _head(p_expert: list[float], alpha: float, banned: Collection[int]) -> set[int]:
    """The expert's plausible tokens; where all of them are banned, those of what is left."""
    limit = alpha * max(p_expert)
    head = {v for v, p in enumerate(p_expert) if p > limit and v not in banned}
    if not head:
        limit = alpha * max(p for v, p in enumerate(p_expert) if v not in banned)
        head = {v for v, p in enumerate(p_expert) if p > limit and v not in banned}
    return head


def _parts(
    expert_V: Sequence[float],
    amateur_V: Sequence[float] | None,
    further: Sequence[Sequence[float]],
    rule: Rule,
) -> list[tuple[float, list[float]]]:
    """(weight, probabilities) of every model that the method names."""

    def p(logits_V: Sequence[float], temperature: float) -> list[float]:
        return _softmax([logit / (rule.temperature * temperature) for logit in logits_V])

    expert = p(expert_V, 1.0)
    if rule.method == "head_only":
        return [(1.0, expert)]
    amateur = [] if amateur_V is None else [p(amateur_V, rule.amateur_temperature)]
    if rule.method == "contrastive":
        return [(1.0, expert), (-rule.lam, amateur[0])]
    others = zip(rule.weights[2:], further, rule.further_temperatures, strict=True)
    return [
        (rule.weights[0], expert),
        *((rule.weights[1], p_V) for p_V in amateur),
        *((weight, p(logits_V, temperature)) for weight, logits_V, temperature in others),
    ]


def _inside(parts: list[tuple[float, float]], rule: Rule) -> float:
    """The weighted sum for one token."""
    return sum(weight * max(_log(p + rule.epsilon), LOG_FLOOR) for weight, p in parts)


def _outside(
    score_V: list[float],
    p_expert: list[float],
    head: set[int],
    rule: Rule,
    banned: Collection[int],
) -> list[float]:
    """Scores with those outside the head replaced: by a number, or by the expert's own, shifted."""
    if rule.outside != "tail":
        return [score if v in head else rule.outside for v, score in enumerate(score_V)]
    tail_V = [max(_log(p + rule.epsilon), LOG_FLOOR) for p in p_expert]
    outside = [tail for v, tail in enumerate(tail_V) if v not in head and v not in banned]
    if not outside:
        return score_V
    worst, best = min(score_V[v] for v in head), max(outside)
    return [score if v in head else tail_V[v] - best + worst for v, score in enumerate(score_V)]


def banned_tokens(ids: Sequence[int], ngram: int | None) -> set[int]:
    """Tokens after which an n-gram of `ids` would stand in it a second time."""
    if ngram is None or len(ids) < ngram:
        return set()
    last = list(ids[len(ids) - ngram + 1 :])
    grams = [list(ids[i : i + ngram]) for i in range(len(ids) - ngram + 1)]
    return {gram[-1] for gram in grams if gram[:-1] == last}


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
    *,
    further: Sequence[PreTrainedModel] = (),
) -> npt.NDArray[np.int32]:
    """Free-running decoding, one row and one token at a time, without a cache: ids [B, T]."""
    completions = len(uniforms_BT) // len(prefix_PT)
    out = []
    for row, uniform_T in enumerate(uniforms_BT):
        ids = prefix_PT[row // completions].tolist()
        for uniform in uniform_T.tolist():
            expert_V = _next_logits(expert, ids)
            amateur_V = None if amateur is None else _next_logits(amateur, ids)
            score_V = token_scores(
                expert_V,
                amateur_V,
                rule,
                further=[_next_logits(model, ids) for model in further],
                banned=banned_tokens(ids, rule.no_repeat_ngram),
            )
            ids.append(choose(score_V, uniform))
        out.append(ids[prefix_PT.shape[1] :])
    return np.array(out, dtype=np.int32)


@torch.inference_mode()
def _next_logits(model: PreTrainedModel, ids: list[int]) -> list[float]:
    logits_V: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits_V.double().tolist()


@dataclass(frozen=True)
class Replay:
    """What the models say at every drawn position of given rows, on the CPU."""

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
    further: Sequence[PreTrainedModel] = (),
    vocab_size: int | None = None,
) -> Replay:
    """Recompute given rows, teacher-forced: one full forward of each model, without a cache.

    Args:
        expert: p_G.
        amateur: p_B, or None.
        ids_BT: whole rows, prefix first.
        prefix_tokens: tokens of each row that were given, not drawn.
        rule: how the tokens were chosen.
        further: the other models of weighted_sum.
        vocab_size: what logits are cut to; None: all that the models score.
    """

    def logits(model: PreTrainedModel) -> Tensor:
        return _logits(model, ids_BT, prefix_tokens)[..., :vocab_size]

    amateur_BTV = None if amateur is None else logits(amateur)
    return judge(
        logits(expert),
        amateur_BTV,
        ids_BT,
        prefix_tokens=prefix_tokens,
        rule=rule,
        further=[logits(model) for model in further],
    )


def judge(
    expert_BTV: Tensor,
    amateur_BTV: Tensor | None,
    ids_BT: npt.NDArray[np.int64],
    *,
    prefix_tokens: int,
    rule: Rule,
    further: Sequence[Tensor] = (),
) -> Replay:
    """What logits at every drawn position mean under a rule; arguments as in `replay`."""
    further_BTV = list(further)
    banned_BTV = _banned(ids_BT, prefix_tokens, rule, expert_BTV.shape[-1])
    logps = contrast.all_log_probs(expert_BTV, amateur_BTV, further_BTV, rule)
    assert logps[0] is not None
    return Replay(
        score_BTV=contrast.scores(
            expert_BTV, amateur_BTV, rule, further=further_BTV, banned_BV=banned_BTV
        ),
        logp_expert_BTV=logps[0],
        logp_amateur_BTV=logps[1],
        head_BTV=contrast.head_mask(expert_BTV, alpha=rule.alpha, temperature=rule.temperature),
    )


@torch.inference_mode()
def stepped(
    models: Sequence[LanguageModel],
    ids_BT: npt.NDArray[np.int64],
    key_B: npt.NDArray[np.int64],
    *,
    prefix_tokens: int,
) -> list[Tensor]:
    """The logits each drawn token was drawn from, for every kind of amateur: a token at a time, all models in turn.

    Args:
        models: in the engine's order, the expert first.
        ids_BT: whole rows, prefix first.
        key_B: the rows' keys (`sampling.row_keys`).
        prefix_tokens: tokens of each row that were given, not drawn.

    Returns:
        Of each model, float32 [B, T - prefix_tokens, V] on the CPU.
    """
    ids = torch.from_numpy(ids_BT)
    states = [model.allocate(*ids_BT.shape) for model in models]
    seen: list[list[Tensor]] = [[] for _ in models]
    for t in range(prefix_tokens, ids_BT.shape[1]):
        for model, state, steps in zip(models, states, seen, strict=True):
            if t > prefix_tokens:
                steps.append(model.step(state, ids[:, t - 1].to(model.device)).cpu())
                continue
            if isinstance(model, Keyed):
                model.key_rows(state, torch.from_numpy(key_B))
            steps.append(model.prefill(state, ids[:, :t].to(model.device)).cpu())
    return [torch.stack(steps, dim=1) for steps in seen]


def _banned(
    ids_BT: npt.NDArray[np.int64], prefix_tokens: int, rule: Rule, vocab: int
) -> Tensor | None:
    """True for tokens that would have repeated an n-gram, bool [B, T - prefix_tokens, V]."""
    if rule.no_repeat_ngram is None:
        return None
    rows, length = ids_BT.shape
    banned_BTV = torch.zeros((rows, length - prefix_tokens, vocab), dtype=torch.bool)
    for row, ids in enumerate(ids_BT.tolist()):
        for t in range(prefix_tokens, length):
            banned = sorted(banned_tokens(ids[:t], rule.no_repeat_ngram))
            banned_BTV[row, t - prefix_tokens, banned] = True
    return banned_BTV


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
