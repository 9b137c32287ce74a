"""From a YAML file to a checked recipe, or to one line that says what is wrong and where.

The node tree is read first, with positions; only then are values built and checked, so that every error can
name file, line, column and field. YAML from strangers is hostile: no tags, no aliases, a limited size and depth.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cdgen.errors import UsageError
from cdgen.recipes.schema import Recipe
from cdgen.recipes.unsupported import unsupported

MAX_RECIPE_BYTES = 1 << 20
MAX_DEPTH = 20

FieldPath = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A checked recipe and the file it came from (relative paths are relative to that file)."""

    recipe: Recipe
    path: Path
    text: str
    positions: "_Positions"

    def at(self, field: FieldPath) -> str:
        """`file:line:column: field`, for messages about a field's value."""
        return f"{self.positions.at(field)}: {dotted(field)}"

    def resolve(self, path: Path) -> Path:
        """The path as seen from the recipe's folder."""
        return path if path.is_absolute() else self.path.parent / path


@dataclass(frozen=True, slots=True)
class _Positions:
    """Where each field stands: nodes by path, for messages."""

    file: str
    nodes: Mapping[FieldPath, yaml.Node]
    keys: Mapping[FieldPath, yaml.Node]

    def at(self, path: FieldPath, *, key: bool = False) -> str:
        while path and path not in self.nodes:
            path = path[:-1]
        node = (self.keys if key else self.nodes).get(path) or self.nodes[path]
        return f"{self.file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def load_recipe(path: str | Path) -> RecipeFile:
    """Read and check a recipe.

    Raises:
        UsageError: one line, `file:line:column: field: what was found; what is allowed`.
    """
    file = Path(path)
    recipe, text, positions = load_strict(
        file, Recipe, "recipe; `cdgen build quickstart` builds the packaged one"
    )
    for field, reason in unsupported(recipe):
        where = positions.at(field, key=True)
        raise UsageError(f"{where}: {dotted(field)} is not implemented yet: {reason}")
    return RecipeFile(recipe=recipe, path=file.absolute(), text=text, positions=positions)


def load_strict(file: Path, model: type[M], what: str) -> tuple[M, str, "_Positions"]:
    """Read a YAML file as a strict model; (the model, the file's text, where each field stands).

    Args:
        file: the file.
        model: what it must be.
        what: names the kind of file when there is none: "no such <what>".
    """
    text = _read(file, what)
    data, positions = _build(_compose(text, str(file)), str(file))
    try:
        return model.model_validate(data), text, positions
    except ValidationError as error:
        raise UsageError(_explain(error, model, positions)) from None


def dotted(path: FieldPath) -> str:
    """`("text", "sources", 0, "path")` as `text.sources[0].path`."""
    parts = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return parts.removeprefix(".")


def _read(file: Path, what: str) -> str:
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{file}: no such {what}") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_RECIPE_BYTES:
        raise UsageError(f"{file}: {len(raw)} bytes is too large (at most {MAX_RECIPE_BYTES})")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file}: not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from None


class _Loader(yaml.SafeLoader):
    """Composes nodes; refuses aliases (a recipe says everything once) and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not allowed", event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"nested deeper than {MAX_DEPTH} levels", mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str, file: str) -> yaml.Node:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise UsageError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from None
    if root is None:
        raise UsageError(f"{file}:1:1: the file is empty")
    return root


def _build(root: yaml.Node, file: str) -> tuple[Any, _Positions]:
    nodes: dict[FieldPath, yaml.Node] = {}
    keys: dict[FieldPath, yaml.Node] = {}
    positions = _Positions(file, nodes, keys)
    scalars = yaml.constructor.SafeConstructor()

    def build(node: yaml.Node, path: FieldPath) -> Any:
        nodes[path] = node
        if isinstance(node, yaml.SequenceNode):
            return [build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return {key: build(value, (*path, key)) for key, value in entries(node, path)}
        return _scalar(node, scalars, positions.at(path))

    def entries(node: yaml.MappingNode, path: FieldPath) -> Iterator[tuple[str, yaml.Node]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            where = f"{file}:{mark.line + 1}:{mark.column + 1}"
            if (
                not isinstance(key_node, yaml.ScalarNode)
                or key_node.tag == "tag:yaml.org,2002:merge"
            ):
                raise UsageError(f"{where}: a field name must be plain text")
            key = key_node.value
            if key in seen:
                raise UsageError(f"{where}: {dotted((*path, key))} is given twice")
            seen.add(key)
            keys[(*path, key)] = key_node
            yield key, value_node

    return build(root, ()), positions


def _scalar(node: yaml.Node, constructor: yaml.constructor.SafeConstructor, where: str) -> Any:
    known = {
        f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")
    }
    if node.tag not in known:
        raise UsageError(
            f"{where}: the tag {node.tag.removeprefix('tag:yaml.org,2002:')!r} is not allowed"
        )
    if node.tag.endswith("timestamp") or _is_base_60(node):
        return node.value  # a date and 12:30 are text to a person
    try:
        return constructor.construct_object(node)
    except ValueError:
        raise UsageError(f"{where}: {node.value!r} is not a value that YAML can read") from None


def _is_base_60(node: yaml.Node) -> bool:
    return node.tag.endswith((":int", ":float")) and ":" in node.value


def _explain(error: ValidationError, model: type[BaseModel], positions: _Positions) -> str:
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
        where = positions.at(path, key=unknown)
        line, column = map(int, where.rsplit(":", 2)[1:])
        lines.append(((line, column), f"{where}: {_message(path, items, model, positions)}"))
    lines.sort(key=lambda line: line[0])
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return lines[0][1] + more


def _locate(item: Any, positions: _Positions) -> FieldPath:
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
    path: FieldPath, items: list[Any], model: type[BaseModel], positions: _Positions
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
