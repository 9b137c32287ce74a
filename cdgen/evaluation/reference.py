"""The scorer that is obviously right: one text at a time, as the BabyLM pipeline defines it. The tests' reference."""

from typing import Any

import torch
from transformers import PreTrainedModel

from cdgen.evaluation.items import Option


@torch.inference_mode()
def log_probability(model: PreTrainedModel, tokenizer: Any, option: Option) -> float:
    """The sum of log p over the tokens that end after the option's start; the first token is predicted by nothing."""
    encoded = tokenizer(option.text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    logits_TV = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float()
    logp_TV = logits_TV.log_softmax(-1)
    start = option.start + offsets[0][0]
    return sum(float(logp_TV[i - 1, ids[i]]) for i in range(1, len(ids)) if offsets[i][1] > start)
