"""Documents from sources, one at a time: memory holds one document, however long the file.

Every reader yields (where it stands, text). Whatever a file holds, a reader ends in its documents or in a UsageError
of one line: file and line or row, what was found, what is allowed, what to do.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.corpus import Corpus, open_folder
from cdgen.errors import BuildError, UsageError
from cdgen.recipes.schema import Source
from cdgen.shards.layout import shard_path
from cdgen.shards.reader import samples
from cdgen.storage import sha256_file
from cdgen.text.lines import MAX_DOCUMENT_CHARACTERS, line_batches, lines, too_long

PARQUET_ROWS = 1024
_END_ADVICE = "say with `document` what ends one, or cut the file"

Located = Iterator[tuple[str, str]]
"""(where, text) of each document."""

_WORDS = {bool: "true or false", dict: "an object", list: "a list", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Document:
    """A parent document, as it stands in its source."""

    source: str
    license: str
    text: str
    only: str | None
    """The one split this document may go to, or None."""


def read(sources: Iterable[Source], paths: Mapping[str, Path | None]) -> Iterator[Document]:
    """All documents of all sources, in recipe order; the ones without text are left out.

    Args:
        sources: of the recipe.
        paths: by name of the source: the file or folder; None for a dataset on the Hub.

    Raises:
        UsageError: a source cannot be read, or has no text at all.
    """
    for source in sources:
        empty = True
        for _, text in located_documents(source, paths[source.name]):
            if not text.isspace() and text:
                empty = False
                yield Document(source.name, source.license, text, source.only)
        if empty:
            place = paths[source.name] or f"the dataset {source.hf.dataset if source.hf else ''}"
            raise UsageError(
                f"{place}: no text; take the source {source.name!r} out of text.sources, or repair it"
            )


def located_documents(source: Source, path: Path | None) -> Located:
    """Each document of one source, with where it stands, for messages."""
    if source.hf is not None or source.file_format == "hf":
        from cdgen.text.datasets import dataset_rows

        return _checked_rows(dataset_rows(source, path))
    assert path is not None
    return _READERS[source.file_format](source, path)


# ---- text ----

Ends = Callable[[list[str]], list[int]]
"""Which of some lines end a document: their places in the list."""


def _text(source: Source, path: Path) -> Located:
    separator = source.separator
    if source.document == "file":
        return _groups(path, lambda _: [])
    if separator is None:
        return _groups(path, _blank_lines)
    return _separated(path, separator)


def _blank_lines(batch: list[str]) -> list[int]:
    return [place for place, line in enumerate(batch) if not line or line.isspace()]


def _separated(path: Path, separator: str) -> Located:
    """The groups between separators; a file without one has a mistake in its recipe."""
    found = False

    def ends(batch: list[str]) -> list[int]:
        nonlocal found
        places = [place for place, line in enumerate(batch) if line == separator]
        found = found or bool(places)
        return places

    yield from _groups(path, ends)
    if not found:
        raise UsageError(
            f"{path}: no line is {separator!r}; check `separator` in text.sources, or use document: file"
        )


def _groups(path: Path, ends: Ends) -> Located:
    """The groups of lines between lines that end a document, without line feeds at their end."""
    group: list[str] = []
    first, size = 1, 0
    for number, batch in line_batches(path):
        begin = 0
        for end in ends(batch):
            if group or begin < end:
                yield _document(
                    path, first if group else number + begin, [*group, *batch[begin:end]]
                )
            group, size, begin = [], 0, end + 1
        rest = batch[begin:]
        first = first if group else number + begin
        group += rest
        size += len(rest) + sum(map(len, rest))
        if size > MAX_DOCUMENT_CHARACTERS:
            raise too_long(path, first, _END_ADVICE)
    if group:
        yield _document(path, first, group)


def _document(path: Path, first: int, group: list[str]) -> tuple[str, str]:
    text = "\n".join(group).rstrip("\n")
    if len(text) > MAX_DOCUMENT_CHARACTERS:
        raise too_long(path, first, _END_ADVICE)
    return f"{path}:{first}", text


# ---- jsonl ----


def _jsonl(source: Source, path: Path) -> Located:
    """One JSON object on each line; blank lines are no documents."""
    field = source.field or "text"
    for number, line in lines(path):
        if line and not line.isspace():
            where = f"{path}:{number}"
            yield where, _text_of(_object(line, where), field, where)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = (
            str(error).partition("\n")[0] if isinstance(error, ValueError) else "nested too deeply"
        )
        raise UsageError(
            f"{where}: not valid JSON: {reason[:120]}; one JSON object is needed on each line"
        ) from None
    if not isinstance(value, dict):
        raise UsageError(f"{where}: a JSON object is needed on each line, found {_found(value)}")
    return value


def _text_of(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text in a row's field; UsageError where it is missing, of another type, or no Unicode text."""
    if field not in row:
        names = ", ".join(map(repr, list(row)[:8])) or "none"
        raise UsageError(
            f"{where}: no field {field!r}; it has {names[:200]}; name the field that holds the text"
        )
    text = row[field]
    if not isinstance(text, str):
        raise UsageError(
            f"{where}: field {field!r} must be text, found {_found(text)}; take the row out or name another field"
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{where}: field {field!r} holds half of a surrogate pair, which is no character; repair the text"
            ) from None
    if len(text) > MAX_DOCUMENT_CHARACTERS:
        raise UsageError(
            f"{where}: a document of more than {MAX_DOCUMENT_CHARACTERS >> 20} Mi characters; cut it"
        )
    return text


def _found(value: object) -> str:
    return _WORDS.get(
        type(value), "a number" if isinstance(value, int | float) else "something else"
    )


def _checked_rows(rows: Iterator[tuple[str, Mapping[str, Any], str]]) -> Located:
    return ((where, _text_of(row, field, where)) for where, row, field in rows)


# ---- parquet ----


def _parquet(source: Source, path: Path) -> Located:
    """One row is one document."""
    field = source.field or "text"
    number = 0
    try:
        with path.open("rb") as raw, pq.ParquetFile(raw) as file:
            _check_column(file.schema_arrow, field, path)
            for batch in file.iter_batches(PARQUET_ROWS, columns=[field], use_threads=False):
                for text in batch.column(batch.schema.names.index(field)).to_pylist():
                    number += 1
                    where = f"{path}: row {number}"
                    yield where, _text_of({field: text}, field, where)
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError) as error:
        raise UsageError(
            f"{path}: cannot be read as parquet after row {number}: {str(error).partition(chr(10))[0][:200]}"
        ) from None


def _check_column(schema: pa.Schema, field: str, path: Path) -> None:
    if schema.names.count(field) != 1:
        names = ", ".join(map(repr, schema.names[:12])) or "none"
        raise UsageError(
            f"{path}: no column {field!r}, or more than one; it has {names[:300]}; name one with `field`"
        )
    kind = schema.field(field).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UsageError(
            f"{path}: column {field!r} must be text, found {str(kind)[:60]}; name another one with `field`"
        )


# ---- another cdgen corpus ----


def _corpus(source: Source, path: Path) -> Located:
    """The texts of a corpus's samples, each shard checked against the manifest before it is read."""
    corpus, kind, split = open_source(source, path)
    try:
        for entry in corpus.shards(kind, split):
            shard = shard_path(path, entry.name)
            if sha256_file(shard) != entry.sha256:
                raise UsageError(
                    f"{shard}: is not the file that the manifest names; run cdgen verify"
                )
            for sample in samples(shard):
                yield f"{shard}: {sample.key}", sample.text
    except BuildError as error:
        raise UsageError(str(error)) from None


def open_source(source: Source, path: Path) -> tuple[Corpus, str, str]:
    """(the corpus, kind, split) of a source of format corpus.

    Raises:
        UsageError: no finished corpus is there, or it has no such samples.
    """
    kind, split = source.kind or "mixed", source.split or "train"
    try:
        corpus = open_folder(path)
    except BuildError as error:
        raise UsageError(str(error)) from None
    if not corpus.shards(kind, split):
        have = sorted({f"{entry.kind} {entry.split}" for entry in corpus.manifest.shards})
        raise UsageError(
            f"{path}: no {kind} {split} samples; it has {', '.join(have) or 'none'}; choose with kind and split"
        )
    return corpus, kind, split


_READERS: Mapping[str, Callable[[Source, Path], Located]] = {
    "text": _text,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "corpus": _corpus,
}
