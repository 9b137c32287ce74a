"""`cdgen verify` of a corpus that is in a folder or somewhere else."""

from collections.abc import Callable
from pathlib import Path

from cdgen.corpus import open_corpus
from cdgen.processes import processors
from cdgen.shards.verify import Report, verify
from cdgen.storage.remote import is_remote

_SMALL = 1 << 26
"""Bytes of shards that one process checks while others would start."""
_MOST = 16
"""Processes, unless more are asked for: they take 150 MB each, and soon wait for the disk."""


def verify_anywhere(
    corpus: str | Path,
    *,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
) -> tuple[str, Report]:
    """(where, what was found); shards from afar come through the cache, one after another.

    Args:
        corpus: its folder or address.
        progress: called after each shard with its size in bytes.
        workers: processes that check shards of a folder; as many as are worth it by default.

    Raises:
        UsageError: there is no corpus.
        BuildError: it cannot be read at all. Everything else is a problem in the report.
    """
    if isinstance(corpus, str) and is_remote(corpus):
        opened = open_corpus(corpus)
        return opened.where, verify(opened.folder, files=opened.files, progress=progress)
    folder = Path(corpus)
    workers = default_workers(folder) if workers is None else workers
    return str(folder), verify(folder, progress=progress, workers=workers)


def default_workers(folder: Path) -> int:
    """One for a small corpus; the cores of this machine, up to 16, for a large one."""
    sizes = (path.stat().st_size for path in folder.glob("data/*/*.tar") if path.is_file())
    return max(1, min(sum(sizes) // _SMALL, processors(), _MOST))
