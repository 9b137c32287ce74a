"""Where local copies of evaluation data lie: a folder of our own layout or of the BabyLM pipeline's."""

import csv
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.errors import UsageError
from cdgen.text.lines import lines

LAYOUTS = ("", "babylm2025", "full_eval", "evaluation_data/full_eval")
"""Folders inside DIR in which a task's files may lie: as given, as cdgen's guide says, as the pipeline unpacks them."""

ENTITY_TRACKING_PASSWORD = b"iamnotaLM"
"""Public, beside the data: its authors lock the files only so that nobody trains on them by accident."""

_MAX_UNPACKED_BYTES = 1 << 27
_MAX_FIELD_CHARACTERS = 1 << 24


@dataclass(frozen=True, slots=True)
class EvalData:
    """The folder named by --data, or None where none was."""

    folder: Path | None

    def find(self, task: str, *names: str, get: str = "") -> Path:
        """The first file or folder of these names, in any known layout.

        Args:
            task: for the message.
            names: in order of preference.
            get: what to do where there is none, if more than naming the folder.

        Raises:
            UsageError: no folder was named, or nothing of that name is in it.
        """
        advice = f"; {get}" if get else ""
        if self.folder is None:
            raise UsageError(
                f"{task} reads {names[0]} from a local copy: name its folder with --data DIR{advice}"
            )
        if not self.folder.is_dir():
            raise UsageError(f"--data {self.folder}: no such folder")
        for layout in LAYOUTS:
            for name in names:
                path = self.folder / layout / name
                if path.exists():
                    return path
        raise UsageError(
            f"{task}: no {' or '.join(names)} in {self.folder} (nor in its {', '.join(filter(None, LAYOUTS))}){advice}"
        )


def jsonl_files(folder: Path, task: str) -> list[Path]:
    """The .jsonl files of a folder, by name.

    Raises:
        UsageError: there is none.
    """
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else [folder]
    if not files:
        raise UsageError(f"{task}: no .jsonl file in {folder}")
    return files


def jsonl_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for messages, object) of every line.

    Raises:
        UsageError: a line is no JSON object; names it.
    """
    for number, line in lines(file):
        if line and not line.isspace():
            yield f"{file}:{number}", _json_object(line, f"{file}:{number}")


def zipped_rows(file: Path, name: str, password: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same, of a .jsonl file in a zip: unpacked in memory, never onto a disk.

    Raises:
        UsageError: no such member, another password, damaged, or unreasonably large.
    """
    where = f"{file}({name})"
    try:
        with zipfile.ZipFile(file) as archive:
            found = next(
                (one for one in archive.infolist() if Path(one.filename).name == name), None
            )
            if found is None:
                raise UsageError(f"{file}: has no {name}")
            with archive.open(found, pwd=password) as member:
                data = member.read(_MAX_UNPACKED_BYTES + 1)
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{where}: cannot be unpacked: {error}") from None
    if len(data) > _MAX_UNPACKED_BYTES:
        raise UsageError(f"{where}: more than {_MAX_UNPACKED_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{where}: not UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.isspace():
            yield f"{where}:{number}", _json_object(line, f"{where}:{number}")


def csv_rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place for messages, fields) of every row of a CSV file with a header.

    Raises:
        UsageError: not CSV, or a row that has more or fewer fields than the header.
    """
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    rows = csv.DictReader((line + "\n" for _, line in lines(file)), strict=True)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise UsageError(f"{file}:{rows.line_num}: not as many fields as the header")
            yield f"{file}:{rows.line_num}", row
    except csv.Error as error:
        raise UsageError(f"{file}:{rows.line_num}: not CSV: {error}") from None


def text_of(row: dict[str, Any], field: str, where: str) -> str:
    """A field that must be a string with something in it."""
    value = row.get(field)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: {field} must be a text, found {_found(row, field)}")
    return value


def number_of(row: dict[str, Any], field: str, where: str) -> float:
    """A field that must be a number, or a text that spells one."""
    value = row.get(field)
    try:
        assert not isinstance(value, bool)
        return float(value)  # type: ignore[arg-type] # anything else is the TypeError below
    except (TypeError, ValueError, AssertionError):
        raise UsageError(f"{where}: {field} must be a number, found {_found(row, field)}") from None


def texts_of(row: dict[str, Any], field: str, where: str) -> list[str]:
    """A field that must be a list of two or more strings."""
    value = row.get(field)
    if (
        not isinstance(value, list)
        or len(value) < 2
        or not all(isinstance(one, str) for one in value)
    ):
        raise UsageError(f"{where}: {field} must be a list of texts, found {_found(row, field)}")
    return value


def _found(row: dict[str, Any], field: str) -> str:
    return repr(row[field])[:60] if field in row else "no such field"


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: not a JSON object")
    return row
