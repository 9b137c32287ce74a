"""The texts of evaluation sets, as their files hold them: one item is one text.

A set is a file or a folder of them: lines of a .txt, strings of a .jsonl or .csv (also .zst and .gz of each).
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cdgen.errors import UsageError
from cdgen.storage import sha256_file
from cdgen.text.lines import lines

ENDINGS = (".txt", ".jsonl", ".csv")
KNOWN_FIELDS = frozenset(
    {
        "sentence", "sentence_good", "sentence_bad", "sen_str", "swapped_sen_str", "sentences", "text", "prefix",
        "input_prefix", "prompt", "context", "question", "Context1", "Context2", "Target1", "Target2",
    }
)  # fmt: skip
"""Of jsonl and csv: what BLiMP and its kin, EWoK, entity tracking and question sets call their texts.

Answers are not among them: by themselves they are words such as "nothing", which a third of all documents hold.
"""

_COMPRESSED = re.compile(r"\.(zst|gz)$")
_MAX_FIELD_CHARACTERS = 1 << 24


def files(path: Path) -> list[Path]:
    """The set's files, by name: the file itself, or all of a folder that can be read.

    Raises:
        UsageError: there is none.
    """
    if path.is_file():
        if _ending(path) not in ENDINGS:
            raise UsageError(
                f"{path}: an evaluation set is {', '.join(ENDINGS)} (also .zst and .gz) or a folder"
            )
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and _ending(file) in ENDINGS)
    if not found:
        raise UsageError(f"{path}: no file or folder with an evaluation set ({', '.join(ENDINGS)})")
    return found


def content(path: Path, fields: Sequence[str] | None) -> str:
    """sha256 hex of what a set says: names and bytes of its files, and which fields count."""
    total = hashlib.sha256(json.dumps(sorted(fields or KNOWN_FIELDS)).encode())
    for file in files(path):
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        total.update(f"{name}\0{sha256_file(file)}\n".encode())
    return total.hexdigest()


def items(path: Path, fields: Sequence[str] | None = None) -> Iterator[str]:
    """Every text of a set, in the order of its files.

    Args:
        path: the file or folder.
        fields: of jsonl and csv, those that hold text; KNOWN_FIELDS by default.

    Raises:
        UsageError: a file that cannot be read, or an item without any of the fields; names the line.
    """
    for file in files(path):
        yield from _READERS[_ending(file)](file, frozenset(fields or KNOWN_FIELDS))


def _ending(path: Path) -> str:
    return Path(_COMPRESSED.sub("", path.name.lower())).suffix


def _text_items(file: Path, _: frozenset[str]) -> Iterator[str]:
    return (line for _, line in lines(file) if line and not line.isspace())


def _jsonl_items(file: Path, fields: frozenset[str]) -> Iterator[str]:
    for number, line in lines(file):
        if not line or line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"{file}:{number}: not a JSON object") from None
        if not isinstance(row, dict):
            raise UsageError(f"{file}:{number}: not a JSON object")
        yield from _texts(row, fields, f"{file}:{number}")


def _csv_items(file: Path, fields: frozenset[str]) -> Iterator[str]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    rows = csv.DictReader(line + "\n" for _, line in lines(file))
    try:
        for row in rows:
            yield from _texts(row, fields, f"{file}:{rows.line_num}")
    except csv.Error as error:
        raise UsageError(f"{file}:{rows.line_num}: not CSV: {error}") from None


def _texts(row: dict[Any, Any], fields: frozenset[str], where: str) -> Iterator[str]:
    """The strings in the named fields of a row, also of lists of strings."""
    named = [value for name, value in row.items() if name in fields]
    if not named:
        there = ", ".join(str(name)[:40] for name in list(row)[:12])
        raise UsageError(
            f"{where}: none of the fields that hold text; this item has {there}: name them with `fields`"
        )
    for value in named:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield text


_READERS = {".txt": _text_items, ".jsonl": _jsonl_items, ".csv": _csv_items}
