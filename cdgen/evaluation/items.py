"""What a task asks a model: sums of log-probabilities of texts, or of ends of texts."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgen.storage import sha256_file


@dataclass(frozen=True, slots=True)
class Option:
    """A text, and the character where the part that is scored begins."""

    text: str
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question.

    Attributes:
        part: the sub-task, perhaps a path such as "regular/3_ops": a score is the mean of the means of the parts.
        name: unique in its task and part.
        options: the texts that are compared.
        gold: which one is right.
        tags: what else is known of it; a derived task takes the items with its tag.
        inputs: numbers that enter the task's score beside the model's.
    """

    part: str
    name: str
    options: tuple[Option, ...]
    gold: int = 0
    tags: tuple[str, ...] = ()
    inputs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task's items and the digest of the files they came from."""

    items: Sequence[Item]
    digest: str


def first_of_each_part(items: Iterable[Item], limit: int | None) -> list[Item]:
    """The first `limit` items of every part; all of them where it is None."""
    if limit is None:
        return list(items)
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        seen[item.part] = seen.get(item.part, 0) + 1
        if seen[item.part] <= limit:
            kept.append(item)
    return kept


def files_digest(files: Sequence[Path]) -> str:
    """sha256 hex over the names and bytes of the files, in the order of their names."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda one: one.name):
        total.update(f"{file.name}\0{sha256_file(file)}\n".encode())
    return total.hexdigest()
