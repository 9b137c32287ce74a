"""Documents from files, one at a time: memory holds one document, however long the file."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from cdgen.errors import UsageError

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A parent document, as it stands in its source."""

    source: str
    license: str
    text: str
    only: str | None
    """The one split this document may go to, or None."""


def blank_line_documents(path: Path) -> Iterator[str]:
    """Yield the groups of lines between blank lines, without the newline at their end.

    Raises:
        UsageError: the file is missing, is not UTF-8 or is not valid zstd; names the place.
    """
    lines: list[str] = []
    for line in _lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "".join(lines).rstrip("\n")
            lines.clear()
    if lines:
        yield "".join(lines).rstrip("\n")


def _lines(path: Path) -> Iterator[str]:
    """Decoded lines, each with its line feed; carriage returns before one are left out."""
    with _open(path) as stream:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        rest, number, done = "", 0, False
        while not done:
            raw = _read(stream, path)
            done = not raw
            try:
                text = decoder.decode(raw, final=done)
            except UnicodeDecodeError as error:
                line = number + rest.count("\n") + error.object[: error.start].count(b"\n") + 1
                raise UsageError(
                    f"{path}:{line}: not UTF-8 ({error.reason}); convert the file to UTF-8"
                ) from None
            *whole, rest = (rest + text).split("\n")
            number += len(whole)
            yield from (line.removesuffix("\r") + "\n" for line in whole)
        if rest:
            yield rest


def _read(stream: IO[bytes], path: Path) -> bytes:
    try:
        return stream.read(READ_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return error.strerror or f"damaged or cut: {error}"


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed: Arrow's reader says when a zstd file is cut, zstandard's does not."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}; check its path in text.sources"
        ) from None
    with file:
        yield pa.CompressedInputStream(file, "zstd") if path.suffix == ".zst" else file
