"""From a YAML file to a checked recipe, or to one line that says what is wrong and where.

The node tree is read first, with positions; only then are values built and checked, so that every error can
name file, line, column and field. YAML from strangers is hostile: no tags, no aliases, a limited size and depth.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cdgen.errors import UsageError
from cdgen.recipes.nodes import FieldPath, Positions, compose, dotted, read_text, values_of
from cdgen.recipes.overrides import Override, dump, parse_overrides, set_in_text, set_in_tree
from cdgen.recipes.schema import Recipe

M = TypeVar("M", bound=BaseModel)

KINDS = {
    "text": ("recipe", "cdgen build"),
    "corpus": ("run file", "cdgen train"),
    "matrix": ("sweep", "cdgen sweep"),
    "engine": ("builder profile", "cdgen build RECIPE --builder"),
}
"""By the field that no other kind of file has: what it is, and the command that takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """A checked YAML file; relative paths in it are relative to it.

    Attributes:
        path: the file.
        positions: where each field stands.
    """

    path: Path
    positions: Positions

    def at(self, field: FieldPath) -> str:
        """`file:line:column: field`, for messages about a field's value."""
        return f"{self.positions.at(field)}: {dotted(field)}"

    def resolve(self, path: Path) -> Path:
        """The path as seen from the file's folder."""
        return path if path.is_absolute() else self.path.parent / path


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeFile(CheckedFile):
    """A checked recipe and the file it came from.

    Attributes:
        recipe: the recipe, with what was set on the command line.
        text: a recipe file's text that says the same: the file's own, with what was set put in its place.
    """

    recipe: Recipe
    text: str


def load_recipe(path: str | Path, set: Sequence[str] = ()) -> RecipeFile:  # noqa: A002 - the option's name
    """Read and check a recipe.

    Args:
        path: the file.
        set: changes such as `mix.synthetic=0.4` or `text.sources[0].path=other.txt`; each value is YAML, and a path
            is relative to the recipe like those in it.

    Raises:
        UsageError: one line, `file:line:column: field: what was found; what is allowed`.
    """
    file = Path(path)
    what = "recipe; `cdgen build quickstart` builds the packaged one"
    recipe, text, positions = load_strict(file, Recipe, what, set)
    if set:
        text = _effective(text, parse_overrides(set), recipe)
    return RecipeFile(recipe=recipe, path=file.absolute(), text=text, positions=positions)


def rewritten(path: Path, changes: Sequence[str]) -> str:
    """The text of a recipe file with `field=value` changes in their places, comments kept; it says nothing of them.

    Raises:
        UsageError: it is not a recipe, or would not be one.
    """
    kept, changed = load_recipe(path), load_recipe(path, changes)
    return _rewritten(kept.text, parse_overrides(changes), changed.recipe)


def load_strict(
    file: Path, model: type[M], what: str, changes: Sequence[str] = ()
) -> tuple[M, str, Positions]:
    """Read a YAML file as a strict model; (the model, the file's text, where each field stands).

    Args:
        file: the file.
        model: what it must be.
        what: names the kind of file when there is none: "no such <what>".
        changes: `field=value` options, made before anything is checked.
    """
    text = read_text(file, what)
    data, positions = _read(text, str(file), parse_overrides(changes))
    try:
        return model.model_validate(data), text, positions
    except ValidationError as error:
        other = _other_kind(data, model)
        raise UsageError(
            f"{file}: {other}" if other else _explain(error, model, positions)
        ) from None


def _other_kind(data: object, model: type[BaseModel]) -> str:
    """What a file is that was given in place of another kind; "" where it is not told by its fields."""
    told = [key for key in KINDS if isinstance(data, dict) and key in data]
    if len(told) != 1 or told[0] in model.model_fields:
        return ""
    kind, command = KINDS[told[0]]
    return f"is a {kind}; `{command}` takes it"


def _read(text: str, name: str, overrides: Sequence[Override] = ()) -> tuple[Any, Positions]:
    root = compose(text, name)
    if root is None:
        raise UsageError(f"{name}:1:1: the file is empty")
    for override in overrides:
        set_in_tree(root, override)
    return values_of(root)


def _effective(text: str, overrides: Sequence[Override], recipe: Recipe) -> str:
    """The text of a recipe file that is `recipe`: `text` with the overrides in it, comments kept.

    What the edited text says is read again. Where it is not the same recipe (YAML has more ways to write than
    `set_in_text` knows), the whole tree is written out instead, without comments.
    """
    note = f"# Set on the command line: {', '.join(dotted(item.path) for item in overrides)}."
    edited = _rewritten(text, overrides, recipe)
    return edited if note in edited else f"{edited.rstrip()}\n\n{note}\n"


def _rewritten(text: str, overrides: Sequence[Override], recipe: Recipe) -> str:
    edited = _edited(text, overrides)
    if edited is None or not _says(edited, recipe):
        data, _ = _read(text, "recipe", overrides)
        edited = dump(data)
    return edited


def _edited(text: str, overrides: Sequence[Override]) -> str | None:
    try:
        for override in overrides:
            text = set_in_text(text, override)
    except UsageError:  # an edit left something that is not YAML
        return None
    return text


def _says(text: str, recipe: Recipe) -> bool:
    try:
        return Recipe.model_validate(_read(text, "recipe")[0]) == recipe
    except (UsageError, ValidationError):
        return False


def _explain(error: ValidationError, model: type[BaseModel], positions: Positions) -> str:
    """The first error in file order, as one line; how many others there are."""
    groups: dict[FieldPath, list[Any]] = {}
    for item in error.errors(include_url=False):
        groups.setdefault(_locate(item, positions), []).append(item)
    lines = []
    for path, items in groups.items():
        if items[0]["type"] == "too_short" and any(
            path == other[: len(path)] != other for other in groups
        ):
            continue  # pydantic drops wrong items from a list, then misses them
        unknown = items[0]["type"] == "extra_forbidden"
        line = f"{positions.at(path, key=unknown)}: {_message(path, items, model, positions)}"
        lines.append((positions.order(path, key=unknown), line))
    lines.sort(key=lambda line: line[0])
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return lines[0][1] + more


def _locate(item: Any, positions: Positions) -> FieldPath:
    """The field an error is about: pydantic's location without the names of union members."""
    path: FieldPath = ()
    tagged: FieldPath | None = None
    for part in item["loc"]:
        kind = positions.nodes.get((*path, "kind"))
        if kind is not None and kind.value == part and tagged != path:
            tagged = path
        elif (*path, part) in positions.nodes:
            path = (*path, part)
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return (*path, "kind")
    if item["type"] == "missing":
        return (*path, item["loc"][-1])
    if item["type"] == "value_error":
        named = (*path, *str(item["ctx"]["error"]).split()[0].split("."))
        return named if named in positions.nodes else path
    return path


def _message(
    path: FieldPath, items: list[Any], model: type[BaseModel], positions: Positions
) -> str:
    first = items[0]
    name = dotted(path) or "the file"
    match first["type"]:
        case "extra_forbidden":
            return f"unknown field {name!r}{_suggestion(path, model)}"
        case "missing" | "union_tag_not_found":
            return f"{name} is missing"
        case "union_tag_invalid":
            return f"{name}: must be one of {first['ctx']['expected_tags']}, found {first['ctx']['tag']!r}"
        case "value_error":
            return (
                str(first["ctx"]["error"])
                if not first["loc"]
                else f"{name}: {first['ctx']['error']}"
            )
    allowed = " or ".join(dict.fromkeys(_allowed(item) for item in items)).replace(
        " or must be ", " or "
    )
    return f"{name}: {allowed}, found {_found(positions.nodes.get(path), first['input'])}"


def _allowed(item: Any) -> str:
    """Pydantic's sentence, without its subject."""
    message: str = item["msg"]
    for subject in ("Input should be ", "String should "):
        message = message.removeprefix(subject)
    words = {
        "a valid integer": "must be a whole number",
        "a valid number": "must be a number",
        "a valid string": "must be text",
        "a valid boolean": "must be true or false",
        "a valid tuple": "must be a list",
        "a valid dictionary": "must be a mapping",
    }
    return words.get(
        message, message if message.startswith(("must", "match")) else f"must be {message}"
    )


def _found(node: yaml.Node | None, value: Any) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "a list" if isinstance(value, list) else "a mapping"
    if isinstance(value, bool) and node.value.lower() not in ("true", "false"):
        return f"{node.value}, which YAML reads as {str(value).lower()}; quote it"
    if isinstance(value, str) and not node.style and _is_number(node.value):
        return f"{node.value}, which YAML 1.1 reads as text; write {float(node.value):.1e}"
    return repr(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _suggestion(path: FieldPath, model: type[BaseModel]) -> str:
    names = sorted(_fields_at(model, path[:-1]))
    close = difflib.get_close_matches(str(path[-1]), names, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f"; allowed here: {', '.join(names)}" if names else ""


def _fields_at(model: type[BaseModel], path: FieldPath) -> set[str]:
    """The field names that a recipe may have at `path`."""
    models = {model}
    for part in path:
        if isinstance(part, int):
            continue
        annotations = [
            field.annotation for m in models for name, field in _named(m) if name == part
        ]
        models = {found for annotation in annotations for found in _models_in(annotation)}
    return {name for m in models for name, _ in _named(m)}


def _named(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
