"""Where a given model is: a folder, or the address of one in an object store."""

import re
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

_ADDRESS = re.compile(r"(s3|gs)://[a-zA-Z0-9][a-zA-Z0-9._-]+(/[^/]+)+/?")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def read_model_path(value: Any) -> Path | str:
    """A folder's path, or an address as text.

    Raises:
        ValueError: an address that cannot be one of a model; its text may hold a secret, and is not told.
    """
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("path_type", "Input should be a path")
    scheme = _SCHEME.match(value)
    if scheme is None:
        return Path(value)
    if scheme[1] not in ("s3", "gs"):
        advice = "; a model on the Hub is given as hf: {model, revision}" * (scheme[1] == "hf")
        raise ValueError(
            f"must be a folder, s3://bucket/folder or gs://bucket/folder, found {scheme[0][:20]}…{advice}"
        )
    if "?" in value or "#" in value or "@" in value.split("/")[2]:
        raise ValueError(
            "must hold no user, password or query: credentials are those of the store's own tools"
        )
    parts = value.split("/")[3:]
    if not _ADDRESS.fullmatch(value) or {".", ".."} & set(parts) or not value.isprintable():
        raise ValueError(f"must be {scheme[0]}bucket/folder, found {value[:200]!r}")
    return value.rstrip("/")


def address_of(given: object) -> str:
    """The address in an object store of what a recipe gives; "" where it has none."""
    path = getattr(given, "path", None)
    return path if isinstance(path, str) else ""
