"""A source read with another tokenizer: its texts are encoded once, and the new ids kept by what they are made of.

The order of documents is that of the corpus; only their lengths and ids are others. A document begins with the new
tokenizer's BOS, where it has one, and ends with its EOS where it ended with the corpus's.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash

from cdgen.errors import BuildError, UsageError
from cdgen.shards.files import ShardFiles
from cdgen.shards.manifest import ManifestShard
from cdgen.shards.reader import MappedShard
from cdgen.shards.sample import id_dtype
from cdgen.storage import atomic_write, canonical_json, reading, sha256_file
from cdgen.storage.cache import default_cache
from cdgen.streaming.line import Rows
from cdgen.streaming.sources import ShardSource
from cdgen.text.tokenizer import FILES, Tokenizer

FORMAT = 1
"""Raised when the same text must be encoded anew."""

_IDS, _HASHES, _COUNTS = "ids.npy", "hashes.npy", "num_tokens.npy"
_TEXTS = 256


class Encoder:
    """Encodes shards, and keeps what it made.

    Args:
        folder: of the new tokenizer.
        corpus: the folder that holds the corpus's own tokenizer/.
        cache: where the ids are kept; $CDGEN_CACHE by default.

    Raises:
        UsageError: a tokenizer cannot be read, or has no end-of-text token.
    """

    def __init__(self, folder: Path, corpus: Path, cache: Path | None = None) -> None:
        self._tokenizer = Tokenizer.load(folder)
        if self._tokenizer.eos_id is None:
            raise UsageError(
                f"{folder}: has no end-of-text token, so documents would run into each other; set eos_token in its "
                "tokenizer_config.json"
            )
        self._old_end = Tokenizer.load(corpus / "tokenizer").eos_id
        self._dtype = id_dtype(self._tokenizer.vocab_size)
        self._cache = (cache or default_cache()) / "retokenized"
        names = [name for name in FILES if (folder / name).is_file()]
        self.digest = _digest([FORMAT, [sha256_file(folder / name) for name in names]])

    def folder(self, entry: ManifestShard, files: ShardFiles) -> Path:
        """Where a shard's new ids are; they are made if they are not there."""
        folder = self._cache / _digest([self.digest, entry.sha256])
        if not (folder / _COUNTS).is_file():
            with MappedShard(files.shard(entry), files.index(entry)) as shard:
                self._write(shard, folder)
            files.release([entry])
        return folder

    def _write(self, shard: MappedShard, folder: Path) -> None:
        ids = [
            encoded
            for first in range(0, len(shard), _TEXTS)
            for encoded in self._encode(shard, range(first, min(first + _TEXTS, len(shard))))
        ]
        hashes = [xxhash.xxh64_intdigest(part.tobytes()) for part in ids]
        _save(folder / _IDS, np.concatenate([np.empty(0, self._dtype), *ids]))
        _save(folder / _HASHES, np.array(hashes, np.uint64))
        # Last: with it everything is there.
        _save(folder / _COUNTS, np.array([len(part) for part in ids], np.int64))

    def _encode(self, shard: MappedShard, rows: range) -> list[np.ndarray]:
        bos, eos = self._tokenizer.bos_id, self._tokenizer.eos_id
        head = [] if bos is None else [bos]
        made = []
        for row, ids in zip(
            rows, self._tokenizer.encode([shard.text(r) for r in rows]), strict=True
        ):
            tail = [eos] if shard.ids(row)[-1] == self._old_end else []
            made.append(np.concatenate([head, ids, tail]).astype(self._dtype))
        return made


class RetokenizedSource(ShardSource):
    """A source whose ids are those of another tokenizer."""

    def __init__(self, source: ShardSource, encoder: Encoder) -> None:
        super().__init__(source.name, source.entries, source.files, source.masks)
        self._folders = [encoder.folder(entry, source.files) for entry in source.entries]
        self._tokenizer = encoder.digest
        self.num_tokens = np.array(
            [int(rows.num_tokens.sum()) for rows in map(self._read_rows, range(len(self.entries)))],
            np.int64,
        )

    @property
    def digest(self) -> str:
        """Of what is read: the shards, the masks and the tokenizer."""
        return _digest([super().digest, self._tokenizer])[:16]

    def rows(self, shards: Sequence[int]) -> list[Rows]:
        """The documents of shards: their new tokens, and where they begin."""
        return [self._read_rows(shard) for shard in shards]

    def _read_rows(self, shard: int) -> Rows:
        counts = _load(self._folders[shard] / _COUNTS)
        if len(counts) != self.entries[shard].num_samples:
            raise BuildError(f"{self._folders[shard]}: does not fit its shard; remove it")
        mask = self.masks.get(self.entries[shard].name)
        where = np.cumsum(counts) - counts
        xxh64 = _load(self._folders[shard] / _HASHES).view(np.int64)
        return Rows(counts if mask is None else np.where(mask, counts, 0), where, xxh64)

    def ids(self, shard: int) -> np.ndarray:
        """All new ids of a shard, mapped."""
        return _load(self._folders[shard] / _IDS, mapped=True)

    def longest(self) -> int:
        """Tokens of the longest document that is read."""
        every = map(self._read_rows, range(len(self.entries)))
        return max(int(rows.num_tokens.max(initial=0)) for rows in every)

    def _ids_of(self, mapped: MappedShard, shard: int, row: int) -> tuple[np.ndarray, int]:
        rows = self._read_rows(shard)
        begin = int(rows.where[row])
        ids = self.ids(shard)[begin : begin + int(_load(self._folders[shard] / _COUNTS)[row])]
        return ids, int(_load(self._folders[shard] / _HASHES)[row])


def retokenized(sources: Sequence[ShardSource], folder: Path, corpus: Path) -> list[ShardSource]:
    """The sources, read with the tokenizer in `folder`; `corpus` is the folder with the corpus's own tokenizer/."""
    encoder = Encoder(folder, corpus)
    return [RetokenizedSource(source, encoder) for source in sources]


def _digest(what: object) -> str:
    return hashlib.sha256(canonical_json(what)).hexdigest()[:32]


def _save(path: Path, values: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    atomic_write(path, file.getvalue())


def _load(path: Path, *, mapped: bool = False) -> np.ndarray:
    try:
        with reading(path):
            values: np.ndarray = np.load(
                path, mmap_mode="r" if mapped else None, allow_pickle=False
            )
    except ValueError:
        raise BuildError(f"{path}: is damaged; remove its folder, and it is made again") from None
    return values
