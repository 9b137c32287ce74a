"""Read shards: strictly from front to back, or by row through the index without parsing tar or JSON."""

import mmap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdgen.errors import BuildError
from cdgen.shards import npy, ustar
from cdgen.shards.index import INDEX_SCHEMA, Place, read_index
from cdgen.shards.layout import index_path as default_index_path
from cdgen.shards.sample import META_TYPES, Meta, Sample
from cdgen.shards.walk import map_file, opened, read_sample, walk
from cdgen.storage import reading

IDS_PLACED = ("npy_offset", "npy_length", "num_tokens")
PLACED = ("offset", "length", *IDS_PLACED)
"""Columns of an index that say where the ids are; and where samples are, too."""


def samples(path: Path) -> Iterator[Sample]:
    """Yield every sample of a shard, in order; needs no index.

    Raises:
        BuildError: anything that `ShardWriter` does not write; names the shard, the offset and what is wrong.
    """

    def refuse(offset: int, what: str) -> NoReturn:
        raise BuildError(f"{path}: at byte {offset}: {what}; run cdgen verify")

    keys: set[str] = set()
    with opened(path) as data:
        for key, place in walk(data, refuse):
            if key in keys:
                refuse(place.offset, f"a second sample with the key {key}")
            keys.add(key)
            try:
                sample = read_sample(data, key, place)
            except ValueError as error:
                refuse(place.offset, f"{key}: {error}")
            yield sample


def read_raw(path: Path, offset: int, length: int) -> bytes:
    """`length` bytes of a shard from `offset`; BuildError if they are not all there."""
    with reading(path), path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise BuildError(
            f"{path}: is cut: {length} bytes wanted at byte {offset}, {len(data)} found"
        )
    return data


class MappedShard:
    """A shard mapped into memory, read by row through its index.

    The file is mapped at first use. Hashes are not checked here: `cdgen verify` does that.

    Attributes:
        path: the shard's file.
        index_path: its index; by default the one in the corpus folder that holds the shard in data/<kind>/.
        num_tokens: tokens of each sample, int64 `[rows]`.
        dtype: of the ids.

    Raises:
        BuildError: shard or index is missing or damaged, or they do not belong together.
    """

    def __init__(self, path: Path, index_path: Path | None = None) -> None:
        self.path = path
        self.index_path = index_path or default_index_path(path.parent.parent.parent, path.name)
        table = read_index(self.index_path, PLACED)
        placed = {name: table[name].to_numpy() for name in PLACED}
        self.num_tokens: npt.NDArray[np.int64] = placed["num_tokens"]
        self.dtype = self._fitting_dtype(placed)
        self._ids_offset: npt.NDArray[np.int64] = placed["npy_offset"] + npy.HEADER_BYTES

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.num_tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[Path, Path]]:
        return type(self), (self.path, self.index_path)  # a worker process maps the file itself

    def close(self) -> None:
        """Unmap the file; views that were given out keep it mapped as long as they live."""
        kept = self.__dict__.pop("_map", None)
        if kept is not None:
            with suppress(BufferError):
                kept.close()

    def ids(self, row: int) -> npy.Ids:
        """The ids of a sample, a read-only view of the file: `[num_tokens[row]]`."""
        count, offset = int(self.num_tokens[row]), int(self._ids_offset[row])
        ids: npy.Ids = np.frombuffer(self._map, self.dtype, count, offset)
        return ids

    def row(self, row: int) -> dict[str, Any]:
        """The index row of a sample: column name to value."""
        numbers, strings = self._columns
        values: dict[str, Any] = {name: column[row].item() for name, column in numbers.items()}
        return values | {name: column[int(row)].as_py() for name, column in strings.items()}

    def raw(self, row: int) -> memoryview:
        """All bytes of a sample's three members, for `ShardWriter.copy`."""
        numbers, _ = self._columns
        offset, length = int(numbers["offset"][row]), int(numbers["length"][row])
        return memoryview(self._map)[offset : offset + length]

    def text(self, row: int) -> str:
        """The text of a sample; BuildError if it is damaged."""
        place = Place.of(self.row(row))
        try:
            return self._map[place.txt_offset : place.txt_offset + place.txt_length].decode()
        except UnicodeDecodeError:
            raise BuildError(
                f"{self.path}: row {row}: the text is not UTF-8; run cdgen verify"
            ) from None

    def meta(self, row: int) -> Meta:
        """The provenance of a sample, from the index."""
        values = self.row(row)
        try:
            return Meta(**{name: values[name] for name in META_TYPES})
        except ValueError as error:
            raise BuildError(f"{self.index_path}: row {row}: {error}") from None

    def sample(self, row: int) -> Sample:
        """A whole sample, from the shard; BuildError if it is damaged."""
        values = self.row(row)
        try:
            return read_sample(self._map, values["key"], Place.of(values))
        except ValueError as error:
            raise BuildError(f"{self.path}: {values['key']}: {error}; run cdgen verify") from None

    @cached_property
    def _map(self) -> mmap.mmap:
        return map_file(self.path)

    @cached_property
    def _columns(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, pa.Array]]:
        """(numbers and booleans, strings) by name: small, and quick to take a row from."""
        table = read_index(self.index_path).combine_chunks()
        strings = {f.name for f in INDEX_SCHEMA if f.type == pa.string()}
        return (
            {name: table[name].to_numpy() for name in table.column_names if name not in strings},
            {name: _one_chunk(table[name]) for name in table.column_names if name in strings},
        )

    def _fitting_dtype(self, placed: dict[str, npt.NDArray[np.int64]]) -> npy.IdDtype:
        """The dtype of all ids, after checking that shard and index fit."""
        with reading(self.path):
            size = self.path.stat().st_size
        dtype = fitting_dtype(placed, size)
        if dtype is None:
            raise BuildError(
                f"{self.path} ({size} bytes) and {self.index_path} do not fit: run cdgen verify"
            )
        return dtype


def fitting_dtype(
    placed: Mapping[str, npt.NDArray[np.int64]], num_bytes: int
) -> npy.IdDtype | None:
    """The dtype of a shard's ids if its index fits a shard of `num_bytes`, else None: no view can leave the file.

    Args:
        placed: the columns of `PLACED`, or of `IDS_PLACED`, of the index.
        num_bytes: of the shard's file.
    """
    # Hostile numbers are bounded one by one: sums of 64-bit integers wrap around silently.
    if any(((column < 0) | (column > num_bytes)).any() for column in placed.values()):
        return None
    # The ids are the last member of a sample: where they end, padded, the next sample begins.
    padded = -(-placed["npy_length"] // ustar.BLOCK) * ustar.BLOCK
    ends = np.concatenate([np.zeros(1, np.int64), placed["npy_offset"] + padded])
    fits = (placed["npy_offset"] > ends[:-1]).all() and ends[-1] + len(ustar.END) == num_bytes
    if "offset" in placed:
        starts, lengths = placed["offset"], placed["length"]
        fits &= np.array_equal(starts, ends[:-1]) and np.array_equal(starts + lengths, ends[1:])
    if fits:
        for dtype in npy.DTYPES:
            lengths = npy.HEADER_BYTES + placed["num_tokens"] * dtype.itemsize
            if np.array_equal(placed["npy_length"], lengths):
                return dtype
    return None


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
