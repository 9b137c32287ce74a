"""The models of a build: expert, amateur and further ones, trained or found, and measured on the eval split."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdgen.builders.numeric_class import training_class
from cdgen.builders.stages import Build, TextRecord, mapped
from cdgen.errors import BuildError
from cdgen.recipes.digests import digest, training_digest
from cdgen.recipes.schema import CheckpointAmateur, ModelAmateur, ModelTraining, NgramAmateur
from cdgen.storage import atomic_write, canonical_json
from cdgen.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cdgen.training.pretrain import TrainingRun


MODELS = Path("work/models.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that decoding uses, and what is known of it.

    Attributes:
        folder: where transformers loads it from.
        step: of a checkpoint made here; 0 for a given model.
        sha256: of its weights (of the whole folder for a given model).
        perplexity, bits_per_byte: on the eval split; None where there is none.
    """

    folder: Path
    step: int
    sha256: str
    perplexity: float | None
    bits_per_byte: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a build; no amateur = None."""

    expert: Model
    amateur: Model | None
    further: tuple[Model, ...] = ()
    """Of `decode.further`, in the recipe's order."""


def model_stage(build: Build, record: TextRecord, tokenizer: Tokenizer) -> Models:
    """Expert and amateur: trained or found, and measured on the eval split."""
    recipe, inputs = build.recipe, build.inputs
    run = None
    if recipe.expert.train is not None:
        run = _training(build, record, tokenizer, "expert", recipe.expert.train)
        expert = _checkpoint(run, recipe.expert.checkpoint)
    else:
        expert = _given(build, record, "expert", inputs.expert, inputs.hashes.expert)
    amateur = _amateur(build, record, tokenizer, run)
    return Models(expert=expert, amateur=amateur, further=_further(build, record, run))


def _amateur(
    build: Build, record: TextRecord, tokenizer: Tokenizer, run: "TrainingRun | None"
) -> Model | None:
    """An amateur with weights or counts of its own; None for one that is the expert, weakened."""
    inputs = build.inputs
    match build.recipe.amateur:
        case CheckpointAmateur(checkpoint=step):
            assert run is not None
            return _checkpoint(run, step)
        case ModelAmateur(train=None):
            return _given(build, record, "amateur", inputs.amateur, inputs.hashes.amateur)
        case ModelAmateur(train=train, checkpoint=choice):
            assert train is not None
            return _checkpoint(_training(build, record, tokenizer, "amateur", train), choice)
        case NgramAmateur(order=order):
            from cdgen.builders.ngrams import counted

            return counted(build, record, order)
        case _:
            return None


def _further(build: Build, record: TextRecord, run: "TrainingRun | None") -> tuple[Model, ...]:
    """The models of weighted_sum that are neither expert nor amateur."""
    found = []
    for number, spec in enumerate(build.recipe.decode.models or ()):
        if spec.checkpoint is not None:
            assert run is not None
            found.append(_checkpoint(run, spec.checkpoint))
        elif spec.model is None:
            folder, sha256 = build.inputs.models[number], build.inputs.hashes.models[number]
            found.append(_given(build, record, "model", folder, sha256))
    return tuple(found)


def note_models(build: Build, models: Models) -> None:
    """Keep where the models lie, for looking back at the corpus here; work/ is never published."""
    found = {"expert": models.expert, "amateur": models.amateur}
    kept = {role: str(model.folder.absolute()) if model else None for role, model in found.items()}
    further = [str(model.folder.absolute()) for model in models.further]
    atomic_write(build.out / MODELS, canonical_json({**kept, "further": further}))


def _training(
    build: Build, record: TextRecord, tokenizer: Tokenizer, role: str, train: ModelTraining
) -> "TrainingRun":
    """A finished training run: from the cache, or trained now."""
    from cdgen.training.pretrain import Vocabulary, open_run, pretrain

    named, numeric = _run_names(build, train)
    folder = _run_folder(build, train)
    run = open_run(folder)
    if run is not None:
        return run
    _need_text(record)
    with build.progress.stage(f"train {role}", total=train.steps, unit="step") as advance:
        return pretrain(
            train,
            Vocabulary(size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id),
            train=_blocks(build, record, "train", train.context, train.seed, shuffle=True),
            held_out=_held_out(build, record, train.context),
            work=build.out / "work" / f"training-{named[:8]}-{numeric[:8]}",
            out=folder,
            tokenizer_files={
                path.name: path.read_bytes() for path in sorted((build.out / "tokenizer").iterdir())
            },
            advance=advance,
        )


def untrained(build: Build) -> list[str]:
    """The roles whose training run is not in the cache."""
    from cdgen.training.pretrain import open_run

    runs = {"expert": build.recipe.expert.train, "amateur": build.recipe.amateur_training()}
    return [
        role
        for role, train in runs.items()
        if train is not None and open_run(_run_folder(build, train)) is None
    ]


def _run_names(build: Build, train: ModelTraining) -> tuple[str, str]:
    """The digest of a training run, and that of the numeric class it has here."""
    named = training_digest(build.digests.text, train)
    return named, digest("class", **training_class(train))


def _run_folder(build: Build, train: ModelTraining) -> Path:
    named, numeric = _run_names(build, train)
    return build.cache / "models" / f"{named[:32]}-{numeric[:8]}"


def _need_text(record: TextRecord) -> None:
    for split in ("train", "eval"):
        if not record.split(split):
            raise BuildError(
                f"the {split} split has no documents; raise text.splits.{split} or give more text"
            )


def _blocks(
    build: Build, record: TextRecord, split: str, block: int, seed: int, *, shuffle: bool
) -> Any:
    from cdgen.streaming.blocks import Blocks

    return Blocks(
        [mapped(build.out, receipt) for receipt in record.split(split)], block, seed, shuffle
    )


def _held_out(build: Build, record: TextRecord, context: int) -> Any:
    from cdgen.training.perplexity import HeldOut

    blocks = _blocks(build, record, "eval", context, 0, shuffle=False)
    return HeldOut(blocks, sum(receipt.num_text_bytes for receipt in record.split("eval")))


def _checkpoint(run: "TrainingRun", choice: int | str | None) -> Model:
    kept = run.pick(choice)
    return Model(
        folder=run.path(kept.step),
        step=kept.step,
        sha256=kept.sha256,
        perplexity=kept.perplexity,
        bits_per_byte=kept.bits_per_byte,
    )


def _given(
    build: Build, record: TextRecord, role: str, folder: Path | None, sha256: str | None
) -> Model:
    """A given model, measured once on this corpus's eval split."""
    assert folder is not None and sha256 is not None
    kept = build.out / "work" / f"{role}-{sha256[:8]}-{build.digests.text[:8]}.json"
    if not kept.is_file():
        atomic_write(kept, canonical_json(_measure(build, record, role, folder)))
    measured = json.loads(kept.read_text(encoding="utf-8"))
    return Model(folder=folder, step=0, sha256=sha256, **measured)


def _measure(build: Build, record: TextRecord, role: str, folder: Path) -> dict[str, float | None]:
    if not record.split("eval"):
        return {"perplexity": None, "bits_per_byte": None}
    import torch

    from cdgen.decode.models import load
    from cdgen.training.perplexity import perplexity

    torch.set_num_threads(build.recipe.generate.threads)
    with build.progress.stage(f"measure {role}", total=None, unit="model"):
        model = load(folder, dtype=torch.float32, device=torch.device("cpu"))
        context = min(getattr(model.config, "max_position_embeddings", None) or 1024, 1024)
        measured = perplexity(
            model, _held_out(build, record, context), context=context, autocast=None
        )
    return {"perplexity": measured.perplexity, "bits_per_byte": measured.bits_per_byte}
