"""What people run today, on the same weights and rows: the reference study's loop, and transformers' generate.

A whole batch would take minutes, so a step's time is measured at five lengths from the prefix's to the whole row's
and integrated in between (it grows nearly linearly with the length).
"""

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StaticCache,
)

from cdgen.decode.bench.pairs import Size, pair_of
from cdgen.decode.models import cache_argument_of

LENGTHS = 5
STEPS = 6
ALPHA, OUTSIDE, EPSILON = 0.1, -20.0, 1e-10
"""Paper sections 1.2 to 1.4."""


def reference_loop(size: Size) -> dict[str, float]:
    """The study's decoding, written from its description (paper section 1), in float32: seconds a batch takes."""
    expert, amateur = pair_of(size, torch.float32)

    def timed(length: int) -> float:
        models = (
            (expert, DynamicCache(config=expert.config)),
            (amateur, DynamicCache(config=amateur.config)),
        )
        ids = _rows(size, length)
        logits = [_forward(model, cache, ids) for model, cache in models]
        begun = _now()
        for _ in range(STEPS):
            token_B = torch.multinomial(torch.softmax(contrast(*logits), dim=-1), 1)
            logits = [_forward(model, cache, token_B) for model, cache in models]
        return (_now() - begun) / STEPS

    return _integrated(size, timed)


def contrast(expert_BV: Tensor, amateur_BV: Tensor) -> Tensor:
    """Scores over the whole vocabulary, as the study computes them (paper section 1.1 to 1.4)."""
    expert_BV, amateur_BV = expert_BV.softmax(dim=-1), amateur_BV.softmax(dim=-1)
    head_BV = expert_BV > ALPHA * expert_BV.max(dim=-1, keepdim=True).values
    score_BV = torch.log(expert_BV + EPSILON) - torch.log(amateur_BV + EPSILON)
    return score_BV.masked_fill(~head_BV, OUTSIDE)


class _Amateur(LogitsProcessor):  # type: ignore[no-any-unimported,misc,unused-ignore]
    """The amateur inside `generate`, as its interface allows: with a cache of its own."""

    def __init__(self, model: PreTrainedModel, cache: Any) -> None:
        self.model, self.cache, self.seen = model, cache, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Contrastive scores in place of the expert's logits."""
        amateur_BV = _forward(self.model, self.cache, input_ids[:, self.seen :])
        self.seen = input_ids.shape[1]
        return contrast(scores, amateur_BV)


def generate(size: Size, *, static: bool) -> dict[str, float]:
    """`generate()` with the amateur in a logits processor, in float32, sampling: seconds a batch takes."""
    expert, amateur = pair_of(size, torch.float32)

    def cache(model: PreTrainedModel) -> Any:
        if static:
            return StaticCache(config=model.config, max_cache_len=size.length + STEPS + 1)
        return DynamicCache(config=model.config)

    def run(length: int, steps: int) -> float:
        processors = LogitsProcessorList([_Amateur(amateur, cache(amateur))])
        ids = _rows(size, length)
        argument: Any = {cache_argument_of(expert): cache(expert)}
        begun = _now()
        cast(Any, expert).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **argument,
            logits_processor=processors,
            do_sample=True,
            top_k=0,
            max_new_tokens=steps,
            min_new_tokens=steps,
            pad_token_id=0,
        )
        return _now() - begun

    def timed(length: int) -> float:
        run(length, 1)
        return (run(length, STEPS + 1) - run(length, 1)) / STEPS

    return _integrated(size, timed)


@torch.inference_mode()
def _integrated(size: Size, step_seconds: Callable[[int], float]) -> dict[str, float]:
    """Seconds and tokens per second of a batch, from a step's time at a few lengths."""
    step_seconds(size.prefix_tokens)  # warm
    span = size.new_tokens - 1
    lengths = [size.prefix_tokens + round(span * i / (LENGTHS - 1)) for i in range(LENGTHS)]
    each = [step_seconds(length) for length in lengths]
    mean = (sum(each) - (each[0] + each[-1]) / 2) / (LENGTHS - 1)
    seconds = mean * size.new_tokens
    return {"seconds": seconds, "tokens_per_s": size.rows / mean}


def _rows(size: Size, length: int) -> Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, size.vocab, (size.rows, length), generator=generator).to(device)


def _forward(model: PreTrainedModel, cache: Any, ids: Tensor) -> Tensor:
    argument: Any = {cache_argument_of(model): cache}
    with torch.inference_mode():
        out = model(ids, use_cache=True, logits_to_keep=1, **argument)
    logits: Tensor = out.logits[:, -1]
    return logits.float()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
