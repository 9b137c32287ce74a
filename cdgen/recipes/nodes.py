"""From YAML text to a node tree with positions, and from the tree to plain values.

YAML from strangers is hostile: no tags, no aliases, no merge keys, a limited size and depth. Where YAML 1.1 reads
something else than a person does (dates, 12:30), the text is kept. Every fault is one line that says where it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cdgen.errors import UsageError

MAX_RECIPE_BYTES = 1 << 20
MAX_DEPTH = 20
OPTION = "--set "
"""A mark whose name begins so is on the command line, where lines and columns say nothing."""

FieldPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp")}


@dataclass(frozen=True, slots=True)
class Positions:
    """Where each field stands: nodes by path, for messages."""

    nodes: Mapping[FieldPath, yaml.Node]
    keys: Mapping[FieldPath, yaml.Node]

    def at(self, path: FieldPath, *, key: bool = False) -> str:
        """`file:line:column`, or the option, of a field's value (or its name)."""
        return where(self._mark(path, key=key))

    def order(self, path: FieldPath, *, key: bool = False) -> tuple[bool, int, int]:
        """Sorts fields as they are read: the file from the top, then the options."""
        mark = self._mark(path, key=key)
        return mark.name.startswith(OPTION), mark.line, mark.column

    def _mark(self, path: FieldPath, *, key: bool) -> yaml.Mark:
        while path and path not in self.nodes:
            path = path[:-1]
        node = (self.keys if key else self.nodes).get(path) or self.nodes[path]
        return node.start_mark


def dotted(path: FieldPath) -> str:
    """`("text", "sources", 0, "path")` as `text.sources[0].path`."""
    parts = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return parts.removeprefix(".")


def where(mark: yaml.Mark) -> str:
    """`file:line:column`, or the option as it was given."""
    if mark.name.startswith(OPTION):
        return mark.name
    return f"{mark.name}:{mark.line + 1}:{mark.column + 1}"


def read_text(file: Path, what: str) -> str:
    """The text of a YAML file; UsageError where there is none, "no such <what>"."""
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


def compose(text: str, name: str) -> yaml.Node | None:
    """The node tree of a YAML document; None for an empty one.

    Args:
        text: the document.
        name: of the file, or the option as it was given; every mark carries it.

    Raises:
        UsageError: not YAML, or more than a recipe needs.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = where(mark) if mark else name
        raise UsageError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None


def values_of(root: yaml.Node) -> tuple[Any, Positions]:
    """(the plain values of a tree, where each stands); UsageError for a tag, a merge key or a key given twice."""
    nodes: dict[FieldPath, yaml.Node] = {}
    keys: dict[FieldPath, yaml.Node] = {}
    scalars = yaml.constructor.SafeConstructor()

    def build(node: yaml.Node, path: FieldPath) -> Any:
        nodes[path] = node
        if isinstance(node, yaml.SequenceNode):
            return [build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return {key: build(value, (*path, key)) for key, value in entries(node, path)}
        return _scalar(node, scalars)

    def entries(node: yaml.MappingNode, path: FieldPath) -> Iterator[tuple[str, yaml.Node]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            place = where(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == f"{_TAG}merge":
                raise UsageError(f"{place}: a field name must be plain text")
            key = key_node.value
            if key in seen:
                raise UsageError(f"{place}: {dotted((*path, key))} is given twice")
            seen.add(key)
            keys[(*path, key)] = key_node
            yield key, value_node

    return build(root, ()), Positions(nodes, keys)


def _scalar(node: yaml.Node, constructor: yaml.constructor.SafeConstructor) -> Any:
    place = where(node.start_mark)
    if node.tag not in _KNOWN_TAGS:
        raise UsageError(f"{place}: the tag {node.tag.removeprefix(_TAG)!r} is not allowed")
    if node.tag.endswith("timestamp") or _is_base_60(node):
        return node.value  # a date and 12:30 are text to a person
    try:
        return constructor.construct_object(node)
    except ValueError:
        raise UsageError(f"{place}: {node.value!r} is not a value that YAML can read") from None


def _is_base_60(node: yaml.Node) -> bool:
    return node.tag.endswith((":int", ":float")) and ":" in node.value
