"""`cdgen init`: a first recipe, with everything it needs beside it, so that it builds as it is."""

import os
import re
from pathlib import Path

from cdgen.errors import CdgenError, UsageError
from cdgen.recipes.json_schema import SCHEMA_FILES, schema_text
from cdgen.recipes.load import load_recipe
from cdgen.recipes.overrides import parse_override, set_in_text
from cdgen.recipes.schema import Recipe
from cdgen.resources import resource
from cdgen.storage import atomic_write

UNKNOWN_LICENSE = "LicenseRef-unknown"
_STARTER = Path(__file__).with_name("starter.yaml")
_TALES = ("fairytales.txt.zst", "NOTICE.md")


def init(file: Path, text: Path | None = None) -> list[Path]:
    """Write a commented recipe that builds; returns the files that were written, the recipe first.

    Its text is the packaged fairy tales, copied beside the recipe with their licence notice, or a file of the user's.
    The recipe's JSON Schema is put beside it for editors.

    Args:
        file: the recipe to be written.
        text: the user's text; its licence is left for the user to name.

    Raises:
        UsageError: the recipe is there already, another file stands where the tales would go, or there is no such
            text. Nothing is written then.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{file}: a recipe's name ends in .yaml")
    if file.exists():
        raise UsageError(f"{file}: is there already; name another file, or remove this one first")
    wanted = {file.parent / SCHEMA_FILES["recipe"]: schema_text(Recipe).encode()}
    if text is None:
        recipe = _named(_STARTER.read_text(encoding="utf-8"), file)
        wanted |= _tales(file.parent / "tales")
    else:
        recipe = _with_text(_named(_STARTER.read_text(encoding="utf-8"), file), file, text)
    return [_checked(file, recipe), *_written(wanted)]


def _checked(file: Path, recipe: str) -> Path:
    """Write the recipe; nothing stays when it is not valid."""
    atomic_write(file, recipe.encode())
    try:
        load_recipe(file)
    except CdgenError as error:
        file.unlink()
        raise UsageError(f"nothing was written: {error}") from None
    return file


def _written(wanted: dict[Path, bytes]) -> list[Path]:
    new = {path: content for path, content in wanted.items() if not _holds(path, content)}
    for path, content in new.items():
        atomic_write(path, content)
    return list(new)


def _tales(folder: Path) -> dict[Path, bytes]:
    """The packaged text and its notice, where they go; UsageError when something else is there."""
    packaged = resource("recipes", "quickstart").parent / "quickstart"
    wanted = {folder / name: (packaged / name).read_bytes() for name in _TALES}
    for path, content in wanted.items():
        if path.exists() and not _holds(path, content):
            raise UsageError(
                f"{path}: another file is there; choose another folder, or give --text"
            )
    return wanted


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _named(recipe: str, file: Path) -> str:
    return set_in_text(recipe, parse_override(f"name={_name(file.stem) or 'starter'}"))


def _with_text(recipe: str, file: Path, text: Path) -> str:
    """The recipe on the user's text instead of the tales."""
    if not text.is_file():
        raise UsageError(f"{text}: no such text file")
    name = text.name.partition(".")[0]
    beside = os.path.relpath(text, file.parent)
    path = str(text.absolute()) if beside.startswith("../..") else beside
    source = {
        "name": _name(name) or "text",
        "path": path,
        "license": UNKNOWN_LICENSE,
    }
    for field, value in source.items():
        quoted = value.replace("'", "''")
        recipe = set_in_text(recipe, parse_override(f"text.sources[0].{field}='{quoted}'"))
    about = f"{name}, with three tenths written by contrastive decoding.".replace("'", "''")
    return set_in_text(recipe, parse_override(f"description='{about}'"))


def _name(text: str) -> str:
    """The nearest name that a recipe may have; "" when nothing is left."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:64]
