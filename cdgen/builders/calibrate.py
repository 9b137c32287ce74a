"""How long training and decoding will take here: a few real steps at the recipe's own shapes, random weights.

A decode step is timed in the middle of a row, where its attention is as long as it is on average.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from cdgen.builders.engines import open_engine
from cdgen.decode import ngram
from cdgen.recipes.schema import (
    CheckpointAmateur,
    ModelAmateur,
    ModelTraining,
    NgramAmateur,
    Recipe,
)
from cdgen.training.fit import autocast_dtype
from cdgen.training.optimizer import make_optimizer
from cdgen.training.pretrain import Vocabulary, new_model

TRAIN_STEPS = 3
DECODE_STEPS = 6
NGRAM_TOKENS = 100_000
"""Of the random text that stands for the train split where an n-gram model is timed."""


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
    given: Sequence[Path | None],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, str]:
    """Tokens drawn per second, from a few steps of one batch; and how the expert runs.

    Args:
        recipe: the recipe.
        vocabulary: of its tokenizer.
        given: folders of expert, amateur and further models; None = trained here, so random weights of that
            shape stand for it.
        clock: seconds.
    """
    disable_progress_bar()  # of the writing of weights
    generate = recipe.generate
    half = (generate.prefix_tokens + generate.new_tokens) // 2
    short = recipe.model_copy(
        update={"generate": generate.model_copy(update={"new_tokens": DECODE_STEPS})}
    )
    with tempfile.TemporaryDirectory() as scratch:
        random = Path(scratch, "expert")
        train = recipe.expert.train
        if train is not None:
            new_model(train, vocabulary).save_pretrained(random)
        engine = open_engine(
            short,
            expert=given[0] or random,
            amateur=given[1] or _random_amateur(recipe, vocabulary, Path(scratch)),
            further=[folder or random for folder in given[2:]],
            vocab_size=vocabulary.size,
            eos_id=vocabulary.eos_id,
        )
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
    rate = generate.rows_per_batch * (DECODE_STEPS - 1) / (began[-1] - began[0])
    return rate, engine.expert.path


def gpu_memory_bytes() -> int | None:
    """Of the GPU that training and decoding would use; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)


def _random_amateur(recipe: Recipe, vocabulary: Vocabulary, scratch: Path) -> Path | None:
    """What stands for an amateur that has yet to be made; None for one that is the expert, weakened."""
    match recipe.amateur:
        case CheckpointAmateur():
            return scratch / "expert"
        case ModelAmateur(train=train) if train is not None:
            new_model(train, vocabulary).save_pretrained(scratch / "amateur")
            return scratch / "amateur"
        case NgramAmateur(order=order):
            text_N = np.random.default_rng(0).integers(0, vocabulary.size, NGRAM_TOKENS)
            return ngram.save(ngram.count(text_N, order), scratch).parent
        case _:
            return None


def _rate(step: Callable[[], None], count: int, clock: Callable[[], float]) -> float:
    """Steps per second, after one that is not counted."""
    step()
    started = clock()
    for _ in range(count):
        step()
    return count / (clock() - started)
