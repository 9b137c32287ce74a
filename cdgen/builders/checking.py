"""`cdgen verify` of a corpus that is in a folder or somewhere else."""

from collections.abc import Callable
from pathlib import Path

from cdgen.corpus import open_corpus
from cdgen.shards.verify import Report, verify
from cdgen.storage.remote import is_remote


def verify_anywhere(
    corpus: str | Path, *, progress: Callable[[int], None] | None = None
) -> tuple[str, Report]:
    """(where, what was found); shards from afar come through the cache, one after another.

    Raises:
        UsageError: there is no corpus.
        BuildError: it cannot be read at all. Everything else is a problem in the report.
    """
    if isinstance(corpus, str) and is_remote(corpus):
        opened = open_corpus(corpus)
        return opened.where, verify(opened.folder, files=opened.files, progress=progress)
    folder = Path(corpus)
    return str(folder), verify(folder, progress=progress)
