"""The batched scorer against one text at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdgen.decode.models import load
from cdgen.errors import UsageError
from cdgen.evaluation.items import Option
from cdgen.evaluation.places import EvalData
from cdgen.evaluation.reference import log_probability
from cdgen.evaluation.scorer import Scorer, can_share
from cdgen.evaluation.tasks import CHOICE_TASKS, read_task
from cdgen.evaluation.tokens import TextEncoder

TASKS = [name for name in CHOICE_TASKS if name != "wordorder_icelandic"]


def all_options(data: Path) -> list[Option]:
    items = [item for task in TASKS for item in read_task(task, EvalData(data), None).items]
    return [option for item in items for option in item.options]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "window"])
def test_scores_are_those_of_one_text_at_a_time(
    kind: str, bos: bool, make_checkpoint: Callable[..., Path], data: Path
) -> None:
    folder = make_checkpoint(kind, bos=bos)
    model = load(folder, dtype=torch.float32, device=torch.device("cpu"))
    encoder, scorer = TextEncoder.load(folder), Scorer.of(model)
    options = all_options(data)
    plan = scorer.plan(encoder.sequences(options))
    assert plan.shares == (kind != "window")  # texts longer than its window are not shared
    expected = [log_probability(model, encoder.tokenizer, option) for option in options]
    np.testing.assert_allclose(scorer.sums(plan, lambda _: None), expected, atol=2e-4)


def test_sharing_runs_each_beginning_once(checkpoint: Path, data: Path) -> None:
    model = load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    sequences = TextEncoder.load(checkpoint).sequences(all_options(data))
    shared = Scorer(model, shares=True).plan(sequences)
    alone = Scorer(model, shares=False).plan(sequences)
    assert len(shared.rows.token_N) < 0.5 * len(alone.rows.token_N)
    one, other = (Scorer.of(model).sums(plan, lambda _: None) for plan in (shared, alone))
    np.testing.assert_allclose(one, other, atol=2e-4)


def test_order_of_texts_changes_nothing(checkpoint: Path, data: Path) -> None:
    model = load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    sequences = TextEncoder.load(checkpoint).sequences(all_options(data))
    scorer = Scorer.of(model)
    forwards = scorer.sums(scorer.plan(sequences), lambda _: None)
    backwards = scorer.sums(scorer.plan(sequences[::-1]), lambda _: None)
    assert forwards.tolist() == backwards[::-1].tolist()


def test_a_model_that_ignores_the_mask_is_found_out(checkpoint: Path) -> None:
    model = load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    assert can_share(model)
    inner = model.model.forward

    def deaf(*given: Any, **named: Any) -> Any:
        return inner(*given, **{**named, "attention_mask": None})

    model.model.forward = deaf
    assert not can_share(model)


def test_learned_positions_end(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint("gpt2")
    model = load(folder, dtype=torch.float32, device=torch.device("cpu"))
    sequences = TextEncoder.load(folder).sequences([Option("one two three " * 100)])
    with pytest.raises(
        UsageError, match=r"tokens is longer than the 128 positions of this GPT2LMHeadModel"
    ):
        Scorer.of(model).plan(sequences)


def test_a_text_of_one_token_costs_nothing(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint(bos=False)
    model = load(folder, dtype=torch.float32, device=torch.device("cpu"))
    scorer = Scorer.of(model)
    plan = scorer.plan(TextEncoder.load(folder).sequences([Option("a"), Option("the ball")]))
    sums = scorer.sums(plan, lambda _: None)
    assert sums[0] == 0 and sums[1] < 0
