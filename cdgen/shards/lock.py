"""What recipe.lock.json says of a corpus's inputs: hashes, and where they came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdgen.storage import parse_json, reading, typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A text, a model or a tokenizer; "" and 0 where the lock does not say."""

    sha256: str = ""
    step: int = 0
    """Of the training run that made a model; 0 for a given one."""
    hub: str = ""
    """Its id on the Hub."""
    revision: str = ""
    """Its commit there."""
    address: str = ""
    """Of its folder in an object store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The inputs of a corpus, by name or role."""

    cdgen: str = ""
    """The version that built the corpus."""
    sources: Mapping[str, Input] = field(default_factory=dict)
    models: Mapping[str, Input] = field(default_factory=dict)
    """By role: expert, amateur, further-1, …"""
    tokenizer: Input = Input()


def read_lock(path: Path) -> Lock:
    """The lock at `path`; an empty one where there is none.

    Raises:
        BuildError: it is not a JSON object of objects.
    """
    if not path.is_file():
        return Lock()
    with reading(path):
        facts = typed(dict[str, Any], parse_json(path.read_bytes(), path), str(path))
    return Lock(
        cdgen=_text(facts.get("cdgen")),
        sources=_inputs(facts.get("sources"), path),
        models=_inputs(facts.get("models"), path),
        tokenizer=_inputs({"one": facts.get("tokenizer", {})}, path)["one"],
    )


def _inputs(found: object, path: Path) -> dict[str, Input]:
    entries = typed(dict[str, dict[str, Any]], found or {}, str(path))
    return {name: _input(entry) for name, entry in entries.items()}


def _input(entry: dict[str, Any]) -> Input:
    hub = entry.get("hub")
    hub = hub if isinstance(hub, dict) else {}
    step = entry.get("step")
    return Input(
        sha256=_text(entry.get("sha256")),
        step=step if type(step) is int else 0,
        hub=_text(hub.get("dataset") or hub.get("model")),
        revision=_text(hub.get("revision")),
        address=_text(entry.get("address")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
