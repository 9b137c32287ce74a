"""Lines of text files, plain or compressed: memory holds one chunk and one line, and no line without end is kept."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from cdgen.errors import UsageError

READ_BYTES = 1 << 20
MAX_DOCUMENT_CHARACTERS = 1 << 24
"""16 Mi. A longer document means, nearly always, that the file's documents end otherwise than the recipe says."""

_CODECS = {".zst": "zstd", ".gz": "gzip"}


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) without line ends; a carriage return before the line feed is one too.

    Raises:
        UsageError: the file is missing, damaged or cut, is not UTF-8, or has a line of more than
            MAX_DOCUMENT_CHARACTERS; names the place.
    """
    for first, batch in line_batches(path):
        yield from enumerate(batch, first)


def line_batches(path: Path) -> Iterator[tuple[int, list[str]]]:
    """`lines`, as (number of the first line, lines that follow one another): quicker where lines are short."""
    number, begun = 1, ""
    for text in _chunks(path):
        whole = text.split("\n")
        whole[0] = _joined(begun, whole[0], path, number)
        begun = whole.pop()
        if whole:
            yield (
                number,
                [line.removesuffix("\r") for line in whole] if "\r" in text else _chomped(whole),
            )
            number += len(whole)
    if begun:
        yield number, [begun]


def _chomped(whole: list[str]) -> list[str]:
    """Lines of a chunk without carriage returns; the first may have begun in an earlier one."""
    whole[0] = whole[0].removesuffix("\r")
    return whole


def too_long(path: Path, number: int, advice: str) -> UsageError:
    """The error for a document without end."""
    limit = MAX_DOCUMENT_CHARACTERS >> 20
    return UsageError(f"{path}:{number}: a document of more than {limit} Mi characters; {advice}")


def _joined(begun: str, more: str, path: Path, number: int) -> str:
    if len(begun) + len(more) > MAX_DOCUMENT_CHARACTERS:
        raise too_long(path, number, "its lines have no end: is it a text file?")
    return begun + more if begun else more


def _chunks(path: Path) -> Iterator[str]:
    """The file's text, decoded; at its end the decoder is told so."""
    with opened(path) as stream:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        num_lines, done = 0, False
        while not done:
            raw = _read(stream, path)
            done = not raw
            try:
                text = decoder.decode(raw, final=done)
            except UnicodeDecodeError as error:
                line = num_lines + error.object[: error.start].count(b"\n") + 1
                raise UsageError(
                    f"{path}:{line}: not UTF-8 ({error.reason}); convert the file to UTF-8"
                ) from None
            num_lines += text.count("\n")
            yield text


def _read(stream: IO[bytes], path: Path) -> bytes:
    try:
        return stream.read(READ_BYTES)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path}: cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    said = str(error).partition("\n")[0]
    return getattr(error, "strerror", None) or f"damaged or cut: {said}"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed as its name says.

    Arrow's reader says when a zstd file is cut, zstandard's does not; and it reads members that follow one another.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}; check its path in text.sources"
        ) from None
    with file:
        codec = _CODECS.get(path.suffix.lower())
        yield pa.CompressedInputStream(file, codec) if codec else file
