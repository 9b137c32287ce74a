"""What a recipe reads from disk, found and hashed before any work."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.builders.also import Also, open_also
from cdgen.builders.evaluation import EvaluationTexts, open_evaluation
from cdgen.builders.found import find_sources
from cdgen.builders.given import check_layer, check_tokenizer, check_vocabulary
from cdgen.builders.snapshots import snapshot
from cdgen.errors import UsageError
from cdgen.recipes.digests import Inputs
from cdgen.recipes.load import RecipeFile
from cdgen.recipes.schema import EarlyExitAmateur, Expert, HubModel, ModelAmateur, WeightedModel
from cdgen.storage import sha256_file
from cdgen.text.tokenizer import FILES as TOKENIZER_FILES
from cdgen.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Paths and content hashes of a recipe's inputs."""

    sources: Mapping[str, Path | None]
    """By name; None for a dataset on the Hub."""
    tokenizer: Path | None
    expert: Path | None
    amateur: Path | None
    models: tuple[Path | None, ...]
    """Of each of `decode.models`; None for one that is not given there."""
    also: tuple[Also, ...]
    evaluation: tuple[EvaluationTexts, ...]
    hashes: Inputs


def resolve(file: RecipeFile) -> Resolved:
    """Find and hash every input of a recipe.

    Raises:
        UsageError: an input is not there, or a model folder has no safetensors weights.
    """
    recipe = file.recipe
    sources = find_sources(file)
    expert = _model(file, recipe.expert, "expert")
    amateur = None
    if isinstance(recipe.amateur, ModelAmateur):
        amateur = _model(file, recipe.amateur, "amateur")
    if isinstance(recipe.amateur, EarlyExitAmateur) and expert is not None:
        check_layer(expert, recipe.amateur.layer, file.at(("amateur", "layer")))
    models = tuple(
        _model(file, found, "decode", "models", i)
        for i, found in enumerate(recipe.decode.models or ())
    )
    tokenizer = _tokenizer(file, expert)
    if tokenizer is not None:
        known = check_tokenizer(tokenizer, _at(file, "tokenizer" if recipe.tokenizer else "expert"))
        check_vocabularies(file, known, expert=expert, amateur=amateur, models=models)
    also = open_also(file)
    evaluation = open_evaluation(file)
    hashes = Inputs(
        sources={name: found.sha256 for name, found in sources.items()},
        tokenizer=_folder_sha256(tokenizer, TOKENIZER_FILES) if tokenizer else None,
        expert=weights_sha256(expert) if expert else None,
        amateur=weights_sha256(amateur) if amateur else None,
        models=tuple(weights_sha256(folder) if folder else None for folder in models),
        also=tuple(corpus.info.corpus for corpus in also),
        evaluation=tuple(one.sha256 for one in evaluation),
    )
    return Resolved(
        sources={name: found.path for name, found in sources.items()},
        tokenizer=tokenizer,
        expert=expert,
        amateur=amateur,
        models=models,
        also=also,
        evaluation=evaluation,
        hashes=hashes,
    )


def check_vocabularies(
    file: RecipeFile,
    tokenizer: Tokenizer,
    *,
    expert: Path | None,
    amateur: Path | None,
    models: Sequence[Path | None],
) -> None:
    """`check_vocabulary` of every given model."""
    given: list[tuple[Path | None, tuple[str | int, ...]]] = [(expert, ("expert",))]
    given += [(amateur, ("amateur",))]
    given += [(folder, ("decode", "models", i)) for i, folder in enumerate(models)]
    for folder, where in given:
        if folder is not None:
            check_vocabulary(folder, tokenizer, _at(file, *where))


def _at(file: RecipeFile, *where: str | int) -> str:
    """`file:line:column: field` of what names a model or tokenizer."""
    given: Any = file.recipe
    for part in where:
        given = given[part] if isinstance(part, int) else getattr(given, part)
    return file.at((*where, "hf" if given.hf else "path"))


def _folder(
    file: RecipeFile, path: Path | None, hf: HubModel | None, *where: str | int
) -> Path | None:
    """The folder of a given model or tokenizer; None when it is trained here."""
    if hf is not None:
        return snapshot(hf, _at(file, *where), weights=where != ("tokenizer",))
    return None if path is None else file.resolve(path)


def _model(
    file: RecipeFile, given: Expert | ModelAmateur | WeightedModel, *where: str | int
) -> Path | None:
    folder = _folder(file, given.path, given.hf, *where)
    if folder is None:
        return None
    hint = "" if given.hf else "; paths are relative to the recipe"
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{_at(file, *where)}: no model in {folder} (config.json is missing){hint}"
        )
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"{_at(file, *where)}: no safetensors weights in {folder}; pickled weights are not loaded, "
            "save them again with save_pretrained(…, safe_serialization=True)"
        )
    return folder


def _tokenizer(file: RecipeFile, expert: Path | None) -> Path | None:
    """The folder of a given tokenizer; None when it is trained here."""
    spec, role = file.recipe.tokenizer, "tokenizer"
    if spec is None:
        folder, role = expert, "expert"
    else:
        folder = _folder(file, spec.path, spec.hf, role)
    if folder is not None and not (folder / TOKENIZER_FILES[0]).is_file():
        raise UsageError(
            f"{_at(file, role)}: no tokenizer in {folder} ({TOKENIZER_FILES[0]} is missing)"
        )
    return folder


def weights_sha256(folder: Path) -> str:
    """The hash of a given model: of its config.json and its weights."""
    names = ["config.json", *sorted(path.name for path in folder.glob("*.safetensors"))]
    return _folder_sha256(folder, names)


def _folder_sha256(folder: Path, names: list[str] | tuple[str, ...]) -> str:
    """One hash over the named files that are there."""
    total = hashlib.sha256()
    for name in names:
        if (folder / name).is_file():
            total.update(f"{name}\0{sha256_file(folder / name)}\n".encode())
    return total.hexdigest()
