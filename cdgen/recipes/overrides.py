"""`--set field=value`: changes of a recipe on the command line, held to the same rules as the file.

A change is made twice. In the node tree, before anything is checked, so that a mistake is answered like a mistake in
the file, only with the option as its place. And in the text, so that the recipe a corpus keeps says what was built,
with the comments of the file it came from. The two are compared: see `load_recipe`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from cdgen.errors import UsageError
from cdgen.recipes.nodes import OPTION, FieldPath, compose, dotted, values_of

MAX_LABEL_CHARACTERS = 80

_STEP = re.compile(r"\.?([A-Za-z_][\w-]*)|\[(\d{1,6})\]")
_STR, _NULL, _MAP, _SEQ = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "map", "seq"))


@dataclass(frozen=True, slots=True)
class Override:
    """One field that is set on the command line."""

    label: str
    """The option as it was given, on one line: `--set decode.alpha=0.2`."""
    path: FieldPath
    value: yaml.Node

    @property
    def plain(self) -> Any:
        """The value as plain data."""
        return values_of(self.value)[0]


def parse_override(option: str) -> Override:
    """Read `a.b[0]=value`, whose value is YAML.

    Raises:
        UsageError: no field, no `=`, or a value that is not YAML.
    """
    label = OPTION + " ".join(option.split())
    if len(label) > MAX_LABEL_CHARACTERS:
        label = label[: MAX_LABEL_CHARACTERS - 1] + "…"
    name, separator, text = option.partition("=")
    path = _field_path(name.strip())
    if not separator or not path:
        raise UsageError(f"{label}: must be field=value, such as --set mix.synthetic=0.4")
    value = compose(text, label)
    if value is None:  # as in a file, nothing after a field's name is null
        mark = yaml.Mark(label, 0, 0, 0, None, 0)
        value = yaml.ScalarNode(_NULL, "", mark, mark)
    override = Override(label, path, value)
    override.plain  # noqa: B018 - a tag or a key given twice is this option's fault, and is said first
    return override


def _field_path(name: str) -> FieldPath:
    """`text.sources[0].path` as ("text", "sources", 0, "path"); () for anything that is not a field's name."""
    parts: list[str | int] = []
    at = 0
    while at < len(name):
        step = _STEP.match(name, at)
        if step is None or (not parts) != (step.start(1) == 0):
            return ()
        parts.append(step[1] if step[1] is not None else int(step[2]))
        at = step.end()
    return tuple(parts)


def parse_overrides(options: Iterable[str]) -> list[Override]:
    """Read several options; UsageError when two name one field."""
    overrides: list[Override] = []
    for option in options:
        override = parse_override(option)
        if any(override.path == other.path for other in overrides):
            raise UsageError(f"{override.label}: {dotted(override.path)} is given twice")
        overrides.append(override)
    return overrides


# ---- in the tree ----


def set_in_tree(root: yaml.Node, override: Override) -> None:
    """Put an override's value into a node tree; fields on the way that are absent are made.

    Raises:
        UsageError: the path leads through a value that has no fields, or past the end of a list.
    """
    node = root
    for depth, part in enumerate(override.path[:-1]):
        child = child_of(node, part)
        if child is None or _is_null(child):
            mark = override.value.start_mark
            empty = yaml.SequenceNode if isinstance(override.path[depth + 1], int) else None
            made: yaml.Node = (
                empty(_SEQ, [], mark, mark) if empty else yaml.MappingNode(_MAP, [], mark, mark)
            )
            _put(node, override, depth, made)
            child = made
        node = child
    _put(node, override, len(override.path) - 1, override.value)


def child_of(node: yaml.Node, part: str | int) -> yaml.Node | None:
    """The node of a field or list item; None where there is none."""
    if isinstance(node, yaml.MappingNode) and isinstance(part, str):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item: yaml.Node = node.value[part]
        return item
    return None


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


def _put(node: yaml.Node, override: Override, depth: int, value: yaml.Node) -> None:
    part, parent = override.path[depth], dotted(override.path[:depth]) or "the file"
    if isinstance(part, str):
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(
                f"{override.label}: {parent} is {_kind(node)}, so it has no field {part!r}"
            )
        mark = override.value.start_mark
        pair = (yaml.ScalarNode(_STR, part, mark, mark), value)
        places = [place for place, (key, _) in enumerate(node.value) if key.value == part]
        place = places[0] if places else len(node.value)
        node.value[place : place + 1] = [pair]
        return
    if not isinstance(node, yaml.SequenceNode):
        raise UsageError(f"{override.label}: {parent} is {_kind(node)}, not a list")
    if part > len(node.value):
        raise UsageError(
            f"{override.label}: {parent} has {len(node.value)} entries; [{len(node.value)}] adds one"
        )
    node.value[part : part + 1] = [value]


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


# ---- in the text ----


def set_in_text(text: str, override: Override) -> str:
    """The text with the override's value in its place; everything else stays as it is, comments included.

    This knows the ways in which recipes are written, not all of YAML: read the result again and compare.
    """
    node = compose(text, "recipe")
    assert node is not None, "an empty file has no fields to set"
    for depth, part in enumerate(override.path):
        child = child_of(node, part)
        if child is None or (_is_null(child) and depth < len(override.path) - 1):
            value = override.plain
            for later in reversed(override.path[depth + 1 :]):
                value = {later: value} if isinstance(later, str) else [value]
            return _replaced(text, child, value) if child else _added(text, node, part, value)
        node = child
    return _replaced(text, node, override.plain)


def _replaced(text: str, node: yaml.Node, value: Any) -> str:
    start, end = node.start_mark.index, _end(text, node)
    space = " " if start == end else ""  # an absent value stands right behind its colon
    return text[:start] + space + flow(value) + text[end:]


def _added(text: str, node: yaml.Node, part: str | int, value: Any) -> str:
    """Put a field, or a list's item, behind the last one of `node`."""
    assert isinstance(node, yaml.CollectionNode), (
        "the tree was changed first, and would have refused"
    )
    entry = flow(value) if isinstance(part, int) else flow({part: value})[1:-1]
    if not node.value:  # only {} and [] can be empty
        at = node.end_mark.index - 1
        return text[:at] + entry + text[at:]
    if node.flow_style:
        at = _end(text, node.value[-1] if isinstance(part, int) else node.value[-1][1])
        return f"{text[:at]}, {entry}{text[at:]}"
    indent = " " * node.start_mark.column + ("- " if isinstance(part, int) else "")
    newline = text.find("\n", _end(text, node))
    at = len(text) if newline < 0 else newline  # behind a comment on the same line
    return f"{text[:at]}\n{indent}{entry}{text[at:]}"


def _end(text: str, node: yaml.Node) -> int:
    """Where a node's own text ends; PyYAML's end mark of a block is where the next thing begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    start, end = node.start_mark.index, node.end_mark.index
    return start + len(text[start:end].rstrip())


def flow(value: Any) -> str:
    """A value as YAML on one line, as it may stand inside brackets."""
    return dump([value], flow=True).rstrip("\n")[1:-1]


def dump(value: Any, *, flow: bool = False) -> str:
    """A list or mapping as a YAML document that reads back as it is."""
    text = ""
    for allow_unicode in (
        True,
        False,
    ):  # as it is, PyYAML writes some line breaks so that they read back as spaces
        text = yaml.safe_dump(
            value,
            default_flow_style=flow,
            width=float("inf"),
            allow_unicode=allow_unicode,
            sort_keys=False,
        )
        node = compose(text, "dump")
        if node is not None and values_of(node)[0] == value:
            break
    return text
