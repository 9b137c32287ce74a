"""`cdgen verify` of a corpus that is in a folder or somewhere else."""

from collections.abc import Callable
from pathlib import Path

from cdgen.corpus import Corpus, open_corpus
from cdgen.processes import processors
from cdgen.shards.cached_files import CachedFiles
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
    """(where, what was found); shards from afar come through the cache, one after another to each process.

    Args:
        corpus: its folder or address.
        progress: called after each shard with its size in bytes.
        workers: processes that check shards; as many as are worth it by default. Of a corpus from afar no more than the
            cache can hold a shard for.

    Raises:
        UsageError: there is no corpus.
        BuildError: it cannot be read at all. Everything else is a problem in the report.
    """
    if isinstance(corpus, str) and is_remote(corpus):
        opened = open_corpus(corpus)
        workers = affordable(opened, workers)
        where, folder, files = opened.where, opened.folder, opened.files
        return where, verify(folder, files=files, progress=progress, workers=workers)
    folder = Path(corpus)
    workers = default_workers(folder) if workers is None else workers
    return str(folder), verify(folder, progress=progress, workers=workers)


def default_workers(folder: Path) -> int:
    """One for a small corpus; the cores of this machine, up to 16, for a large one."""
    sizes = (path.stat().st_size for path in folder.glob("data/*/*.tar") if path.is_file())
    return _worth(sum(sizes))


def affordable(corpus: Corpus, wanted: int | None) -> int:
    """Processes for a corpus from afar: those that are wanted or worth it, if each can have a shard in the cache."""
    sizes = [entry.num_bytes + entry.index.num_bytes for entry in corpus.manifest.shards]
    workers = min(len(sizes), _worth(sum(sizes)) if wanted is None else wanted)
    assert isinstance(corpus.files, CachedFiles)
    while workers > 1 and not corpus.files.cache.may_hold(workers * max(sizes)):
        workers -= 1
    return max(1, workers)


def _worth(num_bytes: int) -> int:
    return max(1, min(num_bytes // _SMALL, processors(), _MOST))
