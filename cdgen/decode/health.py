"""Is the contrast alive? Expert and amateur compared on real text, teacher-forced, through the engine's own models.

Every kind of amateur is measured the way it decodes: prefilled with the beginnings of rows, then fed a token at a
time, after the expert. Probabilities are those of decoding: each model at its temperature.

Cost: one forward of every model per token, for B rows, and about five passes over [B, V].

Shapes: B rows, T tokens, V vocabulary entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cdgen.decode import contrast
from cdgen.decode.contrast import LOG_FLOOR, Rule
from cdgen.decode.engine import Engine
from cdgen.decode.models import Keyed
from cdgen.errors import BuildError


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Means over the positions looked at; None where there is no amateur.

    Attributes:
        num_positions: rows times tokens that were predicted.
        expert_nats, amateur_nats: loss, -log p of the text's own token.
        kl_nats: of the amateur's distribution from the expert's, over the whole vocabulary.
        moved: total variation between what the method draws from and what head_only would: the share of draws that are
            not head_only's. The n-gram ban is left out.
        head_of_one_share: of positions where one token alone is plausible, so that no method has a choice.
        mean_head_size: tokens.
    """

    num_positions: int
    expert_nats: float
    amateur_nats: float | None
    kl_nats: float | None
    moved: float
    head_of_one_share: float
    mean_head_size: float

    @property
    def gap_nats(self) -> float | None:
        """By how much the amateur predicts the text worse than the expert does."""
        return None if self.amateur_nats is None else self.amateur_nats - self.expert_nats


@torch.inference_mode()
def health(
    engine: Engine,
    ids_BT: npt.NDArray[np.int64],
    key_B: npt.NDArray[np.int64],
    *,
    prefix_tokens: int,
) -> Health:
    """Measure an engine's models on given rows.

    Args:
        engine: its models and its rule.
        ids_BT: real text, longer than `prefix_tokens` and no longer than the models' positions.
        key_B: the rows' keys (`sampling.row_keys`), for an amateur with randomness of its own.
        prefix_tokens: of each row, given and not predicted; at least 1.

    Raises:
        BuildError: a model's output is not a number.
    """
    ids = torch.from_numpy(ids_BT)
    rows, length = ids.shape
    states = [model.allocate(rows, length) for model in engine.models]
    has_amateur = engine.amateur is not None
    total_M = torch.zeros(6, dtype=torch.float64, device=engine.expert.device)
    for t in range(prefix_tokens, length):
        logits = []
        for model, state in zip(engine.models, states, strict=True):
            if t > prefix_tokens:
                logits_BV = model.step(state, ids[:, t - 1].to(model.device))
            else:
                if isinstance(model, Keyed):
                    model.key_rows(state, torch.from_numpy(key_B))
                logits_BV = model.prefill(state, ids[:, :t].to(model.device))
            logits.append(logits_BV[:, : engine.vocab_size].to(engine.expert.device))
        token_B = ids[:, t].to(engine.expert.device)
        total_M += _measures(logits, token_B, engine.rule, has_amateur=has_amateur)
    return _mean(total_M, rows * (length - prefix_tokens), has_amateur=has_amateur)


def _measures(
    logits: Sequence[Tensor], token_B: Tensor, rule: Rule, *, has_amateur: bool
) -> Tensor:
    """Sums over the rows of one position, float64 [6], in the order of Health."""
    amateur_BV, further = (logits[1] if has_amateur else None), logits[1 + has_amateur :]
    logps = contrast.all_log_probs(logits[0], amateur_BV, further, rule)
    expert_BV, weak_BV = logps[0], logps[1]
    assert expert_BV is not None
    head_BV = contrast.open_head(logits[0], None, rule)
    size_B = head_BV.sum(dim=-1)
    nothing = torch.zeros((), dtype=torch.float64, device=expert_BV.device)
    return torch.stack(
        [
            _nats(expert_BV, token_B),
            nothing if weak_BV is None else _nats(weak_BV, token_B),
            nothing if weak_BV is None else divergence(expert_BV, weak_BV).sum(),
            moved(logps, head_BV, rule).sum(),
            (size_B == 1).sum().double(),
            size_B.sum().double(),
        ]
    )


def _nats(logp_BV: Tensor, token_B: Tensor) -> Tensor:
    """The summed loss; a token without probability counts as one with the smallest that a float32 holds."""
    logp_B = logp_BV.gather(1, token_B.unsqueeze(1)).double()
    return -logp_B.clamp(min=LOG_FLOOR).sum()


def divergence(logp_BV: Tensor, other_BV: Tensor) -> Tensor:
    """KL(p ‖ other) in nats, float64 [B], from log-probabilities, which are floored at LOG_FLOOR."""
    logp_BV, other_BV = (x.double().clamp(min=LOG_FLOOR) for x in (logp_BV, other_BV))
    return (logp_BV.exp() * (logp_BV - other_BV)).sum(dim=-1)


def moved(logps: Sequence[Tensor | None], head_BV: Tensor, rule: Rule) -> Tensor:
    """Total variation between the rule's distribution and that of head_only, all else equal; float64 [B]."""
    alone = replace(rule, method="head_only")
    drawn_BV, plain_BV = (
        torch.softmax(contrast.combine(logps, head_BV, one).double(), dim=-1)
        for one in (rule, alone)
    )
    return (drawn_BV - plain_BV).abs().sum(dim=-1) / 2


def _mean(total_M: Tensor, num_positions: int, *, has_amateur: bool) -> Health:
    expert, amateur, kl, changed, ones, size = (total_M / num_positions).tolist()
    if not np.isfinite([expert, amateur, kl, changed]).all():
        raise BuildError("a model's output is not a number: its weights or dtype are unfit")
    return Health(
        num_positions=num_positions,
        expert_nats=expert,
        amateur_nats=amateur if has_amateur else None,
        kl_nats=kl if has_amateur else None,
        moved=changed,
        head_of_one_share=ones,
        mean_head_size=size,
    )
