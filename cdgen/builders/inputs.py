"""What a recipe reads from disk, found and hashed before any work."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdgen.builders.also import Also, open_also
from cdgen.builders.evaluation import EvaluationTexts, open_evaluation
from cdgen.builders.found import find_sources
from cdgen.builders.given import check_tokenizer, check_vocabulary
from cdgen.builders.snapshots import snapshot
from cdgen.errors import UsageError
from cdgen.recipes.digests import Inputs
from cdgen.recipes.load import RecipeFile
from cdgen.recipes.schema import Expert, HubModel, ModelAmateur
from cdgen.storage import sha256_file
from cdgen.text.tokenizer import FILES as TOKENIZER_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Paths and content hashes of a recipe's inputs."""

    sources: Mapping[str, Path | None]
    """By name; None for a dataset on the Hub."""
    tokenizer: Path | None
    expert: Path | None
    amateur: Path | None
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
    expert = _model(file, "expert", recipe.expert)
    amateur = None
    if isinstance(recipe.amateur, ModelAmateur):
        amateur = _model(file, "amateur", recipe.amateur)
    tokenizer = _tokenizer(file, expert)
    if tokenizer is not None:
        known = check_tokenizer(tokenizer, _at(file, "tokenizer" if recipe.tokenizer else "expert"))
        for role, folder in (("expert", expert), ("amateur", amateur)):
            if folder is not None:
                check_vocabulary(folder, known, _at(file, role))
    also = open_also(file)
    evaluation = open_evaluation(file)
    hashes = Inputs(
        sources={name: found.sha256 for name, found in sources.items()},
        tokenizer=_folder_sha256(tokenizer, TOKENIZER_FILES) if tokenizer else None,
        expert=_weights_sha256(expert) if expert else None,
        amateur=_weights_sha256(amateur) if amateur else None,
        also=tuple(corpus.info.corpus for corpus in also),
        evaluation=tuple(one.sha256 for one in evaluation),
    )
    return Resolved(
        sources={name: found.path for name, found in sources.items()},
        tokenizer=tokenizer,
        expert=expert,
        amateur=amateur,
        also=also,
        evaluation=evaluation,
        hashes=hashes,
    )


def _at(file: RecipeFile, role: str) -> str:
    """`file:line:column: field` of what names a model or tokenizer."""
    given = getattr(file.recipe, role)
    return file.at((role, "hf" if given.hf else "path"))


def _folder(file: RecipeFile, role: str, path: Path | None, hf: HubModel | None) -> Path | None:
    """The folder of a given model or tokenizer; None when it is trained here."""
    if hf is not None:
        return snapshot(hf, _at(file, role), weights=role != "tokenizer")
    return None if path is None else file.resolve(path)


def _model(file: RecipeFile, role: str, given: Expert | ModelAmateur) -> Path | None:
    folder = _folder(file, role, given.path, given.hf)
    if folder is None:
        return None
    hint = "" if given.hf else "; paths are relative to the recipe"
    if not (folder / "config.json").is_file():
        raise UsageError(f"{_at(file, role)}: no model in {folder} (config.json is missing){hint}")
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"{_at(file, role)}: no safetensors weights in {folder}; pickled weights are not loaded, "
            "save them again with save_pretrained(…, safe_serialization=True)"
        )
    return folder


def _tokenizer(file: RecipeFile, expert: Path | None) -> Path | None:
    """The folder of a given tokenizer; None when it is trained here."""
    spec, role = file.recipe.tokenizer, "tokenizer"
    if spec is None:
        folder, role = expert, "expert"
    else:
        folder = _folder(file, role, spec.path, spec.hf)
    if folder is not None and not (folder / TOKENIZER_FILES[0]).is_file():
        raise UsageError(
            f"{_at(file, role)}: no tokenizer in {folder} ({TOKENIZER_FILES[0]} is missing)"
        )
    return folder


def _weights_sha256(folder: Path) -> str:
    names = ["config.json", *sorted(path.name for path in folder.glob("*.safetensors"))]
    return _folder_sha256(folder, names)


def _folder_sha256(folder: Path, names: list[str] | tuple[str, ...]) -> str:
    """One hash over the named files that are there."""
    total = hashlib.sha256()
    for name in names:
        if (folder / name).is_file():
            total.update(f"{name}\0{sha256_file(folder / name)}\n".encode())
    return total.hexdigest()
