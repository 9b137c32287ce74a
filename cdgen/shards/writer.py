"""Write a shard and its index, hashing on the way: complete or not at all, and the same bytes on every machine."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import xxhash

from cdgen.errors import BuildError
from cdgen.shards import npy, ustar
from cdgen.shards.index import Place, Row, ids_xxh64, index_bytes, index_row
from cdgen.shards.sample import MEMBERS, Sample, check_key
from cdgen.storage import FileStamp, atomic_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """What is in a finished shard."""

    name: str
    sha256: str
    num_bytes: int
    num_samples: int
    num_tokens: int
    num_text_bytes: int
    num_synthetic_tokens: int
    index: FileStamp


class ShardWriter:
    """Writes one shard; a context manager. Nothing is at `path` or `index_path` unless the block ends well.

    Args:
        path: the shard's file.
        index_path: its index file, put in place after the shard.
        dtype: of the ids of all samples: uint16 or uint32.
    """

    def __init__(self, path: Path, index_path: Path, dtype: npy.IdDtype) -> None:
        self.path, self.index_path, self.dtype = path, index_path, dtype
        self.num_samples = self.num_bytes = 0
        self._rows: dict[str, Row] = {}
        self._hash = hashlib.sha256()
        self._info: ShardInfo | None = None
        self._file: BinaryIO
        self._session: AbstractContextManager[None]

    def __enter__(self) -> Self:
        self._session = self._writing()
        self._session.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._session.__exit__(kind, error, trace)

    @property
    def info(self) -> ShardInfo:
        """What was written; known once the block has ended."""
        assert self._info is not None, "the shard is not finished"
        return self._info

    def add(self, sample: Sample) -> None:
        """Append a sample. Raises ValueError: a key used before, ids of another dtype, or text that is not Unicode."""
        if sample.ids.dtype != self.dtype:
            raise ValueError(
                f"{sample.key}: ids are {sample.ids.dtype}, the shard's are {self.dtype}"
            )
        contents = sample.text.encode(), sample.meta.to_json(), npy.dump(sample.ids)
        place = Place.at(self.num_bytes, *map(len, contents))
        row = index_row(sample.key, place, contents[0], contents[2], sample.meta)
        self._append(row, _members(sample.key, contents))

    def copy(self, raw: bytes | memoryview, row: Row, *, key: str | None = None) -> None:
        """Append a sample of another shard as it is there.

        Args:
            raw: the `length` bytes at `offset` of that shard.
            row: its row in that shard's index.
            key: a new key, for a repeated sample.

        Raises:
            BuildError: `raw` is not what the row says.
            ValueError: a key used before, or ids of another dtype.
        """
        contents = _checked_contents(memoryview(raw), row)
        if bytes(contents[2][:64]) != npy.header(self.dtype, row["num_tokens"])[:64]:
            raise ValueError(f"{row['key']}: its ids are not {self.dtype}, as the shard's are")
        place = Place.at(self.num_bytes, *map(len, contents))
        moved = {**row, **place.columns(), "key": key or row["key"]}
        self._append(moved, raw if key is None else _members(key, contents))

    def _append(self, row: Row, data: bytes | memoryview) -> None:
        check_key(row["key"])
        if row["key"] in self._rows:
            raise ValueError(
                f"{row['key']}: the shard {self.path.name} has a sample of this key already"
            )
        self._write(data)
        self._rows[row["key"]] = row
        self.num_samples += 1

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.num_bytes += len(data)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        committed = False
        try:
            with atomic_file(self.index_path) as index_file:
                with atomic_file(self.path) as self._file:
                    yield
                    self._write(ustar.END)
                    index = index_bytes(self._rows.values())
                    index_file.write(index)
                committed = True
        except BaseException:
            if committed:  # a shard without its index is not complete
                self.path.unlink(missing_ok=True)
            raise
        stamp = FileStamp(
            name=self.index_path.name,
            sha256=hashlib.sha256(index).hexdigest(),
            num_bytes=len(index),
        )
        self._info = self._summary(stamp)

    def _summary(self, index: FileStamp) -> ShardInfo:
        rows = self._rows.values()
        return ShardInfo(
            name=self.path.name,
            sha256=self._hash.hexdigest(),
            num_bytes=self.num_bytes,
            num_samples=len(rows),
            num_tokens=sum(row["num_tokens"] for row in rows),
            num_text_bytes=sum(row["txt_length"] for row in rows),
            num_synthetic_tokens=sum(
                row["num_tokens"] for row in rows if row["source"] == "synthetic"
            ),
            index=index,
        )


def _members(key: str, contents: tuple[bytes | memoryview, ...]) -> bytes:
    """The bytes of a sample in a tar: header, content and padding of each member."""
    parts: list[bytes | memoryview] = []
    for ending, content in zip(MEMBERS, contents, strict=True):
        parts += [
            ustar.header(f"{key}.{ending}", len(content)),
            content,
            ustar.padding(len(content)),
        ]
    return b"".join(parts)


def _checked_contents(raw: memoryview, row: Row) -> tuple[memoryview, memoryview, memoryview]:
    """The contents of the three members of `raw`; BuildError unless they are what the index row says."""
    sizes: list[Any] = [row[f"{ending}_length"] for ending in MEMBERS]
    place = Place.at(0, *sizes)
    contents = (
        raw[place.txt_offset :][: sizes[0]],
        raw[place.json_offset :][: sizes[1]],
        raw[place.npy_offset :][: sizes[2]],
    )
    first = ustar.header(f"{row['key']}.txt", sizes[0])
    if len(raw) != place.length or bytes(raw[: ustar.BLOCK]) != first:
        raise BuildError(
            f"{row['key']}: the shard does not hold this sample where its index says; run cdgen verify"
        )
    if (
        xxhash.xxh64_intdigest(contents[0]) != row["text_xxh64"]
        or ids_xxh64(contents[2]) != row["ids_xxh64"]
    ):
        raise BuildError(
            f"{row['key']}: text or ids differ from their hash in the index; run cdgen verify"
        )
    return contents
