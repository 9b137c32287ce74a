"""Models on the machines that decode: loaded from where the driver has them if that is seen here, else fetched once.

A model is named by the SHA-256 of its files. Whoever needs it first on a machine fetches it while the others wait; it
appears under its name complete, and is kept in $CDGEN_CACHE.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import BuildError
from cdgen.storage import TEMPORARY_PREFIX, sha256_file
from cdgen.storage.places import writing

FETCHED = "fetched"
"""The folder of the cache."""
PIECE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A model's files: where the driver has them, what they are called, how large they are, and one hash over all."""

    folder: Path
    files: tuple[tuple[str, int], ...]
    sha256: str

    def is_here(self, cache: Path) -> bool:
        """Whether this machine sees the driver's folder, or has kept the files."""
        return self._complete(self.folder) or self._complete(kept(cache, self.sha256))

    def where(self, cache: Path) -> Path | None:
        """The folder with the files on this machine."""
        places = (self.folder, kept(cache, self.sha256))
        return next((place for place in places if self._complete(place)), None)

    def _complete(self, folder: Path) -> bool:
        try:
            return all((folder / name).stat().st_size == size for name, size in self.files)
        except OSError:
            return False


def source_of(folder: Path) -> Source:
    """What there is to fetch of a model's folder; hashes its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    total = hashlib.sha256()
    for name, path in zip(names, files, strict=True):
        total.update(f"{name}\0{sha256_file(path)}\n".encode())
    sizes = [path.stat().st_size for path in files]
    return Source(folder.absolute(), tuple(zip(names, sizes, strict=True)), total.hexdigest())


def pieces(source: Source) -> Iterator[tuple[str, bytes]]:
    """The files of a model in order, cut into pieces: (name, bytes)."""
    for name, size in source.files:
        with (source.folder / name).open("rb") as file:
            for _ in range(max(1, -(-size // PIECE_BYTES))):
                yield name, file.read(PIECE_BYTES)


def kept(cache: Path, sha256: str) -> Path:
    """Where a fetched model lies."""
    return cache / FETCHED / sha256


def fetched(source: Source, cache: Path, sent: Iterable[tuple[str, bytes]] | None) -> Path:
    """The folder of a model on this machine; fetches it if it is not there and nobody else does.

    Args:
        source: what is asked for.
        cache: this machine's cache folder.
        sent: the pieces of its files; None where the driver was told that it is here.

    Raises:
        BuildError: it is not here and was not sent, arrived damaged, or cannot be written.
    """
    target = kept(cache, source.sha256)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            here = source.where(cache)
            if here is not None:
                return here
            if sent is None:
                raise BuildError(f"{source.folder}: is not seen on this machine any more")
            return _write(source, target, sent)


def _write(source: Source, target: Path, sent: Iterable[tuple[str, bytes]]) -> Path:
    aside = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
    shutil.rmtree(aside, ignore_errors=True)  # what a killed worker left
    known = {name for name, _ in source.files}
    for name, data in sent:
        assert name in known, name
        path = aside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
    if source_of(aside).sha256 != source.sha256:
        shutil.rmtree(aside)
        raise BuildError(f"{source.folder}: its files changed while they were sent to a worker")
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process of this machine at a time; the system lets the next one in when a process dies."""
    path = target.with_name(f"{TEMPORARY_PREFIX}{target.name}.lock")
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
