"""How long training and decoding will take here: a few real steps at the recipe's own shapes, random weights.

A decode step is timed in the middle of a row, where its attention is as long as it is on average.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from cdgen.builders.engines import open_engine
from cdgen.recipes.schema import ModelTraining, NoAmateur, Recipe
from cdgen.training.optimizer import make_optimizer
from cdgen.training.pretrain import Vocabulary, autocast_dtype, new_model

TRAIN_STEPS = 3
DECODE_STEPS = 6


def training_rate(
    spec: ModelTraining, vocabulary: Vocabulary, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Tokens per second of training, from a few whole steps.

    Args:
        spec: the recipe's training section.
        vocabulary: of its tokenizer.
        clock: seconds.
    """
    torch.set_num_threads(spec.threads)
    model = new_model(spec, vocabulary)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)  # type: ignore[arg-type]  # as its decorator hides the signature
    optimizer = make_optimizer(model, spec)
    micro = spec.micro_batch_tokens or spec.batch_tokens
    ids_BT = torch.randint(vocabulary.size, (micro // spec.context, spec.context), device=device)
    autocast = autocast_dtype(spec)

    def step() -> None:
        for _ in range(spec.batch_tokens // micro):
            with torch.autocast(
                device.type, autocast or torch.bfloat16, enabled=autocast is not None
            ):
                loss = model(input_ids=ids_BT, labels=ids_BT).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return spec.batch_tokens * _rate(step, TRAIN_STEPS, clock)


def decoding_rate(
    recipe: Recipe,
    vocabulary: Vocabulary,
    given: tuple[Path | None, Path | None],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Tokens drawn per second, from a few steps of one batch.

    Args:
        recipe: the recipe.
        vocabulary: of its tokenizer.
        given: folders of expert and amateur; None = trained here, so random weights of that shape stand for it.
        clock: seconds.
    """
    disable_progress_bar()  # of the writing of weights
    generate = recipe.generate
    half = (generate.prefix_tokens + generate.new_tokens) // 2
    short = recipe.model_copy(
        update={"generate": generate.model_copy(update={"new_tokens": DECODE_STEPS})}
    )
    with tempfile.TemporaryDirectory() as random:
        train = recipe.expert.train
        if train is not None:
            new_model(train, vocabulary).save_pretrained(random)
        expert = given[0] or Path(random)
        amateur = None if isinstance(recipe.amateur, NoAmateur) else given[1] or Path(random)
        engine = open_engine(short, expert=expert, amateur=amateur, eos_id=vocabulary.eos_id)
    prefixes = generate.rows_per_batch // generate.completions
    prefix_PT = np.full((prefixes, max(half, 1)), vocabulary.size - 1, np.int64)
    uniforms_BT = np.full((generate.rows_per_batch, DECODE_STEPS), 0.5)
    began: list[float] = []

    def run() -> None:
        began.clear()
        engine.decode(prefix_PT, uniforms_BT, on_step=lambda _: began.append(clock()))

    run()
    run()
    # The first step's time is the prefix's: a real row pays for that once.
    return generate.rows_per_batch * (DECODE_STEPS - 1) / (began[-1] - began[0])


def _rate(step: Callable[[], None], count: int, clock: Callable[[], float]) -> float:
    """Steps per second, after one that is not counted."""
    step()
    started = clock()
    for _ in range(count):
        step()
    return count / (clock() - started)
