"""The two doors: `cdgen.blocks` (map-style) and `cdgen.stream` (iterable)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

from cdgen.corpus import Corpus, open_corpus
from cdgen.errors import UsageError
from cdgen.streaming.dataset import BlockDataset
from cdgen.streaming.documents import DocumentStream
from cdgen.streaming.gather import Gather
from cdgen.streaming.line import KEPT_DOCUMENTS, Line
from cdgen.streaming.loader import StreamDataset
from cdgen.streaming.merged import Merged
from cdgen.streaming.sampler import this_rank
from cdgen.streaming.shares import (
    Weights,
    check_repeats,
    extent_of,
    own_size,
    schedule_of,
)
from cdgen.streaming.sources import ShardSource, open_sources

SHUFFLES = ("windows", "corpus", False)
Folder = Corpus | str | PathLike[str]


def blocks(
    corpus: Folder,
    *,
    split: str = "train",
    block: int = 1024,
    seed: int = 0,
    synthetic: float | Sequence[tuple[int, float]] | None = None,
    weights: Weights | Sequence[tuple[int, Weights]] | None = None,
    shuffle: str | bool = "windows",
    shuffle_blocks: int = 0,
    size: str | int | None = None,
    epochs: int | None = 1,
    repeat: str | Mapping[str, int] | None = None,
    fields: Sequence[str] = ("input_ids", "labels"),
    verify: bool = True,
    on_damage: str = "stop",
    dtype: str = "int64",
    tokenizer: str | PathLike[str] | None = None,
) -> BlockDataset:
    """Training blocks of a corpus, as a map-style dataset.

    The order is a pure function of the shards, the shares, the seed and `shuffle`. Sources are merged exactly in
    tokens at every document boundary (`BlockDataset.bounds`), and each is shuffled anew in every pass.

    Args:
        corpus: an open corpus, its folder or its address.
        split: train or eval.
        block: tokens per block.
        seed: key of the order.
        synthetic: the share of synthetic tokens; by default the corpus's own. A list of (first token, share) changes
            it on the way, at the first document boundary from each token on.
        weights: whole numbers by source (real, synthetic, also-<8 digits>) instead, or several with their first tokens.
        shuffle: windows (documents among 16 neighbouring shards; any block is found in constant time), corpus (among
            all: keeps six int64 columns of every document, and reads every index first), False (the order of the
            files).
        shuffle_blocks: blocks are shuffled among so many neighbours too, such as 1024; 0 for none. Without it,
            neighbouring blocks are often parts of one long document, and small batches learn less from them. With it,
            the mix is exact where so many blocks end, and by chance in between.
        size: what an epoch is: real_once, synthetic_once or a number of tokens; by default what the mix had.
        epochs: how many; None for an endless run. It ends at a document boundary.
        repeat: error (a source is read once an epoch at most), allow, or the most passes by source; by default what
            the corpus's mix did.
        fields: what an item has, of input_ids, labels, position_ids, document_ids, source_ids `[block]`, cu_seqlens
            `[documents + 1]` and span_sources `[documents]`.
        verify: compare the ids of every document with their hash when it is first read.
        on_damage: stop, or skip: what cannot be read becomes ids 0 with labels -100, and is reported in `damage`.
        dtype: of ids and labels, int64 or int32.
        tokenizer: the folder of another tokenizer. All texts are encoded with it the first time, and kept in
            $CDGEN_CACHE; shares are then exact in its tokens.

    Raises:
        UsageError: arguments that the corpus cannot serve.
        BuildError: a source would run dry (says at which block), or the corpus is damaged.
    """
    run = _opened(
        corpus,
        split=split,
        seed=seed,
        synthetic=synthetic,
        weights=weights,
        shuffle=shuffle,
        size=size,
        epochs=epochs,
        repeat=repeat,
        block=block,
        tokenizer=tokenizer,
    )
    shuffled = {"shuffle_blocks": shuffle_blocks} if shuffle_blocks else {}
    return BlockDataset(
        run.merged,
        Gather(run.sources, verify=verify, on_damage=on_damage),
        block=block,
        stop=run.stop,
        shuffle_blocks=shuffle_blocks,
        seed=seed,
        fields=fields,
        dtype=dtype,
        fingerprint={**run.fingerprint, "block": block, **shuffled},
        ahead=_Hints(run.sources, run.merged),
    )


@overload
def stream(
    corpus: Folder,
    *,
    block: int = ...,
    rank: int | None = ...,
    world_size: int | None = ...,
    batch_size: int | None = ...,
    batched: bool = ...,
    **options: Any,
) -> StreamDataset: ...


@overload
def stream(
    corpus: Folder,
    *,
    block: None,
    rank: int | None = ...,
    world_size: int | None = ...,
    batch_size: int | None = ...,
    batched: bool = ...,
    **options: Any,
) -> DocumentStream: ...


def stream(
    corpus: Folder,
    *,
    block: int | None = 1024,
    rank: int | None = None,
    world_size: int | None = None,
    batch_size: int | None = None,
    batched: bool = True,
    **options: Any,
) -> StreamDataset | DocumentStream:
    """Training blocks of a corpus in global order, as an iterable dataset for one rank.

    Args:
        corpus: as of `blocks`.
        block: tokens per block, or None for documents with their text and provenance.
        rank, world_size: by default those of torch.distributed, else RANK and WORLD_SIZE of the environment, else one.
        batch_size, batched: see `StreamDataset` and `DocumentStream`.
        options: as of `blocks`; documents have no fields, no dtype and no shuffle_blocks.
    """
    number, of = this_rank(rank, world_size)
    if block is None:
        if odd := sorted({"fields", "dtype", "shuffle_blocks"} & set(options)):
            raise UsageError(f"documents have no {', '.join(odd)}: leave that out")
        return _documents(corpus, number, of, batch_size=batch_size, batched=batched, **options)
    return StreamDataset(
        blocks(corpus, block=block, **options),
        batch_size=batch_size,
        rank=number,
        world_size=of,
        batched=batched,
    )


def _documents(
    corpus: Folder,
    rank: int,
    world_size: int,
    *,
    batch_size: int | None,
    batched: bool,
    verify: bool = True,
    on_damage: str = "stop",
    **order: Any,
) -> DocumentStream:
    run = _opened(corpus, block=None, **order)
    return DocumentStream(
        run.merged,
        run.sources,
        stop=run.stop,
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
        batched=batched,
        verify=verify,
        on_damage=on_damage,
        fingerprint={**run.fingerprint, "block": None},
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """An opened corpus in global order, and where the run ends."""

    sources: Sequence[ShardSource]
    merged: Merged
    stop: int | None
    fingerprint: dict[str, Any]


def _opened(
    corpus: Folder,
    *,
    block: int | None,
    split: str = "train",
    seed: int = 0,
    synthetic: float | Sequence[tuple[int, float]] | None = None,
    weights: Weights | Sequence[tuple[int, Weights]] | None = None,
    shuffle: str | bool = "windows",
    size: str | int | None = None,
    epochs: int | None = 1,
    repeat: str | Mapping[str, int] | None = None,
    tokenizer: str | PathLike[str] | None = None,
) -> _Run:
    opened = corpus if isinstance(corpus, Corpus) else open_corpus(str(corpus))
    if shuffle not in SHUFFLES:
        raise UsageError(f"shuffle must be windows, corpus or False, found {shuffle!r}")
    sources: Sequence[ShardSource] = open_sources(opened, split)
    if tokenizer is not None:
        from cdgen.streaming.retokenized import retokenized  # tokenizers takes long to import

        sources = retokenized(sources, Path(tokenizer), opened.folder)
    names = [source.name for source in sources]
    mix = opened.manifest.mix if split == "train" else None
    schedule = schedule_of(names, mix, synthetic, weights)
    kept = KEPT_DOCUMENTS // len(sources)
    lines = [Line(source, seed, shuffle=shuffle, kept_documents=kept) for source in sources]
    merged = Merged(lines, schedule)
    own = synthetic is None and weights is None
    passes = {source.name: int(source.num_tokens.sum()) for source in sources}
    size = size or (own_size(mix, passes) if own else "real_once")
    extent = extent_of(merged, size, epochs)
    if repeat is None:
        repeats = own and mix is not None and any(part.num_passes > 1 for part in mix.parts)
        repeat = "allow" if repeats else "error"
    check_repeats(merged, extent, epochs, repeat, block)
    fingerprint = {
        "sources": {source.name: source.digest for source in sources},
        "weights": [[token, list(step)] for token, step in schedule],
        "seed": seed,
        "shuffle": shuffle,
    }
    return _Run(sources, merged, extent.stop, fingerprint)


@dataclass(frozen=True, slots=True)
class _Hints:
    """Tells the store of the files which shards come with a token and next."""

    sources: Sequence[ShardSource]
    merged: Merged

    def __call__(self, token: int) -> None:
        coming = self.merged.coming(token)
        entries = [self.sources[line].entries[shard] for line, shard in coming]
        self.sources[0].files.ahead(entries)
