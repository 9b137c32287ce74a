"""What a recipe reads from disk, found and hashed before any work."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.builders.also import Also, open_also
from cdgen.builders.bucket_models import bucket_folder
from cdgen.builders.evaluation import EvaluationTexts, open_evaluation
from cdgen.builders.fetch import sha256_once
from cdgen.builders.found import find_sources
from cdgen.builders.given import check_layer, check_tokenizer, check_vocabulary
from cdgen.builders.snapshots import snapshot
from cdgen.errors import UsageError
from cdgen.progress import Progress
from cdgen.recipes.digests import Inputs
from cdgen.recipes.load import RecipeFile
from cdgen.recipes.schema import (
    EarlyExitAmateur,
    Expert,
    ModelAmateur,
    TokenizerSpec,
    WeightedModel,
)
from cdgen.storage.cache import default_cache
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


def resolve(
    file: RecipeFile, cache: Path | None = None, progress: Progress | None = None
) -> Resolved:
    """Find and hash every input of a recipe.

    Args:
        file: the recipe.
        cache: where models out of object stores are kept; $CDGEN_CACHE by default.
        progress: hears of their downloads.

    Raises:
        UsageError: an input is not there, or a model folder has no safetensors weights.
        BuildError: a model cannot be fetched.
    """
    recipe, given = file.recipe, _Given(file, cache or default_cache(), progress)
    sources = find_sources(file)
    expert = given.model(recipe.expert, "expert")
    amateur = None
    if isinstance(recipe.amateur, ModelAmateur):
        amateur = given.model(recipe.amateur, "amateur")
    if isinstance(recipe.amateur, EarlyExitAmateur) and expert is not None:
        check_layer(expert, recipe.amateur.layer, file.at(("amateur", "layer")))
    models = tuple(
        given.model(found, "decode", "models", i)
        for i, found in enumerate(recipe.decode.models or ())
    )
    tokenizer = given.tokenizer(expert)
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


@dataclass(frozen=True, slots=True)
class _Given:
    """Finds given models and tokenizers: in a folder, on the Hub, in an object store."""

    file: RecipeFile
    cache: Path
    progress: Progress | None

    def model(self, given: Expert | ModelAmateur | WeightedModel, *where: str | int) -> Path | None:
        """The folder of a model; None when it is trained here."""
        folder = self._folder(given, *where)
        if folder is None:
            return None
        hint = "" if given.hf else "; paths are relative to the recipe"
        at = _at(self.file, *where)
        if not (folder / "config.json").is_file():
            raise UsageError(f"{at}: no model in {folder} (config.json is missing){hint}")
        if not any(folder.glob("*.safetensors")):
            raise UsageError(
                f"{at}: no safetensors weights in {folder}; pickled weights are not loaded, "
                "save them again with save_pretrained(…, safe_serialization=True)"
            )
        return folder

    def tokenizer(self, expert: Path | None) -> Path | None:
        """The folder of a given tokenizer; None when it is trained here."""
        spec, role = self.file.recipe.tokenizer, "tokenizer"
        if spec is None:
            folder, role = expert, "expert"
        else:
            folder = self._folder(spec, role)
        if folder is not None and not (folder / TOKENIZER_FILES[0]).is_file():
            named = getattr(self.file.recipe, role).path
            place = named if isinstance(named, str) else folder
            raise UsageError(
                f"{_at(self.file, role)}: no tokenizer in {place} ({TOKENIZER_FILES[0]} is missing)"
            )
        return folder

    def _folder(
        self, given: Expert | ModelAmateur | WeightedModel | TokenizerSpec, *where: str | int
    ) -> Path | None:
        weights = where != ("tokenizer",)
        if given.hf is not None:
            return snapshot(given.hf, _at(self.file, *where), weights=weights)
        if isinstance(given.path, str):
            at = _at(self.file, *where)
            return bucket_folder(
                given.path, at, weights=weights, cache=self.cache, progress=self.progress
            )
        return None if given.path is None else self.file.resolve(given.path)


def weights_sha256(folder: Path) -> str:
    """The hash of a given model: of its config.json and its weights."""
    names = ["config.json", *sorted(path.name for path in folder.glob("*.safetensors"))]
    return _folder_sha256(folder, names)


def _folder_sha256(folder: Path, names: list[str] | tuple[str, ...]) -> str:
    """One hash over the named files that are there."""
    total = hashlib.sha256()
    for name in names:
        if (folder / name).is_file():
            total.update(f"{name}\0{sha256_once(folder / name)}\n".encode())
    return total.hexdigest()
