"""What a recipe reads from disk, found and hashed before any work."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import UsageError
from cdgen.recipes.digests import Inputs
from cdgen.recipes.load import RecipeFile
from cdgen.recipes.schema import ModelAmateur
from cdgen.storage import sha256_file
from cdgen.text.tokenizer import FILES as TOKENIZER_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Paths and content hashes of a recipe's inputs."""

    sources: Mapping[str, Path]
    tokenizer: Path | None
    expert: Path | None
    amateur: Path | None
    hashes: Inputs


def resolve(file: RecipeFile) -> Resolved:
    """Find and hash every input of a recipe.

    Raises:
        UsageError: an input is not there, or a model folder has no safetensors weights.
    """
    recipe = file.recipe
    sources = {}
    for index, source in enumerate(recipe.text.sources):
        assert source.path is not None
        sources[source.name] = _file(file, ("text", "sources", index, "path"), source.path)
    expert = _model(file, ("expert", "path"), recipe.expert.path)
    amateur = None
    if isinstance(recipe.amateur, ModelAmateur):
        amateur = _model(file, ("amateur", "path"), recipe.amateur.path)
    tokenizer = _tokenizer(file, expert)
    hashes = Inputs(
        sources={name: sha256_file(path) for name, path in sources.items()},
        tokenizer=_folder_sha256(tokenizer, TOKENIZER_FILES) if tokenizer else None,
        expert=_weights_sha256(expert) if expert else None,
        amateur=_weights_sha256(amateur) if amateur else None,
    )
    return Resolved(
        sources=sources, tokenizer=tokenizer, expert=expert, amateur=amateur, hashes=hashes
    )


def _file(file: RecipeFile, field: tuple[str | int, ...], path: Path) -> Path:
    found = file.resolve(path)
    if not found.is_file():
        raise UsageError(f"{file.at(field)}: no file {found}; paths are relative to the recipe")
    return found


def _model(file: RecipeFile, field: tuple[str | int, ...], path: Path | None) -> Path | None:
    if path is None:
        return None
    folder = file.resolve(path)
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{file.at(field)}: no model in {folder} (config.json is missing); paths are relative to the recipe"
        )
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"{file.at(field)}: no safetensors weights in {folder}; pickled weights are not loaded, "
            "save them again with save_pretrained(…, safe_serialization=True)"
        )
    return folder


def _tokenizer(file: RecipeFile, expert: Path | None) -> Path | None:
    """The folder of a given tokenizer; None when it is trained here."""
    spec = file.recipe.tokenizer
    if spec is None:
        folder, field = expert, ("expert", "path")
    else:
        folder, field = (
            (None if spec.path is None else file.resolve(spec.path)),
            ("tokenizer", "path"),
        )
    if folder is not None and not (folder / TOKENIZER_FILES[0]).is_file():
        raise UsageError(
            f"{file.at(field)}: no tokenizer in {folder} ({TOKENIZER_FILES[0]} is missing)"
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
