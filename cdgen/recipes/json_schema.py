"""The schema of a recipe (or run file, sweep, builder profile) as JSON Schema, for editors and other programs.

It says what each field may hold. What must hold between fields (shares that sum to 1, exactly one of path and hf) is
only checked by `cdgen check`.
"""

import json
from typing import Any

from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_FILES = {
    "recipe": "recipe.schema.json",
    "run": "run.schema.json",
    "sweep": "sweep.schema.json",
    "builder": "builder.schema.json",
}
"""By kind of file: what its schema is called; it lies beside the packaged files."""


def modeline(kind: str) -> str:
    """The comment that tells an editor with a YAML language server which schema a file has."""
    return f"# yaml-language-server: $schema={SCHEMA_FILES[kind]}"


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a model; descriptions are the help of its fields."""
    found: dict[str, Any] = _tidy(model.model_json_schema(by_alias=True))
    return {"$schema": DIALECT, "title": f"cdgen {model.__name__.lower()}", **found}


def schema_text(model: type[BaseModel]) -> str:
    """`json_schema` as the text of a file."""
    return json.dumps(json_schema(model), indent=1, ensure_ascii=False) + "\n"


def _tidy(node: Any, *, fields: bool = False) -> Any:
    """Without what only pydantic understands: generated titles, its path format, OpenAPI's discriminator.

    Args:
        node: a schema, or a part of one.
        fields: whether the keys of `node` are names of fields, of which one may be called title.
    """
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    if fields:
        return {name: _tidy(value) for name, value in node.items()}
    return {
        key: _tidy(value, fields=key in ("properties", "$defs"))
        if key not in ("default", "enum")
        else value
        for key, value in node.items()
        if key not in ("title", "discriminator") and (key, value) != ("format", "path")
    }
