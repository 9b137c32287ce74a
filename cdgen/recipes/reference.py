"""The references, docs/recipes.md and docs/run-files.md, written from the JSON Schemas: every field, with its help.

`make docs-reference` runs this file; a test fails when the reference is not what it writes.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from cdgen.recipes.json_schema import json_schema
from cdgen.recipes.runs import Run
from cdgen.recipes.schema import Recipe
from cdgen.recipes.sweeps import Sweep

Schema = dict[str, Any]

INTRODUCTION = """\
# Recipe reference

<!-- Written by `make docs-reference` from the schema in cdgen/recipes/schema.py. Change that, not this. -->

One YAML file is one corpus, complete in itself. A field that is absent takes its default; a field that is not here is
an error with file, line and column. Paths are relative to the recipe.

On the command line a field is written with dots, a list's entry in brackets, and its value is YAML:

    cdgen build recipe.yaml --set mix.synthetic=0.4 --set 'text.sources[0].path=other.txt'

The corpus keeps the recipe with what was set in it, comments included. `cdgen schema` prints the JSON Schema that an
editor with a YAML language server completes and checks with.

YAML 1.1 has traps, and each is answered where it is made: `1e-3` is text (write `1.0e-3`), an unquoted `no` is false, a
date and `12:30` stay text, a key given twice is an error. There are no anchors, no tags and no includes.
"""


RUNS = """\
# Run file reference

<!-- Written by `make docs-reference` from the schema in cdgen/recipes/runs.py. Change that, not this. -->

One YAML file is one model, trained on one corpus by `cdgen train` ([how](runs.md)). It is strict like a recipe, with
the same errors, and `--set train.seed=44` changes a field. Paths are relative to the file.
"""


SWEEPS = """\
# Sweep reference

<!-- Written by `make docs-reference` from the schema in cdgen/recipes/sweeps.py. Change that, not this. -->

One YAML file is one study, made by `cdgen sweep` ([how](sweeps.md)): corpora, conditions, seeds. It is strict like a
recipe, with the same errors, and `--set evaluate.data=eval` changes a field. Paths are relative to the file.
"""


def reference(schema: Schema, introduction: str = INTRODUCTION) -> str:
    """The reference as Markdown."""
    sections = "\n".join(_Sections(schema).section("", schema))
    return f"{introduction}\n{sections}"


class _Sections:
    """Walks a schema; a part that stands in several places is described once."""

    def __init__(self, schema: Schema) -> None:
        self._defs: dict[str, Schema] = schema["$defs"]
        self._described: dict[str, str] = {}

    def section(self, path: str, schema: Schema, kind: str = "") -> Iterator[str]:
        """The lines of one section and of the sections in it."""
        title = f"`{path}`" if path else "The file"
        yield f"## {title}{f', `kind: {kind}`' if kind else ''}\n"
        if schema.get("description"):
            yield f"{schema['description']}\n"
        required = schema.get("required", [])
        fields: list[tuple[str, Schema]] = list(schema["properties"].items())
        later: list[tuple[str, list[str]]] = []
        yield "| field | holds | default | help |"
        yield "|---|---|---|---|"
        for name, field in fields:
            inner = f"{path}.{name}".removeprefix(".")
            names = self._parts(field)
            holds = self._linked(inner, field, names) if names else _holds(field)
            default = "required" if name in required else _default(field, section=bool(names))
            text = field.get("description") or (
                self._defs[names[0]]["description"] if names else ""
            )
            text = "" if len(names) > 1 else text
            yield f"| `{name}` | {holds} | {default} | {_cell(text)} |"
            later.append((inner + _each(field), names))
        yield ""
        for inner, names in later:
            for name in names:
                yield from self._part(inner, name, several=len(names) > 1)

    def _part(self, path: str, name: str, *, several: bool) -> Iterator[str]:
        if not several and self._described.get(name, path) != path:
            return
        self._described[name] = path
        part = self._defs[name]
        kind = part["properties"].get("kind", {}).get("const", "") if several else ""
        yield from self.section(path, part, kind)

    def _parts(self, field: Schema) -> list[str]:
        """The names of the sections a field may hold; none for a plain value."""
        refs = [
            (inside if isinstance(inside, dict) else {}).get("$ref")
            for choice in _choices(field)
            for inside in (choice, choice.get("items"), choice.get("additionalProperties"))
        ]
        return [ref.removeprefix("#/$defs/") for ref in refs if ref]

    def _linked(self, path: str, field: Schema, names: list[str]) -> str:
        if len(names) > 1:
            kinds = [self._defs[name]["properties"]["kind"]["const"] for name in names]
            return "one of the kinds " + ", ".join(f"`{kind}`" for kind in kinds)
        self._described.setdefault(names[0], path + _each(field))
        where = self._described[names[0]]
        fields = f"the fields of `{where}`"
        held = {
            "": fields,
            "[]": f"a list, each with {fields}",
            ".*": f"a mapping, each with {fields}",
        }
        return held[_each(field)]


def _choices(field: Schema) -> list[Schema]:
    found: list[Schema] = field.get("anyOf") or field.get("oneOf") or [field]
    return found


def _types(field: Schema) -> set[str]:
    return {choice.get("type", "") for choice in _choices(field)}


def _each(field: Schema) -> str:
    """What follows a field's name where each of its items has fields."""
    if "array" in _types(field):
        return "[]"
    return ".*" if any("additionalProperties" in choice for choice in _choices(field)) else ""


def _holds(field: Schema) -> str:
    return " or ".join(dict.fromkeys(_one(choice) for choice in _choices(field)))


def _one(choice: Schema) -> str:
    """One kind of value in words."""
    if "const" in choice or "enum" in choice:
        values = choice.get("enum") or [choice["const"]]
        return ", ".join(f"`{_json(value)}`" for value in values)
    if choice.get("additionalProperties") is True:
        return "a mapping of fields to values"
    if choice.get("type") == "object":
        return f"a mapping of names to {_one(choice['additionalProperties'])}"
    if choice.get("type") == "array":
        return f"a list of {_one(choice['items'])}"
    words = {
        "integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "`null`",
    }  # fmt: skip
    limits = {
        "minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below",
        "maxLength": "of a length up to", "pattern": "matching",
    }  # fmt: skip
    said = [f"{words} {_limit(choice[name])}" for name, words in limits.items() if name in choice]
    return ", ".join([words[choice["type"]], *said])


def _limit(value: Any) -> str:
    if value == 2**63:
        return "2^63"
    if isinstance(value, str):
        return f"`{_cell(value)}`"
    return f"{int(value):,}" if value == int(value) else repr(value)


def _default(field: Schema, *, section: bool) -> str:
    default = field.get("default")
    if section:
        return "absent" if default in (None, []) else "its defaults"
    return f"`{_json(default)}`"


def _json(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


_KINDS: dict[str, tuple[type[BaseModel], str]] = {
    "": (Recipe, INTRODUCTION),
    "runs": (Run, RUNS),
    "sweeps": (Sweep, SWEEPS),
}

if __name__ == "__main__":
    model, said = _KINDS["".join(sys.argv[1:])]
    sys.stdout.write(reference(json_schema(model), said))
