"""The text stage: sources in, real shards and a table of prefixes out.

Three threads work one after the other on batches of documents: one reads and names them, one cuts them and makes
token ids, one writes. Memory holds a few batches, the index rows of the shards being written, and 12 bytes for each
document. Nothing depends on where a batch ends.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.recipes.schema import Text
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.sample import Meta, Sample, id_dtype, real_key
from cdgen.shards.writer import ShardInfo, ShardWriter
from cdgen.storage import atomic_file
from cdgen.text.ahead import ahead
from cdgen.text.sides import LEFT_OUT, Placed, batches
from cdgen.text.splits import SIDES, Span, chunks, pieces, whole
from cdgen.text.tokenizer import Tokenizer

LONG_CHARACTERS = 1 << 16
"""From here on a document is expected to be cut, and is not tokenized whole in its batch first."""
PREFIX_ROWS = 4096
"""Rows in a group of the prefix table."""

PREFIX_SCHEMA = pa.schema(
    [
        ("document", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("chunk", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("ids", pa.list_(pa.uint32())),
        ("ends", pa.list_(pa.uint32())),
    ]
)
"""One row per chunk of the prefix split, in source order.

The chunk's span in the parent (bytes), its token ids with BOS first, and where each token's text ends (bytes after
the chunk's start).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextResult:
    """What the text stage made."""

    shards: tuple[tuple[str, ShardInfo], ...]
    """(split, info) of each real shard."""
    num_prefixes: int
    counts: Mapping[str, int]
    """documents_train, documents_eval, documents_prefix, left_out, duplicates, pieces."""
    sources: Mapping[str, Mapping[str, int]]
    """By source: documents and tokens of the train split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A batch, cut and tokenized: what is left to do is to write it."""

    batch: list[Placed]
    pieces: list["_Piece"]
    prefixes: pa.Table
    tokenizer: Tokenizer

    def samples(self) -> Iterator[Sample]:
        """The real samples, in order; made only now, by the thread that writes them."""
        return (_real_sample(piece, self.tokenizer) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A document or a part of one, with its ids without special tokens."""

    parent: Placed
    number: int
    span: Span
    ids: np.ndarray
    ended: bool


class _Shards:
    """Real shards of one split, a new one every `documents` samples; after an error none of them is left."""

    def __init__(
        self, out: Path, split: str, digest: str, documents: int, tokenizer: Tokenizer
    ) -> None:
        self.infos: list[ShardInfo] = []
        self._out, self._split, self._digest = out, split, digest
        self._documents, self._dtype = documents, id_dtype(tokenizer.vocab_size)
        self._stack = ExitStack()
        self._writer: ShardWriter | None = None

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]
        if error[0] is None:
            self._note()
            return
        for info in self.infos:
            for path in self._paths(info.name):
                path.unlink(missing_ok=True)

    def add(self, sample: Sample) -> None:
        if self._writer is None:
            name = shard_name("real", self._split, self._digest, len(self.infos))
            self._writer = self._stack.enter_context(ShardWriter(*self._paths(name), self._dtype))
        self._writer.add(sample)
        if self._writer.num_samples == self._documents:
            self._stack.close()
            self._note()

    def _paths(self, name: str) -> tuple[Path, Path]:
        return shard_path(self._out, name), index_path(self._out, name)

    def _note(self) -> None:
        if self._writer is not None:
            self.infos.append(self._writer.info)
            self._writer = None


class _PrefixTable:
    """The prefix table, written in groups of rows."""

    def __init__(self, file: object) -> None:
        self.num_rows = 0
        self._file = pq.ParquetWriter(file, PREFIX_SCHEMA, compression="zstd")
        self._waiting = PREFIX_SCHEMA.empty_table()

    def __enter__(self) -> "_PrefixTable":
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        self._file.close()

    def add(self, rows: pa.Table) -> None:
        self.num_rows += rows.num_rows
        self._waiting = pa.concat_tables([self._waiting, rows])
        if self._waiting.num_rows >= PREFIX_ROWS:
            self._write()

    def _write(self) -> None:
        if self._waiting.num_rows:
            self._file.write_table(self._waiting)
            self._waiting = PREFIX_SCHEMA.empty_table()


def write_text(
    placed: Iterable[Placed],
    text: Text,
    tokenizer: Tokenizer,
    out: Path,
    *,
    digest: str,
    documents: int,
    prefixes: Path,
    on_documents: Callable[[int], None] = lambda _: None,
) -> TextResult:
    """Write the real shards and the prefix table.

    Args:
        placed: every document, in source order.
        text: the recipe's text section.
        tokenizer: the corpus's tokenizer.
        out: the corpus folder.
        digest: the text digest; its first 8 digits are in the shards' names.
        documents: samples per shard.
        prefixes: the parquet file for the prefix table.
        on_documents: told how many more documents are written.
    """
    counts: Counter[str] = Counter()
    by_source: dict[str, Counter[str]] = {source.name: Counter() for source in text.sources}
    with ExitStack() as stack:
        shards = {
            split: stack.enter_context(_Shards(out, split, digest, documents, tokenizer))
            for split in ("train", "eval")
        }
        file = stack.enter_context(atomic_file(prefixes))
        table = stack.enter_context(_PrefixTable(file))
        made = ahead(cut_text(placed, text.max_document_tokens, tokenizer))
        for cut in stack.enter_context(closing(made)):
            table.add(cut.prefixes)
            for sample in cut.samples():
                shards[sample.meta.split].add(sample)
                counts["pieces"] += sample.meta.truncated
                if sample.meta.split == "train":
                    source = by_source[sample.meta.origin]
                    source["documents"] += 1
                    source["tokens"] += sample.meta.num_tokens
            for item in cut.batch:
                counts["left_out" if item.side == LEFT_OUT else f"documents_{item.side}"] += 1
                counts["duplicates"] += not item.id.endswith("-0")
            on_documents(len(cut.batch))
    return TextResult(
        shards=tuple((split, info) for split, kept in shards.items() for info in kept.infos),
        num_prefixes=table.num_rows,
        counts=dict(counts),
        sources=by_source,
    )


def cut_text(placed: Iterable[Placed], max_tokens: int, tokenizer: Tokenizer) -> Iterator[Cut]:
    """Cut and tokenize documents, a batch at a time; reading runs ahead in a thread.

    Args:
        placed: every document, in source order.
        max_tokens: of a piece, special tokens included.
        tokenizer: the corpus's tokenizer.
    """
    with closing(ahead(batches(placed))) as made:
        yield from (_cut(batch, max_tokens, tokenizer) for batch in made)


def _cut(batch: list[Placed], max_tokens: int, tokenizer: Tokenizer) -> Cut:
    assert all(item.side in (*SIDES, LEFT_OUT) for item in batch)
    real = [item for item in batch if item.side in ("train", "eval")]
    return Cut(
        batch=batch,
        pieces=list(_real_pieces(real, max_tokens, tokenizer)),
        prefixes=_prefix_rows([item for item in batch if item.side == "prefix"], tokenizer),
        tokenizer=tokenizer,
    )


# ---- real samples ----


def _real_pieces(items: list[Placed], max_tokens: int, tokenizer: Tokenizer) -> Iterator[_Piece]:
    """Real documents, whole where they are short enough. The limit counts special tokens."""
    most = max_tokens - (tokenizer.bos_id is not None) - (tokenizer.eos_id is not None)
    spans = [whole(item.text) for item in items]
    short = [len(span.text) < LONG_CHARACTERS for span in spans]
    texts = [span.text for span, is_short in zip(spans, short, strict=True) if is_short]
    encoded = iter(_encoded(texts, tokenizer))
    for item, span, is_short in zip(items, spans, short, strict=True):
        ids = next(encoded) if is_short else None
        if ids is not None and len(ids) <= most:
            yield _Piece(item, 0, span, ids, ended=True)
        else:
            yield from _cut_document(item, most, tokenizer)


def _cut_document(item: Placed, max_tokens: int, tokenizer: Tokenizer) -> Iterator[_Piece]:
    """The pieces of a long document; only the last one ends it."""
    counter = _Counter(tokenizer, max_tokens)
    cut = pieces(item.text, counter, max_tokens)
    encoded = counter.ids([span.text for span in cut])
    for number, (span, ids) in enumerate(zip(cut, encoded, strict=True)):
        yield _Piece(item, number, span, ids, ended=number == len(cut) - 1)


class _Counter:
    """Counts tokens up to a limit, and remembers the ids of the last count: `pieces` counts its result last."""

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self._tokenizer, self._most = tokenizer, most
        self._texts: Sequence[str] = ()
        self._ids: list[np.ndarray] = []

    def __call__(self, texts: Sequence[str]) -> list[int]:
        if self._tokenizer.surely_above(max(map(len, texts), default=0), self._most):
            return self._tokenizer.num_tokens(texts, up_to=self._most)
        return list(map(len, self.ids(texts)))

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        if texts != self._texts:
            self._texts, self._ids = texts, _encoded(texts, self._tokenizer)
        return self._ids


def _encoded(texts: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    ids, ends = tokenizer.encode_joined(texts)
    return [ids[first:last] for first, last in pairwise(ends.tolist())]


def _real_sample(piece: _Piece, tokenizer: Tokenizer) -> Sample:
    ids = framed(piece.ids, tokenizer, ended=piece.ended)
    item = piece.parent
    meta = Meta(
        source="real",
        origin=item.document.source,
        license=item.document.license,
        document=item.id,
        start=piece.span.start_bytes,
        end=piece.span.end_bytes,
        split=item.side,
        num_tokens=len(ids),
        part=piece.number,
        truncated=not piece.ended,
    )
    return Sample(key=real_key(item.id, piece.number), text=piece.span.text, ids=ids, meta=meta)


def framed(ids: np.ndarray, tokenizer: Tokenizer, *, ended: bool) -> np.ndarray:
    """Ids as a trainer consumes them: BOS first, EOS last if the document ended; `[tokens]` in the shards' dtype."""
    bos, eos = tokenizer.bos_id, tokenizer.eos_id if ended else None
    first, last = int(bos is not None), int(eos is not None)
    found = np.empty(first + len(ids) + last, id_dtype(tokenizer.vocab_size))
    if bos is not None:
        found[0] = bos
    if eos is not None:
        found[-1] = eos
    found[first : len(found) - last] = ids
    return found


# ---- prefixes ----


def _prefix_rows(items: list[Placed], tokenizer: Tokenizer) -> pa.Table:
    spans = [
        (item, number, span) for item in items for number, span in enumerate(chunks(item.text))
    ]
    encoded = tokenizer.encode_with_ends([span.text for _, _, span in spans])
    ids = [framed(each, tokenizer, ended=False) for each, _ in encoded]
    has_bos = tokenizer.bos_id is not None
    ends = [np.concatenate([[0], each]) if has_bos else each for _, each in encoded]
    columns = {
        "document": [item.id for item, _, _ in spans],
        "source": [item.document.source for item, _, _ in spans],
        "license": [item.document.license for item, _, _ in spans],
        "chunk": [number for _, number, _ in spans],
        "start": [span.start_bytes for _, _, span in spans],
        "end": [span.end_bytes for _, _, span in spans],
        "ids": _lists(ids),
        "ends": _lists(ends),
    }
    return pa.table(columns, schema=PREFIX_SCHEMA)


def _lists(arrays: list[np.ndarray]) -> pa.Array:
    """The arrays as one column of lists."""
    offsets = np.cumsum([0, *map(len, arrays)])
    flat = np.concatenate([np.empty(0, np.uint32), *arrays]).astype(np.uint32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.uint32()))
