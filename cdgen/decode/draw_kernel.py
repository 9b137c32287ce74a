"""`sampling.draw` as one GPU kernel: logits in, token and records out, nothing of size [B, V] in between.

A program owns a row and walks its vocabulary in blocks of a fixed size, front to back, four times: both
models' normalisers; the head's size and its best score; the mass of every block; and, inside the one block
where the cumulative mass passes the uniform, the token. The amateur is read a second time only where the
head lies. Scores are float32 like those of `contrast`, masses and their sums float64. The order of every
sum is fixed by the block size and the number of warps, both constants: not by rows, launch or device.

Reads per row: three times the expert's logits and once the amateur's, most of it from the L2 cache.

It covers contrastive, head_only and sample while nothing outside the head can be drawn; `covers` says so,
and everything else goes through `sampling.draw`. Needs Triton, which torch brings along with CUDA; under
TRITON_INTERPRET=1 it runs on a CPU, for tests.

Shapes: B rows, V vocabulary entries.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from cdgen.decode.contrast import LOG_FLOOR, Rule
from cdgen.decode.sampling import Draw

BLOCK = 4096
"""Vocabulary entries a program holds at once; part of the result's bits, so never tuned per machine."""

NUM_WARPS = 8
"""Likewise: how a block's sums are split over threads."""

_FLOOR = tl.constexpr(LOG_FLOOR)


def covers(rule: Rule) -> bool:
    """True when the kernel computes this rule."""
    whole = rule.top_k is None and rule.top_p is None and rule.no_repeat_ngram is None
    head_only = rule.head_carries_all and rule.method != "weighted_sum"
    return whole and (rule.method == "sample" or head_only)


def draw(
    expert_BV: Tensor,
    amateur_BV: Tensor | None,
    uniform_B: Tensor,
    rule: Rule,
    *,
    block: int = BLOCK,
) -> Draw:
    """`sampling.draw` for a rule that `covers` accepts.

    Args:
        expert_BV: logits, float32, bfloat16 or float16, each row contiguous.
        amateur_BV: the amateur's, or None.
        uniform_B: float64 in [0, 1).
        rule: how to combine them.
        block: a power of two; tests lower it.
    """
    rows, vocab = expert_BV.shape
    device = expert_BV.device
    assert expert_BV.stride(1) == 1 and (amateur_BV is None or amateur_BV.stride(1) == 1)
    block = min(block, triton.next_power_of_2(vocab))
    other_BV = expert_BV if amateur_BV is None else amateur_BV  # never read without an amateur
    out = Draw(
        token_B=torch.empty(rows, dtype=torch.int64, device=device),
        logp_expert_B=torch.empty(rows, device=device),
        logp_amateur_B=None if amateur_BV is None else torch.empty(rows, device=device),
        head_size_B=torch.empty(rows, dtype=torch.int64, device=device),
    )
    with torch.cuda.device_of(expert_BV):  # type: ignore[no-untyped-call]  # Triton launches on the current device
        _draw[(rows,)](
            expert_BV,
            other_BV,
            uniform_B,
            out.token_B,
            out.logp_expert_B,
            out.logp_expert_B if out.logp_amateur_B is None else out.logp_amateur_B,
            out.head_size_B,
            expert_BV.stride(0),
            other_BV.stride(0),
            vocab,
            rule.temperature,
            rule.temperature * rule.amateur_temperature,
            rule.temperature * math.log(rule.alpha),
            rule.lam,
            rule.epsilon,
            rule.score_temperature,
            SAMPLE=rule.method == "sample",
            CONTRAST=rule.method == "contrastive",
            AMATEUR=amateur_BV is not None,
            EPSILON=rule.epsilon != 0,
            BLOCK=block,
            NUM_BLOCKS=triton.next_power_of_2(triton.cdiv(vocab, block)),
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,  # contrast.py rounds after every operation
        )
    return out


@triton.jit
def _normalise(top: tl.tensor, total: tl.tensor, logit: tl.tensor) -> tl.tensor:
    """One more block of an online logsumexp: the maximum so far, float32, and the sum, float64."""
    new = tl.maximum(top, tl.max(logit, axis=0))
    safe = tl.where(new == float("-inf"), 0.0, new)  # a block of -inf adds nothing
    kept = total * tl.exp((top - safe).to(tl.float64))
    return new, kept + tl.sum(tl.exp(logit - safe), axis=0).to(tl.float64)


@triton.jit
def _soft_log(logp: tl.tensor, epsilon: tl.tensor, EPSILON: tl.constexpr) -> tl.tensor:
    """`contrast.soft_log`; a comparison instead of a maximum, so that NaN stays NaN."""
    if EPSILON:
        logp = tl.log(tl.exp(logp) + epsilon)
    return tl.where(logp < _FLOOR, _FLOOR, logp)


@triton.jit
def _block_scores(
    expert_row: tl.tensor,
    amateur_row: tl.tensor,
    begin: tl.tensor,
    vocab: tl.tensor,
    numbers: tl.tuple,
    SAMPLE: tl.constexpr,
    CONTRAST: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """(head, score) of a block, as `contrast.combine` has them: -inf where nothing can be drawn."""
    limit, temperature, hot, log_z_expert, log_z_amateur, lam, epsilon, score_temperature = numbers
    at = begin + tl.arange(0, BLOCK)
    inside = at < vocab
    raw = tl.load(expert_row + at, mask=inside, other=float("-inf")).to(tl.float32)
    head = raw > limit
    score = tl.div_rn(raw, temperature) - log_z_expert
    if SAMPLE:
        score = tl.where(inside, score, float("-inf"))
    else:
        score = _soft_log(score, epsilon, EPSILON)
        if CONTRAST:
            other = tl.load(amateur_row + at, mask=head, other=0.0).to(tl.float32)
            logp = _soft_log(tl.div_rn(other, hot) - log_z_amateur, epsilon, EPSILON)
            score = score - logp * lam
        score = tl.where(head, score, float("-inf"))
    return head, tl.div_rn(score, score_temperature)


@triton.jit
def _normalisers(
    expert_row: tl.tensor,
    amateur_row: tl.tensor,
    vocab: tl.tensor,
    temperature: tl.tensor,
    hot: tl.tensor,
    AMATEUR: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The expert's largest logit and both models' log normalisers, float32."""
    lane = tl.arange(0, BLOCK)
    top_raw = tl.full((), float("-inf"), tl.float32)
    top_expert = tl.full((), float("-inf"), tl.float32)
    top_amateur = tl.full((), float("-inf"), tl.float32)
    sum_expert = tl.full((), 0.0, tl.float64)
    sum_amateur = tl.full((), 0.0, tl.float64)
    for begin in range(0, vocab, BLOCK):
        at = begin + lane
        raw = tl.load(expert_row + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
        top_raw = tl.maximum(top_raw, tl.max(raw, axis=0))
        top_expert, sum_expert = _normalise(top_expert, sum_expert, tl.div_rn(raw, temperature))
        if AMATEUR:
            other = tl.load(amateur_row + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
            top_amateur, sum_amateur = _normalise(top_amateur, sum_amateur, tl.div_rn(other, hot))
    log_z_expert = (top_expert.to(tl.float64) + tl.log(sum_expert)).to(tl.float32)
    log_z_amateur = (top_amateur.to(tl.float64) + tl.log(sum_amateur)).to(tl.float32)
    return top_raw, log_z_expert, log_z_amateur


@triton.jit
def _survey(
    expert_row: tl.tensor,
    amateur_row: tl.tensor,
    vocab: tl.tensor,
    numbers: tl.tuple,
    SAMPLE: tl.constexpr,
    CONTRAST: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The best score and the head's size."""
    best = tl.full((), float("-inf"), tl.float32)
    head_size = tl.full((), 0, tl.int64)
    for begin in range(0, vocab, BLOCK):
        head, score = _block_scores(
            expert_row, amateur_row, begin, vocab, numbers, SAMPLE, CONTRAST, EPSILON, BLOCK
        )
        best = tl.maximum(best, tl.max(score, axis=0))
        head_size += tl.sum(head.to(tl.int32), axis=0).to(tl.int64)
    return best, head_size


@triton.jit
def _weigh(
    expert_row: tl.tensor,
    amateur_row: tl.tensor,
    vocab: tl.tensor,
    best: tl.tensor,
    numbers: tl.tuple,
    SAMPLE: tl.constexpr,
    CONTRAST: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
) -> tl.tensor:
    """The mass of every block and their sum from front to back, float64; the best score weighs 1."""
    number = tl.arange(0, NUM_BLOCKS)
    mass_of_block = tl.zeros((NUM_BLOCKS,), tl.float64)
    total = tl.full((), 0.0, tl.float64)
    for begin in range(0, vocab, BLOCK):
        _head, score = _block_scores(
            expert_row, amateur_row, begin, vocab, numbers, SAMPLE, CONTRAST, EPSILON, BLOCK
        )
        mass = tl.sum(tl.exp(score.to(tl.float64) - best), axis=0)
        mass_of_block = tl.where(number == begin // BLOCK, mass, mass_of_block)
        total += mass
    return mass_of_block, total


@triton.jit
def _find_block(mass_of_block: tl.tensor, target: tl.tensor, NUM_BLOCKS: tl.constexpr) -> tl.tensor:
    """The first block whose cumulative mass passes the target, and the mass before it.

    The same additions in the same order as in `_weigh` end at exactly its total, so a target below that is
    always passed; only in a row of NaN it is not, which the engine reports: then the block is 0.
    """
    number = tl.arange(0, NUM_BLOCKS)
    running = tl.full((), 0.0, tl.float64)
    before = tl.full((), 0.0, tl.float64)
    chosen = tl.full((), -1, tl.int32)
    for block in range(NUM_BLOCKS):
        after = running + tl.sum(tl.where(number == block, mass_of_block, 0.0), axis=0)
        passed = (chosen < 0) & (after > target)
        before = tl.where(passed, running, before)
        chosen = tl.where(passed, block, chosen)
        running = after
    return tl.maximum(chosen, 0), before


@triton.jit
def _draw(
    expert_ptr: tl.tensor,
    amateur_ptr: tl.tensor,
    uniform_ptr: tl.tensor,
    token_ptr: tl.tensor,
    logp_expert_ptr: tl.tensor,
    logp_amateur_ptr: tl.tensor,
    head_size_ptr: tl.tensor,
    expert_stride: tl.tensor,
    amateur_stride: tl.tensor,
    vocab: tl.tensor,
    temperature: tl.tensor,
    hot: tl.tensor,
    log_alpha: tl.tensor,
    lam: tl.tensor,
    epsilon: tl.tensor,
    score_temperature: tl.tensor,
    SAMPLE: tl.constexpr,
    CONTRAST: tl.constexpr,
    AMATEUR: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
) -> None:
    """One row: see the module. `log_alpha` comes multiplied by the temperature."""
    row = tl.program_id(0).to(tl.int64)  # rows times vocabulary may exceed 2^31
    expert_row = expert_ptr + row * expert_stride
    amateur_row = amateur_ptr + row * amateur_stride
    top, log_z_expert, log_z_amateur = _normalisers(
        expert_row, amateur_row, vocab, temperature, hot, AMATEUR, BLOCK
    )
    numbers = (
        top + log_alpha, temperature, hot, log_z_expert, log_z_amateur, lam, epsilon, score_temperature,
    )  # fmt: skip
    best, head_size = _survey(
        expert_row, amateur_row, vocab, numbers, SAMPLE, CONTRAST, EPSILON, BLOCK
    )
    mass_of_block, total = _weigh(
        expert_row, amateur_row, vocab, best, numbers, SAMPLE, CONTRAST, EPSILON, BLOCK, NUM_BLOCKS
    )
    target = tl.load(uniform_ptr + row) * total
    block, before = _find_block(mass_of_block, target, NUM_BLOCKS)

    begin = block * BLOCK
    _head, score = _block_scores(
        expert_row, amateur_row, begin, vocab, numbers, SAMPLE, CONTRAST, EPSILON, BLOCK
    )
    lane = tl.arange(0, BLOCK)
    mass = tl.exp(score.to(tl.float64) - best)
    reached = (before + tl.cumsum(mass, axis=0) > target) & (mass > 0)
    slot = tl.min(tl.where(reached, lane, BLOCK), axis=0)
    # Rounding can leave this sum a little under the target: then the block's last token.
    last = tl.max(tl.where(mass > 0, lane, 0), axis=0)
    token = (begin + tl.where(slot < BLOCK, slot, last)).to(tl.int64)

    raw = tl.load(expert_row + token).to(tl.float32)
    tl.store(token_ptr + row, token)
    tl.store(logp_expert_ptr + row, tl.div_rn(raw, temperature) - log_z_expert)
    tl.store(head_size_ptr + row, head_size)
    if AMATEUR:
        other = tl.load(amateur_row + token).to(tl.float32)
        logp = tl.div_rn(other, hot) - log_z_amateur
        tl.store(logp_amateur_ptr + row, tl.where(logp < _FLOOR, _FLOOR, logp))
