"""Every document's side of the split, and its name: what is decided before a document is cut.

The side is keyed by the text alone, so copies of a text land on one side, whatever their sources, and a new source
moves nothing. A source with `only` breaks the rule for its own documents; copies of them that would land on another
side are left out and counted: nothing that is kept for evaluation is trained on.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from cdgen.recipes.schema import Text
from cdgen.text.occurrences import Occurrences
from cdgen.text.sources import Document, read
from cdgen.text.splits import SIDES, document_id, side

BATCH_DOCUMENTS = 4096
BATCH_CHARACTERS = 1 << 23
"""A batch ends with the document that reaches either."""

LEFT_OUT = "left out"
"""The side of a document whose text an `only` source keeps for another side."""

Paths = Mapping[str, Path | None]
T = TypeVar("T", bound="Document | Placed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A document with its id (occurrence included) and its side of the split."""

    document: Document
    id: str
    side: str

    @property
    def text(self) -> str:
        """Of the document."""
        return self.document.text


def place(text: Text, paths: Paths) -> Iterator[Placed]:
    """Every document of the sources, in their order; the n-th copy of a document gets occurrence n.

    Args:
        text: the recipe's text section.
        paths: by source; None for a dataset on the Hub.
    """
    seen, kept = Occurrences(), _Kept(text, paths)
    for batch in batches(read(text.sources, paths)):
        names = [document_id(document.source, document.text) for document in batch]
        hashes = np.array([int(name[:16], 16) for name in names], np.uint64)
        for document, name, number in zip(batch, names, seen.number(hashes).tolist(), strict=True):
            yield Placed(document=document, id=f"{name}-{number}", side=kept.side(document))


def train_texts(text: Text, paths: Paths) -> Iterator[str]:
    """The texts a tokenizer may learn from."""
    kept = _Kept(text, paths)
    for document in read(text.sources, paths):
        if kept.side(document) == "train":
            yield document.text


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """The items, in batches that are bounded in documents and in characters."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.text)
        if len(batch) == BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Kept:
    """The texts that sources with `only` keep for one side, 9 bytes of memory each; the first such source counts."""

    def __init__(self, text: Text, paths: Paths) -> None:
        self._splits = text.splits
        only = [source for source in text.sources if source.only]
        hashes: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        sides: list[npt.NDArray[np.uint8]] = [np.empty(0, np.uint8)]
        for batch in (
            batches(read(only, paths)) if only != list(text.sources) or len(only) > 1 else ()
        ):
            hashes.append(np.array([_hash(document.text) for document in batch], np.uint64))
            sides.append(
                np.array([SIDES.index(document.only or "") for document in batch], np.uint8)
            )
        self._hashes, first = np.unique(np.concatenate(hashes), return_index=True)
        self._sides = np.concatenate(sides)[first]

    def side(self, document: Document) -> str:
        """The document's side, or LEFT_OUT."""
        own = document.only or side(document.text, self._splits)
        if not len(self._hashes):
            return own
        hashed = np.uint64(_hash(document.text))
        at = int(np.searchsorted(self._hashes, hashed))
        if at < len(self._hashes) and self._hashes[at] == hashed and SIDES[self._sides[at]] != own:
            return LEFT_OUT
        return own


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())
