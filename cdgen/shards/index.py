"""The index of a shard: one row per sample, in the shard's order, so that readers parse neither tar nor JSON.

Offsets and lengths are bytes in the shard's file. Everything in an index can be computed again from its shard.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from cdgen.errors import BuildError
from cdgen.shards import ustar
from cdgen.shards.npy import HEADER_BYTES
from cdgen.shards.sample import META_TYPES, Meta
from cdgen.storage import atomic_write, reading

INDEX_FORMAT = 1
_FORMAT_KEY = b"cdgen_index_format"
ARROW_TYPES = {str: pa.string(), int: pa.int64(), bool: pa.bool_(), float: pa.float64()}

Row = Mapping[str, Any]
"""One row of an index: column name to value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a sample lies in its shard: all bytes of its three members, and the content of each."""

    offset: int
    length: int
    txt_offset: int
    txt_length: int
    json_offset: int
    json_length: int
    npy_offset: int
    npy_length: int

    @classmethod
    def at(cls, offset: int, txt_length: int, json_length: int, npy_length: int) -> "Place":
        """The place of a sample that starts at `offset`, from the sizes of its contents."""
        json_start = offset + ustar.stored(txt_length)
        npy_start = json_start + ustar.stored(json_length)
        return cls(
            offset=offset,
            length=npy_start + ustar.stored(npy_length) - offset,
            txt_offset=offset + ustar.BLOCK,
            txt_length=txt_length,
            json_offset=json_start + ustar.BLOCK,
            json_length=json_length,
            npy_offset=npy_start + ustar.BLOCK,
            npy_length=npy_length,
        )

    @classmethod
    def of(cls, row: Row) -> "Place":
        """The place that an index row names."""
        return cls(**{name: row[name] for name in PLACE_COLUMNS})

    def columns(self) -> dict[str, int]:
        """Its columns in an index row."""
        return dict(zip(PLACE_COLUMNS, _PLACE_VALUES(self), strict=True))


PLACE_COLUMNS = tuple(Place.__slots__)
_PLACE_VALUES = attrgetter(*PLACE_COLUMNS)


def _schema() -> pa.Schema:
    columns = [
        ("key", pa.string()),
        *((name, pa.int64()) for name in PLACE_COLUMNS),
        ("ids_xxh64", pa.uint64()),
        ("text_xxh64", pa.uint64()),
        *((name, ARROW_TYPES[kind]) for name, kind in META_TYPES.items()),
    ]
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])
    return schema.with_metadata({_FORMAT_KEY: str(INDEX_FORMAT)})


INDEX_SCHEMA: pa.Schema = _schema()
"""key, the columns of Place, ids_xxh64, text_xxh64, then the fields of Meta."""


def index_row(
    key: str, place: Place, text: bytes | memoryview, npy: bytes | memoryview, meta: Meta
) -> dict[str, Any]:
    """The row of a sample, from the contents of its .txt and .npy members."""
    return {
        "key": key,
        **place.columns(),
        "ids_xxh64": ids_xxh64(npy),
        "text_xxh64": xxhash.xxh64_intdigest(text),
        **meta.columns(),
    }


def ids_xxh64(npy: bytes | memoryview) -> int:
    """xxh64, seed 0, of the little-endian ids in a .npy member."""
    return xxhash.xxh64_intdigest(memoryview(npy)[HEADER_BYTES:])


def index_bytes(rows: Iterable[Row]) -> bytes:
    """The parquet file of `rows`: zstd, with a check sum on every page."""
    table = pa.Table.from_pylist(list(rows), schema=INDEX_SCHEMA)
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def write_index(path: Path, rows: Iterable[Row]) -> None:
    """Write the index of a shard, complete or not at all."""
    atomic_write(path, index_bytes(rows))


def read_index(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read an index, or some of its columns.

    Raises:
        BuildError: no such file, damaged, of a newer format, or not an index.
    """
    try:
        with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(file.schema_arrow, path)
            return file.read(None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise BuildError(f"cannot read {path}: {str(error).splitlines()[0][:200]}") from None


def column_values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column of whole numbers or booleans without nulls as one array.

    Arrow's own `to_numpy` imports pandas where that is installed: a quarter of a second before the first row.
    """
    parts = [_chunk_values(chunk) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _chunk_values(chunk: pa.Array) -> npt.NDArray[Any]:
    first, end = chunk.offset, chunk.offset + len(chunk)
    if not len(chunk):
        return np.empty(0, np.int64)
    if pa.types.is_boolean(chunk.type):
        packed = np.frombuffer(chunk.buffers()[1], np.uint8)
        bits: npt.NDArray[Any] = np.unpackbits(packed, count=end, bitorder="little")
        return bits[first:].astype(bool)
    kind = np.uint64 if chunk.type == pa.uint64() else np.int64
    values: npt.NDArray[Any] = np.frombuffer(chunk.buffers()[1], kind)[first:end]
    return values


def index_maximum(path: Path, column: str) -> int | None:
    """The largest value of a column of whole numbers, from the footer alone; None where that does not say it."""
    try:
        with reading(path), pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow, path)
            footer, place = file.metadata, file.schema_arrow.get_field_index(column)
            groups = [
                footer.row_group(number).column(place) for number in range(footer.num_row_groups)
            ]
            if not all(group.is_stats_set and group.statistics.has_min_max for group in groups):
                return None
            return max((int(group.statistics.max) for group in groups), default=None)
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise BuildError(f"cannot read {path}: {str(error).splitlines()[0][:200]}") from None


def _check_schema(schema: pa.Schema, path: Path) -> None:
    found = (schema.metadata or {}).get(_FORMAT_KEY, b"")
    if found.isdigit() and int(found) > INDEX_FORMAT:
        raise BuildError(
            f"{path}: index format {int(found)}; this cdgen reads up to {INDEX_FORMAT}: upgrade cdgen"
        )
    if not schema.equals(INDEX_SCHEMA):
        raise BuildError(f"{path}: not the index of a cdgen shard: its columns differ")
