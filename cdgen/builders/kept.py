"""What $CDGEN_CACHE keeps: tokenizers, trained weights, and what was read of remote corpora, listed and cleared.

A clearing never leaves the cache's folder: entries are recognised by their names, links are not followed, and a folder
that holds anything else is refused whole. An entry is renamed before it is deleted, so that a build never meets half
of one, and a shard that a running process reads stays. What is cleared is trained or fetched again, with the same
result, when it is needed.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import BuildError, UsageError
from cdgen.storage import TEMPORARY_PREFIX, holder
from cdgen.storage.cache import ENTRY, default_cache
from cdgen.storage.cache import Cache as SharedFiles

SECONDS_PER_DAY = 86_400
SHARED = "shards"
"""Files that other processes may have pinned."""
FILES = (SHARED, "places", "listings")
"""The folders whose entries are files."""
KINDS = {
    "tokenizers": re.compile(r"([0-9a-f]{32})()"),
    "models": re.compile(r"([0-9a-f]{32})-([0-9a-f]{8})"),
    "ngrams": re.compile(r"([0-9a-f]{32})()"),
    "corpora": re.compile(r"([0-9a-f]{64})()"),
    "fetched": re.compile(r"([0-9a-f]{64})()"),
    "listings": re.compile(r"([0-9a-f]{64})()"),
    "builds": re.compile(r"([0-9a-f]{32})()"),
    SHARED: ENTRY,
    "places": re.compile(r"([0-9a-f]{3})()"),
    "retokenized": re.compile(r"([0-9a-f]{32})()"),
}
"""By folder: the names of its entries, which are the digest and the numeric class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One entry of the cache."""

    kind: str
    """tokenizers, models, ngrams, corpora, fetched (models), listings (of models in object stores), builds, shards,
    or places (of documents in shards)."""
    digest: str
    """The first half of the digest of the tokenizer, training run or n-gram counts, or of the SHA-256 of the address
    that a build goes to; the SHA-256 of a manifest, shard or index."""
    numeric_class: str
    """8 digits that name the class of the machine that weights were trained on; empty for the others."""
    num_bytes: int
    age_days: float
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """The cache folder and what `cdgen cache` shows of it."""

    folder: str
    entries: tuple[Kept, ...]
    """Oldest last."""
    cleared: bool
    """Whether the entries were deleted."""
    num_bytes: int


def list_cache(
    folder: Path | None = None,
    *,
    clear: bool = False,
    older_than_days: float = 0.0,
    clock: Callable[[], float] = time.time,
) -> Cache:
    """List the cache's entries, or delete them.

    Args:
        folder: $CDGEN_CACHE, or the user's cache folder, by default.
        clear: delete what is listed.
        older_than_days: leave newer entries out of it.
        clock: seconds since 1970.

    Raises:
        UsageError: the folder holds something that is not a cache's.
        BuildError: an entry cannot be deleted.
    """
    folder = folder or default_cache()
    _check_folder(folder)
    now = clock()
    found = [_kept(kind, path, now) for kind in KINDS for path in _entries(folder / kind)]
    chosen = sorted(
        (entry for entry in found if entry.age_days >= older_than_days),
        key=lambda entry: (entry.age_days, entry.path),
    )
    if clear:
        chosen = [entry for entry in chosen if _delete(Path(entry.path))]
        for path in _left_behind(folder):
            _delete(path)
    return Cache(
        folder=str(folder),
        entries=tuple(chosen),
        cleared=clear,
        num_bytes=sum(entry.num_bytes for entry in chosen),
    )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that somebody named by mistake: nothing is deleted on a guess."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder}: not a folder; $CDGEN_CACHE names the cache")
    odd = [path for path in _listed(folder) if path.name not in KINDS]
    odd += [
        path for kind, name in KINDS.items() for path in _listed(folder / kind)
        if path.is_symlink() or path.is_dir() == (kind in FILES) or not name.fullmatch(path.name)
    ]  # fmt: skip
    odd += [folder / kind for kind in KINDS if (folder / kind).is_symlink()]
    odd = [path for path in odd if path.is_symlink() or not path.name.startswith(TEMPORARY_PREFIX)]
    if odd:
        raise UsageError(
            f"{folder}: not a cdgen cache, it holds {odd[0].relative_to(folder)}; $CDGEN_CACHE names the cache"
        )


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where there is none."""
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _entries(folder: Path) -> Iterator[Path]:
    yield from (path for path in _listed(folder) if not path.name.startswith(TEMPORARY_PREFIX))


def _left_behind(folder: Path) -> Iterator[Path]:
    """What killed builds and clearings left, an hour old or more: a running build may be writing the others."""
    for kind in KINDS:
        for path in _listed(folder / kind):
            old = time.time() - path.stat().st_mtime > 3600
            if path.name.startswith(TEMPORARY_PREFIX) and old:
                yield path


def _kept(kind: str, path: Path, now: float) -> Kept:
    named = KINDS[kind].fullmatch(path.name)
    assert named is not None, "the folder was checked"
    walked = [Path(parent) / name for parent, _, names in os.walk(path) for name in names]
    files = walked if path.is_dir() else [path]
    stats = [file.lstat() for file in files]
    newest = max((stat.st_mtime for stat in stats), default=path.stat().st_mtime)
    return Kept(
        kind=kind,
        digest=named[1],
        numeric_class=named[2] if kind != SHARED else "",
        num_bytes=sum(stat.st_size for stat in stats),
        age_days=max(0.0, (now - newest) / SECONDS_PER_DAY),
        path=str(path),
    )


def _delete(path: Path) -> bool:
    """Whether it could be deleted; not while a process reads it, or works in it."""
    aside = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    try:
        if path.parent.name == SHARED:
            return SharedFiles(path.parent).delete(path)
        if path.parent.name == "builds" and holder(path) is not None:
            return False  # a build works in it
        path.rename(aside)
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    except OSError as error:
        raise BuildError(f"cannot delete {path}: {error.strerror}") from None
    return True
