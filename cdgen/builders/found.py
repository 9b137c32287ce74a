"""The sources of a recipe: where each one is, and the hash of its content, before any work."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import UsageError
from cdgen.recipes.digests import digest
from cdgen.recipes.load import RecipeFile
from cdgen.recipes.schema import Source
from cdgen.shards.manifest import manifest_digest
from cdgen.storage import sha256_file
from cdgen.text.sources import located_documents, open_source


@dataclass(frozen=True, slots=True)
class Found:
    """A source: its file or folder (None for a dataset on the Hub), and the hash of its content."""

    path: Path | None
    sha256: str


def find_sources(file: RecipeFile) -> dict[str, Found]:
    """Every source of a recipe, by name. The first document of each local one is read: most mistakes show there.

    Raises:
        UsageError: a file or folder is missing, is of another kind, or does not begin with a document.
    """
    sources = file.recipe.text.sources
    places = [_place(file, index, source) for index, source in enumerate(sources)]
    return {
        source.name: Found(path, _content(source, path))
        for source, path in zip(sources, places, strict=True)
    }


def _place(file: RecipeFile, index: int, source: Source) -> Path | None:
    if source.path is None:
        return None
    at = file.at(("text", "sources", index, "path"))
    path = file.resolve(source.path)
    folder = source.file_format in ("hf", "corpus")
    if folder and not path.is_dir():
        raise UsageError(f"{at}: no folder {path}; paths are relative to the recipe")
    if not folder and not path.is_file():
        advice = "; a folder needs format: corpus or hf" if path.is_dir() else ""
        raise UsageError(f"{at}: no file {path}; paths are relative to the recipe{advice}")
    try:
        next(located_documents(source, path), None)
    except UsageError as error:
        raise UsageError(f"{at}: {error}") from None
    return path


def _content(source: Source, path: Path | None) -> str:
    """sha256 hex of a source's content; of a dataset on the Hub: of what names it, its commit included."""
    if path is None:
        assert source.hf is not None
        return digest("hub dataset", **source.hf.model_dump(mode="json"))
    if source.file_format == "corpus":
        corpus, kind, split = open_source(source, path)
        return digest(
            "corpus", manifest=manifest_digest(corpus.manifest.shards), kind=kind, split=split
        )
    return _folder_sha256(path) if path.is_dir() else sha256_file(path)


def _folder_sha256(folder: Path) -> str:
    """One hash over the names and bytes of all files in a folder."""
    files = sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()
