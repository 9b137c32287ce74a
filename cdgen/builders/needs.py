"""What a build needs from this machine: disk, memory, time. Part of `cdgen plan`, and the preflight of a build."""

import json
from dataclasses import asdict, dataclass
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
from cdgen.recipes.schema import (
    EarlyExitAmateur,
    ModelAmateur,
    ModelTraining,
    NgramAmateur,
    NoAmateur,
    Recipe,
    TemperatureAmateur,
)
from cdgen.text.tokenizer import Tokenizer

COUNTING_BYTES = 70
"""Of memory per token of the train split, while its n-grams are counted."""
COUNTED_BYTES = 32
"""Of memory per order and token, at most: each sequence may be another."""


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
        decoding_path: how the expert runs here, in a few words, from the same calibration.
        gpu_memory_bytes: of the GPU that it would run on; None without one, and without a calibration.
    """

    shard_bytes: int
    training_disk_bytes: int
    free_disk_bytes: int
    training_memory_bytes: int
    decoding_memory_bytes: int | None
    memory_bytes: int
    training_s: float | None
    decoding_s: float | None
    decoding_path: str | None = None
    gpu_memory_bytes: int | None = None

    @property
    def fits(self) -> bool:
        """Whether disk and memory suffice, as far as can be told."""
        return self._suffice(max(self.training_memory_bytes, self.decoding_memory_bytes or 0))

    @property
    def driver_fits(self) -> bool:
        """The same, where others decode."""
        return self._suffice(self.training_memory_bytes)

    def _suffice(self, memory: int) -> bool:
        disk = self.shard_bytes + self.training_disk_bytes
        there = self.memory_bytes if self.gpu_memory_bytes is None else self.gpu_memory_bytes
        return memory <= there and disk <= self.free_disk_bytes

    @property
    def gpu_hours(self) -> float | None:
        """Hours of the one GPU that a build in this process uses; None without one."""
        if self.gpu_memory_bytes is None or self.decoding_s is None:
            return None
        return ((self.training_s or 0.0) + self.decoding_s) / 3600


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
    recipe = work.recipe
    shapes = _shapes(work, tokenizer)
    memory = [
        training_memory_bytes(train, trained_shape(train, tokenizer.vocab_size))
        for train in _trained(recipe)
    ]
    counting = counted = 0
    if isinstance(recipe.amateur, NgramAmateur):
        counting = COUNTING_BYTES * real.num_tokens
        counted = COUNTED_BYTES * recipe.amateur.order * real.num_tokens
    measured = _calibrated(work, tokenizer, drawn_tokens) if timed else _Calibrated()
    return Needs(
        shard_bytes=corpus_bytes(work, tokenizer, real, drawn_tokens),
        training_disk_bytes=_training_disk_bytes(recipe, tokenizer),
        free_disk_bytes=free_disk_bytes(work.out),
        training_memory_bytes=max([counting, *memory]),
        decoding_memory_bytes=None
        if shapes is None
        else decoding_memory_bytes(recipe.generate, shapes) + counted,
        memory_bytes=memory_bytes(),
        **asdict(measured),
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
    training = _training_disk_bytes(work.recipe, tokenizer)
    check_disk(work.out, max(whole - there, 0) + training, "the corpus")


def _trained(recipe: Recipe) -> list[ModelTraining]:
    """The training runs of a recipe: the expert's, the amateur's."""
    runs = (recipe.expert.train, recipe.amateur_training())
    return [train for train in runs if train is not None]


def _training_disk_bytes(recipe: Recipe, tokenizer: Tokenizer) -> int:
    """Of all training runs: the cache keeps them."""
    return sum(
        training_disk_bytes(train, trained_shape(train, tokenizer.vocab_size))
        for train in _trained(recipe)
    )


def _shapes(work: Build, tokenizer: Tokenizer) -> list[Shape] | None:
    recipe = work.recipe
    if recipe.expert.train is not None:
        expert: Shape | None = trained_shape(recipe.expert.train, tokenizer.vocab_size)
    else:
        expert = _given_shape(work.inputs.expert)
    shapes = [expert]
    match recipe.amateur:
        case NoAmateur():
            pass
        case EarlyExitAmateur() | TemperatureAmateur() | NgramAmateur():  # logits and no more
            logits = Shape(parameters=0, layers=0, kv_width=0, vocab_size=tokenizer.vocab_size)
            shapes.append(logits)
        case ModelAmateur(train=None):
            shapes.append(_given_shape(work.inputs.amateur))
        case ModelAmateur(train=train):
            assert train is not None
            shapes.append(trained_shape(train, tokenizer.vocab_size))
        case _:  # a model of the expert's shape, with a cache of its own
            shapes.append(expert)
    shapes += [_given_shape(folder) if folder else expert for folder in _further(work)]
    known = [shape for shape in shapes if shape is not None]
    return known if len(known) == len(shapes) else None


def _further(work: Build) -> list[Path | None]:
    """Folders of `decode.further`; None for a checkpoint of the expert's run."""
    models = work.recipe.decode.models or ()
    return [
        folder
        for folder, found in zip(work.inputs.models, models, strict=True)
        if found.model is None
    ]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibrated:
    """What a calibration tells; the fields of Needs of these names."""

    training_s: float | None = None
    decoding_s: float | None = None
    decoding_path: str | None = None
    gpu_memory_bytes: int | None = None


def _calibrated(work: Build, tokenizer: Tokenizer, drawn_tokens: int) -> _Calibrated:
    """Seconds of training and of decoding on this machine, from a few steps of each."""
    from cdgen.builders.calibrate import decoding_rate, gpu_memory_bytes, training_rate
    from cdgen.training.pretrain import Vocabulary

    recipe = work.recipe
    vocabulary = Vocabulary(
        size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
    )
    training = None
    if _trained(recipe):
        training = sum(
            train.steps * train.batch_tokens / training_rate(train, vocabulary)
            for train in _trained(recipe)
        )
    generate = recipe.generate
    new = drawn_tokens * generate.new_tokens / (generate.new_tokens + generate.prefix_tokens)
    given = (work.inputs.expert, work.inputs.amateur, *_further(work))
    rate, path = decoding_rate(recipe, vocabulary, given)
    return _Calibrated(
        training_s=training,
        decoding_s=new / rate,
        decoding_path=path,
        gpu_memory_bytes=gpu_memory_bytes(),
    )
