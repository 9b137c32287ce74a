"""Keyed uniforms, and the token that a uniform picks (design section 4).

A completion's randomness is data: float64 uniforms from a counter-based generator keyed by what the
completion *is* (seed, prefix id, number), so neither worker nor order nor batch can change it. A token
is picked by inverting the cumulative distribution in vocabulary order. No generator lives in the loop.

Two roads to the same token. The dense one costs a float64 exponential and a running sum per vocabulary
entry. The compacted one gathers the head's entries into [B, K], K = the largest head of the batch, and
does both only there; it is taken while K is small. Zeros do not change a running sum, and each row is
summed by itself, front to back, so on a CPU both roads and any neighbours give the same bits.

Shapes: B rows, V vocabulary entries, K entries of the largest head, N entries of all heads, T new tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdgen.decode import contrast
from cdgen.decode.contrast import Rule
from cdgen.decode.keys import key_hex, rng_key, row_keys, uniforms

__all__ = [
    "DENSE_SHARE",
    "Draw",
    "Entries",
    "compact",
    "draw",
    "head_entries",
    "key_hex",
    "pick",
    "pick_compact",
    "rng_key",
    "row_keys",
    "uniforms",
]

DENSE_SHARE = 1 / 8
"""The largest head's share of the vocabulary above which gathering costs more than it saves."""


def pick(score_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """One token per row: the first whose cumulative probability exceeds the row's uniform.

    Args:
        score_BV: scores in nats, -inf for what cannot be drawn; not all -inf.
        uniform_B: float64 in [0, 1).

    Returns:
        Token indices, int64 [B]. Never one of zero mass: the cumulative sum must rise at the token,
        at u = 0 too; and at u = 1 - 2^-53, u * total still rounds to less than the total.
    """
    cdf_BV = contrast.masses(score_BV).cumsum_(dim=-1)
    target_B1 = uniform_B.unsqueeze(-1) * cdf_BV[:, -1:]
    token_B1 = torch.searchsorted(cdf_BV, target_B1, right=True)
    # Only a row of NaN gets here with an index past the end; the engine reports it by name.
    return token_B1.squeeze(-1).clamp_(max=score_BV.shape[-1] - 1)


def pick_compact(token_BK: Tensor, score_BK: Tensor, uniform_B: Tensor) -> Tensor:
    """`pick` over entries gathered in vocabulary order; padding has score -inf. int64 [B]."""
    slot_B = pick(score_BK, uniform_B)
    return token_BK.gather(1, slot_B.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class Entries:
    """The positions of all heads' tokens, row after row, each row in vocabulary order."""

    flat_N: Tensor
    """row * V + token, int64."""
    start_B: Tensor
    """Where each row's entries begin in `flat_N`."""
    size_B: Tensor
    """How many each row has."""


def head_entries(head_BV: Tensor) -> Entries:
    """Where `head_BV` (bool, on the CPU) is true."""
    rows, vocab = head_BV.shape
    # numpy finds them 4-10 times faster than torch.nonzero, most of all in flat heads.
    flat_N = torch.from_numpy(np.flatnonzero(head_BV.numpy()))
    edge = torch.searchsorted(flat_N, torch.arange(rows + 1) * vocab)
    return Entries(flat_N=flat_N, start_B=edge[:-1], size_B=edge.diff())


@dataclass(frozen=True)
class Draw:
    """What one step decides and records, per row."""

    token_B: Tensor
    """int64."""
    logp_expert_B: Tensor
    """log p_G of the token over the full vocabulary, at the decode temperature, without epsilon; nats."""
    logp_amateur_B: Tensor | None
    """log p_B likewise, not below LOG_FLOOR; None without an amateur."""
    head_size_B: Tensor
    """Tokens with p_G > alpha * max p_G, whatever the method, banned ones included; int64."""
    logp_further: tuple[Tensor, ...] = ()
    """log p of each further model, [B]: NaN where its output is not a number."""


def draw(
    expert_BV: Tensor,
    amateur_BV: Tensor | None,
    uniform_B: Tensor,
    rule: Rule,
    *,
    further: Sequence[Tensor] = (),
    banned_BV: Tensor | None = None,
) -> Draw:
    """One decoding step: logits and uniforms to tokens and what is known about them.

    Args:
        expert_BV: the expert's logits, float32.
        amateur_BV: the amateur's, or None.
        uniform_B: float64 in [0, 1), one per row.
        rule: how to combine them.
        further: logits of the further models of weighted_sum, in the recipe's order.
        banned_BV: bool, tokens that may not be drawn; never all of a row's.
    """
    logps = contrast.all_log_probs(expert_BV, amateur_BV, further, rule)
    head_BV = contrast.head_mask(expert_BV, alpha=rule.alpha, temperature=rule.temperature)
    if banned_BV is None:
        token_B, head_size_B = _choose(logps, head_BV, None, uniform_B, rule)
    else:
        head_size_B = _sizes(head_BV)
        open_BV = contrast.without(banned_BV, head_BV, expert_BV, rule)
        token_B, _ = _choose(logps, open_BV, banned_BV, uniform_B, rule)
    drawn = [None if logp_BV is None else _at(logp_BV, token_B) for logp_BV in logps]
    assert drawn[0] is not None
    return Draw(
        token_B=token_B,
        logp_expert_B=drawn[0],
        logp_amateur_B=None if drawn[1] is None else drawn[1].clamp_(min=contrast.LOG_FLOOR),
        head_size_B=head_size_B,
        logp_further=tuple(logp_B for logp_B in drawn[2:] if logp_B is not None),
    )


def _choose(
    logps: Sequence[Tensor | None],
    head_BV: Tensor,
    banned_BV: Tensor | None,
    uniform_B: Tensor,
    rule: Rule,
) -> tuple[Tensor, Tensor]:
    """Tokens and sizes of `head_BV`, by the cheaper road."""
    # Shapes that depend on data would make a GPU wait for the host every step.
    if rule.head_carries_all and head_BV.device.type == "cpu":
        entries = head_entries(head_BV)
        if int(entries.size_B.max()) <= DENSE_SHARE * head_BV.shape[1]:
            token_BK, score_BK = compact(logps, entries, head_BV.shape[1], rule)
            return pick_compact(token_BK, score_BK, uniform_B), entries.size_B
        head_size_B = entries.size_B
    else:
        head_size_B = _sizes(head_BV)
    score_BV = contrast.combine(logps, head_BV, rule, banned_BV=banned_BV)
    return pick(score_BV, uniform_B), head_size_B


def compact(
    logps: Sequence[Tensor | None], entries: Entries, vocab: int, rule: Rule
) -> tuple[Tensor, Tensor]:
    """The heads' token ids [B, K] in vocabulary order and their final scores [B, K], -inf as padding."""
    rows = len(entries.size_B)
    slot_K = torch.arange(max(1, int(entries.size_B.max())))
    padding_BK = slot_K >= entries.size_B.unsqueeze(1)
    index_BK = (entries.start_B.unsqueeze(1) + slot_K).clamp_(max=max(0, len(entries.flat_N) - 1))
    flat_N = entries.flat_N if len(entries.flat_N) else torch.zeros(1, dtype=torch.int64)
    flat_BK = flat_N[index_BK]
    found = [None if logp_BV is None else logp_BV.reshape(-1)[flat_BK] for logp_BV in logps]
    score_BK = contrast.inside_score(found, rule).masked_fill(padding_BK, -torch.inf)
    token_BK = flat_BK - torch.arange(rows).unsqueeze(1) * vocab
    return token_BK.clamp_(0, vocab - 1), contrast.truncate(score_BK, rule)


def _sizes(head_BV: Tensor) -> Tensor:
    """How many entries of each row are true; int64 [B]."""
    if head_BV.device.type == "cpu":  # ten times faster than torch's sum of booleans
        return torch.from_numpy(np.count_nonzero(head_BV.numpy(), axis=1))
    return head_BV.sum(dim=-1)


def _at(value_BV: Tensor, token_B: Tensor) -> Tensor:
    return value_BV.gather(1, token_B.unsqueeze(1)).squeeze(1)
