"""`cdgen init`: a first recipe, with everything it needs beside it, so that it builds as it is."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from cdgen.errors import CdgenError, UsageError
from cdgen.recipes.json_schema import SCHEMA_FILES, schema_text
from cdgen.recipes.load import load_recipe
from cdgen.recipes.overrides import flow, parse_override, set_in_text
from cdgen.recipes.schema import HubModel, Recipe
from cdgen.resources import collection, resource
from cdgen.storage import atomic_write

UNKNOWN_LICENSE = "LicenseRef-unknown"
_STARTER = Path(__file__).with_name("starter.yaml")
_GIVEN = Path(__file__).with_name("starter_given.yaml")
_TIME = ", in a few minutes on two CPU cores"  # what a given expert takes is not known
_TALES = ("fairytales.txt.zst", "NOTICE.md")


@dataclass(frozen=True, slots=True)
class GivenExpert:
    """What a recipe has to know of a model that is its expert."""

    place: HubModel | Path
    layers: int
    """Transformer blocks."""
    positions: int | None
    """Tokens of the longest sequence; None = not said."""
    has_exits: bool
    """Whether a middle layer can be read through the last norm and head."""
    license: str | None
    """An SPDX id, or LicenseRef-…; None = its card does not say."""


def init(file: Path, text: Path | None = None, expert: GivenExpert | None = None) -> list[Path]:
    """Write a commented recipe that builds; returns the files that were written, the recipe first.

    Its text is the packaged fairy tales, copied beside the recipe with their licence notice, or a file of the user's.
    The recipe's JSON Schema is put beside it for editors.

    Args:
        file: the recipe to be written.
        text: the user's text; its licence is left for the user to name.
        expert: a model to be the expert, instead of one that is trained.

    Raises:
        UsageError: the recipe is there already, another file stands where the tales would go, or there is no such
            text. Nothing is written then.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{file}: a recipe's name ends in .yaml")
    if file.exists():
        raise UsageError(f"{file}: is there already; name another file, or remove this one first")
    wanted = {file.parent / SCHEMA_FILES["recipe"]: schema_text(Recipe).encode()}
    recipe = _named(_STARTER.read_text(encoding="utf-8"), file)
    if expert is not None:
        recipe = _with_expert(recipe, file, expert)
    if text is None:
        wanted |= _tales(file.parent / "tales")
    else:
        recipe = _with_text(recipe, file, text)
    return [_checked(file, recipe), *_written(wanted)]


def copy_collection(name: str, target: Path | None = None) -> list[Path]:
    """Copy a folder of packaged recipes to where its data can be put beside it; returns the files.

    Args:
        name: of the folder.
        target: a new folder; recipes/<name> by default, from where the recipes' relative paths lead to shards/ and
            runs/ of the folder one works in.

    Raises:
        UsageError: there is no such folder of recipes, or the target is there already.
    """
    source, target = collection(name), target or Path("recipes") / name
    if target.exists():
        raise UsageError(f"{target}: is there already; name a new folder")
    kept = (".yaml", ".md", ".py")
    files = sorted(path for path in source.rglob("*") if path.suffix in kept)
    wanted = {target / path.relative_to(source): path.read_bytes() for path in files}
    schemas = {path.name: path.read_bytes() for path in source.parent.glob("*.schema.json")}
    inside = {  # where they are, an editor finds the schemas one folder up
        path: content.replace(b"$schema=../", b"$schema=", 1) for path, content in wanted.items()
    }
    return _written(inside | {target / name: content for name, content in schemas.items()})


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
    source = {
        "name": _name(name) or "text",
        "path": _beside(file, text),
        "license": UNKNOWN_LICENSE,
    }
    for field, value in source.items():
        quoted = value.replace("'", "''")
        recipe = set_in_text(recipe, parse_override(f"text.sources[0].{field}='{quoted}'"))
    about = f"{name}, with three tenths written by contrastive decoding.".replace("'", "''")
    return set_in_text(recipe, parse_override(f"description='{about}'"))


def _beside(file: Path, path: Path) -> str:
    """A path as the recipe names it: relative to it, unless it lies far away."""
    beside = os.path.relpath(path, file.parent)
    return str(path.absolute()) if beside.startswith("../..") else beside


def _with_expert(recipe: str, file: Path, expert: GivenExpert) -> str:
    """The recipe with a given expert, and an amateur that is made from it."""
    place = expert.place
    if isinstance(place, HubModel):
        given: dict[str, Any] = {"hf": place.model_dump(mode="json")}
    else:
        given = {"path": _beside(file, place)}
    if expert.license is not None:
        given["license"] = expert.license
    about, amateur = _amateur(expert)
    filled = Template(_GIVEN.read_text(encoding="utf-8")).substitute(
        expert=flow(given), amateur=flow(amateur), about=about, license=_license(expert)
    )
    instead = {_key(one): one for one in _paragraphs(filled)} | {"tokenizer": None}
    kept = [instead.get(_key(one), one) for one in _paragraphs(recipe)]
    recipe = "\n\n".join(one for one in kept if one) + "\n"
    recipe = recipe.replace(_TIME, "")
    for option in _sizes(expert):
        recipe = set_in_text(recipe, parse_override(option))
    return recipe


def _paragraphs(recipe: str) -> list[str]:
    return recipe.strip("\n").split("\n\n")


def _key(paragraph: str) -> str:
    """The first field of a paragraph; "" for one of comments."""
    found = re.search(r"^(\w+):", paragraph, re.MULTILINE)
    return found[1] if found else ""


def _amateur(expert: GivenExpert) -> tuple[str, dict[str, Any]]:
    """(what it is, the field): a weaker model that needs no further weights."""
    if expert.has_exits and expert.layers > 1:
        layer = expert.layers // 2
        about = (
            f"The weak model: layer {layer} of the expert's {expert.layers}, read through its last norm and head, in\n"
            "# the same forward pass. A lower layer is weaker. `cdgen preview FILE` tells whether the contrast lives."
        )
        return about, {"kind": "early_exit", "layer": layer}
    about = (
        "The weak model: the expert without the prefix, but for its last token; what the prefix made more likely\n"
        "# wins. A second forward pass. `cdgen preview FILE` tells whether the contrast lives."
    )
    return about, {"kind": "truncated_context", "prefix_tokens": 1}


def _license(expert: GivenExpert) -> str:
    if expert.license is None:
        return "Its card names no licence:\n# find out, and write `license: …` beside it, before you publish."
    return "The licence is what its card says."


def _sizes(expert: GivenExpert) -> list[str]:
    """Changes for a model of few positions: shorter completions, and more of them, since as much text is needed."""
    generate = load_recipe(_STARTER).recipe.generate
    length = generate.prefix_tokens + generate.new_tokens
    if expert.positions is None or expert.positions >= length:
        return []
    if expert.positions < 2 * generate.prefix_tokens:
        raise UsageError(
            f"--from: the model has {expert.positions} positions; prefix and completion need at least "
            f"{2 * generate.prefix_tokens}"
        )
    wanted = math.ceil(generate.completions * length / expert.positions)
    rows = generate.rows_per_batch
    completions = next(count for count in range(wanted, rows + 1) if rows % count == 0)
    return [
        f"generate.new_tokens={expert.positions - generate.prefix_tokens}",
        f"generate.completions={completions}",
    ]


def _name(text: str) -> str:
    """The nearest name that a recipe may have; "" when nothing is left."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:64]
