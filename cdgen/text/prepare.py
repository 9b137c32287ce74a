"""The text stage: sources in, real shards and a table of prefixes out.

One pass over the sources trains the tokenizer (where the recipe asks for one), another one cuts, tokenizes and
writes. Memory holds a batch of documents, and one hash per document for duplicates.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.recipes.schema import Source, Text
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.sample import Meta, Sample, id_dtype, real_key
from cdgen.shards.writer import ShardInfo, ShardWriter
from cdgen.storage import atomic_file
from cdgen.text.sources import Document, blank_line_documents
from cdgen.text.splits import Span, chunks, document_id, pieces, side
from cdgen.text.tokenizer import Tokenizer

BATCH_DOCUMENTS = 256

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
class Placed:
    """A document with its id (occurrence included) and its side of the split."""

    document: Document
    id: str
    side: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextResult:
    """What the text stage made."""

    shards: tuple[tuple[str, ShardInfo], ...]
    """(split, info) of each real shard."""
    num_prefixes: int
    counts: Mapping[str, int]
    """documents_train, documents_eval, documents_prefix, duplicates, pieces."""
    sources: Mapping[str, Mapping[str, int]]
    """By source: documents and tokens of the train split."""


def read(sources: Iterable[Source], paths: Mapping[str, Path]) -> Iterator[Document]:
    """All documents of all sources, in recipe order."""
    for source in sources:
        for text in blank_line_documents(paths[source.name]):
            yield Document(source=source.name, license=source.license, text=text, only=source.only)


def place(documents: Iterable[Document], text: Text) -> Iterator[Placed]:
    """Give each document its id and its side; the n-th copy of a document gets occurrence n."""
    seen: Counter[str] = Counter()
    for document in documents:
        name = document_id(document.source, document.text)
        where = document.only or side(document.text, text.splits)
        yield Placed(document=document, id=f"{name}-{seen[name]}", side=where)
        seen[name] += 1


def train_texts(placed: Iterable[Placed]) -> Iterator[str]:
    """The texts a tokenizer may learn from."""
    return (item.document.text for item in placed if item.side == "train")


class _Shards:
    """Real shards of one split, a new one every `documents` samples."""

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

    def add(self, sample: Sample) -> None:
        if self._writer is None:
            name = shard_name("real", self._split, self._digest, len(self.infos))
            paths = shard_path(self._out, name), index_path(self._out, name)
            self._writer = self._stack.enter_context(ShardWriter(*paths, self._dtype))
        self._writer.add(sample)
        if self._writer.num_samples == self._documents:
            self._stack.close()
            self._note()

    def _note(self) -> None:
        if self._writer is not None:
            self.infos.append(self._writer.info)
            self._writer = None


def write_text(
    placed: Iterable[Placed],
    text: Text,
    tokenizer: Tokenizer,
    out: Path,
    *,
    digest: str,
    documents: int,
    prefixes: Path,
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
    """
    counts: Counter[str] = Counter()
    by_source: dict[str, Counter[str]] = {source.name: Counter() for source in text.sources}
    num_prefixes = 0
    with ExitStack() as stack:
        shards = {
            split: stack.enter_context(_Shards(out, split, digest, documents, tokenizer))
            for split in ("train", "eval")
        }
        file = stack.enter_context(atomic_file(prefixes))
        table = stack.enter_context(pq.ParquetWriter(file, PREFIX_SCHEMA, compression="zstd"))
        for batch in _batches(placed, BATCH_DOCUMENTS):
            rows = list(_prefix_rows(batch, tokenizer))
            table.write_table(pa.Table.from_pylist(rows, schema=PREFIX_SCHEMA))
            num_prefixes += len(rows)
            for sample in _real_samples(batch, text.max_document_tokens, tokenizer):
                shards[sample.meta.split].add(sample)
                counts["pieces"] += sample.meta.truncated
                if sample.meta.split == "train":
                    by_source[sample.meta.origin].update(documents=1, tokens=sample.meta.num_tokens)
            for item in batch:
                counts[f"documents_{item.side}"] += 1
                counts["duplicates"] += not item.id.endswith("-0")
    made = tuple((split, info) for split, kept in shards.items() for info in kept.infos)
    return TextResult(
        shards=made, num_prefixes=num_prefixes, counts=dict(counts), sources=by_source
    )


def _real_samples(batch: list[Placed], max_tokens: int, tokenizer: Tokenizer) -> Iterator[Sample]:
    """Real documents and pieces: BOS first; EOS last where the document ends."""
    special = (tokenizer.bos_id is not None) + (tokenizer.eos_id is not None)
    cut = [
        (item, number, span, number == len(spans) - 1)
        for item in batch
        if item.side != "prefix"
        for spans in [pieces(item.document.text, tokenizer.num_tokens, max_tokens - special)]
        for number, span in enumerate(spans)
    ]
    encoded = tokenizer.encode([span.text for _, _, span, _ in cut])
    for (item, number, span, last), ids in zip(cut, encoded, strict=True):
        yield _real_sample(
            item, number, span, framed(ids, tokenizer, ended=last), truncated=not last
        )


def _real_sample(
    item: Placed, number: int, span: Span, ids: np.ndarray, *, truncated: bool
) -> Sample:
    meta = Meta(
        source="real",
        origin=item.document.source,
        license=item.document.license,
        document=item.id,
        start=span.start_bytes,
        end=span.end_bytes,
        split=item.side,
        num_tokens=len(ids),
        part=number,
        truncated=truncated,
    )
    return Sample(key=real_key(item.id, number), text=span.text, ids=ids, meta=meta)


def framed(ids: np.ndarray, tokenizer: Tokenizer, *, ended: bool) -> np.ndarray:
    """Ids as a trainer consumes them: BOS first, EOS last if the document ended; `[tokens]` in the shards' dtype."""
    head = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    tail = [tokenizer.eos_id] if ended and tokenizer.eos_id is not None else []
    return np.concatenate([head, ids, tail]).astype(id_dtype(tokenizer.vocab_size))


def _prefix_rows(batch: list[Placed], tokenizer: Tokenizer) -> Iterator[dict[str, object]]:
    spans = [
        (item, number, span)
        for item in batch
        if item.side == "prefix"
        for number, span in enumerate(chunks(item.document.text))
    ]
    texts = [span.text for _, _, span in spans]
    for (item, number, span), (ids, ends) in zip(
        spans, tokenizer.encode_with_ends(texts), strict=True
    ):
        has_bos = tokenizer.bos_id is not None
        yield {
            "document": item.id,
            "source": item.document.source,
            "license": item.document.license,
            "chunk": number,
            "start": span.start_bytes,
            "end": span.end_bytes,
            "ids": framed(ids, tokenizer, ended=False).tolist(),
            "ends": [0, *ends] if has_bos else ends,
        }


def _batches(items: Iterable[Placed], size: int) -> Iterator[list[Placed]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
