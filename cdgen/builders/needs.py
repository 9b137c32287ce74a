"""What a build needs from this machine: disk, memory, time. Part of `cdgen plan`, and the preflight of a build."""

import json
from dataclasses import dataclass
from pathlib import Path

from cdgen.builders.estimate import (
    Shape,
    check_disk,
    decoding_memory_bytes,
    free_disk_bytes,
    memory_bytes,
    shard_bytes,
    trained_shape,
    training_disk_bytes,
    training_memory_bytes,
)
from cdgen.builders.stages import Build
from cdgen.recipes.schema import ModelAmateur, NoAmateur
from cdgen.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Text in a form: samples, tokens, UTF-8 bytes."""

    num_samples: int
    num_tokens: int
    num_text_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a build takes, and what there is; None where it cannot be told.

    Attributes:
        shard_bytes: real, synthetic and mixed shards with their indexes.
        training_disk_bytes: of checkpoints while training; 0 for a given expert.
        free_disk_bytes: where the corpus will be.
        training_memory_bytes, decoding_memory_bytes: at their fullest; the process itself takes some 0.5 GB more.
        memory_bytes: the machine has.
        training_s, decoding_s: from a calibration on this machine, when it was asked for.
    """

    shard_bytes: int
    training_disk_bytes: int
    free_disk_bytes: int
    training_memory_bytes: int
    decoding_memory_bytes: int | None
    memory_bytes: int
    training_s: float | None
    decoding_s: float | None

    @property
    def fits(self) -> bool:
        """Whether disk and memory suffice, as far as can be told."""
        memory = max(self.training_memory_bytes, self.decoding_memory_bytes or 0)
        disk = self.shard_bytes + self.training_disk_bytes
        return memory <= self.memory_bytes and disk <= self.free_disk_bytes


def needs(
    work: Build, tokenizer: Tokenizer, real: Amount, drawn_tokens: int, *, timed: bool
) -> Needs:
    """What the whole build needs.

    Args:
        work: the build.
        tokenizer: its tokenizer.
        real: the train and eval text.
        drawn_tokens: synthetic tokens, prefixes included.
        timed: measure a few steps here, for the time; loads torch.
    """
    recipe, train = work.recipe, work.recipe.expert.train
    shapes = _shapes(work, tokenizer)
    training = (0, 0)
    if train is not None:
        shape = trained_shape(train, tokenizer.vocab_size)
        training = (training_disk_bytes(train, shape), training_memory_bytes(train, shape))
    seconds = _seconds(work, tokenizer, drawn_tokens) if timed else (None, None)
    return Needs(
        shard_bytes=corpus_bytes(work, tokenizer, real, drawn_tokens),
        training_disk_bytes=training[0],
        free_disk_bytes=free_disk_bytes(work.out),
        training_memory_bytes=training[1],
        decoding_memory_bytes=None
        if shapes is None
        else decoding_memory_bytes(recipe.generate, shapes),
        memory_bytes=memory_bytes(),
        training_s=seconds[0],
        decoding_s=seconds[1],
    )


def corpus_bytes(work: Build, tokenizer: Tokenizer, real: Amount, drawn_tokens: int) -> int:
    """Bytes of all shards: synthetic text is taken to be as dense as the real text."""
    recipe = work.recipe
    rows = drawn_tokens // (recipe.generate.prefix_tokens + recipe.generate.new_tokens)
    synthetic = Amount(
        num_samples=rows,
        num_tokens=drawn_tokens,
        num_text_bytes=drawn_tokens * real.num_text_bytes // max(real.num_tokens, 1),
    )
    sizes = [
        shard_bytes(
            num_samples=amount.num_samples,
            num_tokens=amount.num_tokens,
            num_text_bytes=amount.num_text_bytes,
            vocab_size=tokenizer.vocab_size,
        )
        for amount in (real, synthetic)
    ]
    return sum(sizes) * (2 if recipe.mix.materialize else 1)


def check_space(work: Build, tokenizer: Tokenizer, real: Amount, drawn_tokens: int) -> None:
    """Stop before training and decoding when the disk cannot hold what is still to be written (BuildError)."""
    whole = corpus_bytes(work, tokenizer, real, drawn_tokens)
    there = sum(path.stat().st_size for path in work.out.glob("data/*/*.tar"))
    train = work.recipe.expert.train
    training = 0
    if train is not None:
        training = training_disk_bytes(train, trained_shape(train, tokenizer.vocab_size))
    check_disk(work.out, max(whole - there, 0) + training, "the corpus")


def _shapes(work: Build, tokenizer: Tokenizer) -> list[Shape] | None:
    recipe = work.recipe
    if recipe.expert.train is not None:
        expert: Shape | None = trained_shape(recipe.expert.train, tokenizer.vocab_size)
    else:
        expert = _given_shape(work.inputs.expert)
    if isinstance(recipe.amateur, NoAmateur):
        return None if expert is None else [expert]
    amateur = expert
    if isinstance(recipe.amateur, ModelAmateur):
        amateur = _given_shape(work.inputs.amateur)
    return None if expert is None or amateur is None else [expert, amateur]


def _given_shape(folder: Path | None) -> Shape | None:
    """From a model's configuration and the size of its weights; None for a configuration of another kind."""
    assert folder is not None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads = config.get("num_attention_heads")
    hidden, layers = config.get("hidden_size"), config.get("num_hidden_layers")
    if not all(isinstance(value, int) and value > 0 for value in (heads, hidden, layers)):
        return None
    number = 2 if config.get("dtype", config.get("torch_dtype")) in ("bfloat16", "float16") else 4
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    head_size = config.get("head_dim") or hidden // heads
    return Shape(
        parameters=weights // number,
        layers=layers,
        kv_width=head_size * (config.get("num_key_value_heads") or heads),
        vocab_size=int(config.get("vocab_size", 0)),
    )


def _seconds(
    work: Build, tokenizer: Tokenizer, drawn_tokens: int
) -> tuple[float | None, float | None]:
    """(seconds of training, seconds of decoding), from a few steps of each."""
    from cdgen.builders.calibrate import decoding_rate, training_rate
    from cdgen.training.pretrain import Vocabulary

    recipe, train = work.recipe, work.recipe.expert.train
    vocabulary = Vocabulary(
        size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
    )
    training = None
    if train is not None:
        training = train.steps * train.batch_tokens / training_rate(train, vocabulary)
    generate = recipe.generate
    new = drawn_tokens * generate.new_tokens / (generate.new_tokens + generate.prefix_tokens)
    given = (work.inputs.expert, work.inputs.amateur)
    return training, new / decoding_rate(recipe, vocabulary, given)
