"""Models on the machines that decode: loaded from where the driver has them if that is seen here, else fetched once.

A model is named by the SHA-256 of its files. Whoever needs it first on a machine fetches it while the others wait, from
the object store that the recipe names, or out of what the driver sends; it appears under its name complete, and is kept
in $CDGEN_CACHE.
"""

import fcntl
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import BuildError, UsageError
from cdgen.storage import TEMPORARY_PREFIX, sha256_file
from cdgen.storage.conditional import Objects
from cdgen.storage.drivers import Stored
from cdgen.storage.objects import Bucket
from cdgen.storage.places import writing
from cdgen.storage.remote import PATIENT, Remote, transfer

FETCHED = "fetched"
"""The folder of the cache."""
PIECE_BYTES = 64 << 20
FILES_AT_ONCE = 4
"""Of one download. A file's own pieces follow one another."""
_SETTLED_NS = 2_000_000_000

Files = Sequence[tuple[str, int]]
"""Names, and bytes of each."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's files: where the driver has them, what they are called, how large they are, and one hash over all.

    Attributes:
        address: of the folder in an object store that they came from; "" where they came from none.
    """

    folder: Path
    files: tuple[tuple[str, int], ...]
    sha256: str
    address: str = ""

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


def source_of(folder: Path, address: str = "") -> Source:
    """What there is to fetch of a model's folder; hashes its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    total = hashlib.sha256()
    for name, path in zip(names, files, strict=True):
        total.update(f"{name}\0{sha256_once(path)}\n".encode())
    sizes = [path.stat().st_size for path in files]
    files_ = tuple(zip(names, sizes, strict=True))
    return Source(folder.absolute(), files_, total.hexdigest(), address)


_hashes: dict[tuple[int, ...], str] = {}


def sha256_once(path: Path) -> str:
    """`sha256_file`, remembered by this process: weights are hashed by their build, and again for its workers."""
    told = path.stat()
    if (
        time.time_ns() - told.st_mtime_ns < _SETTLED_NS
    ):  # it could be written again at the same time
        return sha256_file(path)
    key = told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns
    if key not in _hashes:
        _hashes[key] = sha256_file(path)
    return _hashes[key]


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

    def write(aside: Path) -> None:
        if sent is None:
            raise BuildError(f"{source.folder}: is not seen on this machine any more")
        known = {name for name, _ in source.files}
        for name, data in sent:
            assert name in known, name
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)

    changed = f"{source.folder}: its files changed while they were sent to a worker"
    return _brought(source, cache, write, changed)


def from_store(source: Source, cache: Path) -> Path:
    """The folder of a model on this machine; downloads it from its address if it is not there and nobody else does.

    Raises:
        UsageError: it has no address, or the package that reads it is not installed.
        BuildError: the store gives no access, or other bytes than the driver has; or they cannot be written.
    """
    if not source.address:
        raise UsageError(f"{source.folder}: came from no object store")
    changed = f"{source.address}: has other bytes than this build began with: it was changed, or damaged on its way"

    def write(aside: Path) -> None:
        objects = Objects(source.address)
        there = objects.files()
        if any(name not in there or there[name].num_bytes != size for name, size in source.files):
            raise BuildError(changed)
        told = {name: there[name] for name, _ in source.files}
        download(source.address, source.files, aside, checks(objects, told))

    return _brought(source, cache, write, changed, tries=2)


def unobtainable(source: Source, cache: Path) -> str | None:
    """Why a model is not on this machine and its object store does not give it; "" where it has none.

    None = it is here; it may have been fetched just now.
    """
    if source.is_here(cache):
        return None
    if not source.address:
        return ""
    try:
        from_store(source, cache)
    except (BuildError, UsageError) as error:
        return str(error)
    return None


def _brought(
    source: Source, cache: Path, write: Callable[[Path], None], changed: str, tries: int = 1
) -> Path:
    """The folder of a model; `write` puts its files into another one, which is believed by its hash alone."""
    target = kept(cache, source.sha256)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target):
            here = source.where(cache)
            if here is not None:
                return here
            aside = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
            try:
                for _ in range(tries):
                    shutil.rmtree(aside, ignore_errors=True)  # also what a killed worker left
                    write(aside)
                    if source_of(aside).sha256 == source.sha256:
                        shutil.rmtree(target, ignore_errors=True)
                        aside.replace(target)
                        return target
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            raise BuildError(changed)


@dataclass(frozen=True, slots=True)
class Check:
    """What a store says that a file's MD5 is, and how large the parts are that it is made of; "" = it does not say."""

    md5: str = ""
    part_bytes: int = 0

    def holds(self, path: Path) -> bool:
        """Whether a file has it."""
        return not self.md5 or self.md5 == md5(path, self.part_bytes)


def checks(objects: Objects, found: Mapping[str, Stored]) -> dict[str, Check]:
    """By name. Asks for the parts of what was written in parts."""
    return {
        name: Check(told.md5, objects.part_bytes(name) if "-" in told.md5 else 0)
        for name, told in found.items()
    }


def md5(path: Path, part_bytes: int = 0) -> str:
    """The MD5 of a file; or that of the MD5s of its parts, with their number, as S3 names it."""
    whole, number = hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while True:
            part, left = hashlib.md5(usedforsecurity=False), part_bytes or path.stat().st_size
            while left and (data := file.read(min(left, 1 << 20))):
                part.update(data)
                left -= len(data)
            if not part_bytes:
                return part.hexdigest()
            if left == part_bytes:
                return f"{whole.hexdigest()}-{number}"
            whole.update(part.digest())
            number += 1


def download(
    address: str,
    files: Files,
    folder: Path,
    checks: Mapping[str, Check] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Download files of a folder in an object store, several at a time.

    Args:
        address: s3:// or gs://.
        files: which.
        folder: where to; made.
        checks: what the store says of some.
        advance: hears of bytes that arrived, in any thread.

    Raises:
        BuildError: see `cdgen.storage.remote.transfer`; or a file came damaged three times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remote, known = _Heard(Bucket(address), advance), checks or {}
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="cdgen-fetch") as pool:
        try:
            coming = [
                pool.submit(_download, remote, name, size, folder / name, known.get(name, Check()))
                for name, size in files
            ]
            for one in coming:
                one.result()
        except BaseException:
            remote.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _download(remote: "_Heard", name: str, num_bytes: int, path: Path, check: Check) -> None:
    """What has not the MD5 that its store names is fetched again.

    Twice the same bytes are no damage on the way: that store means something else by it.
    """
    seen: set[str] = set()
    with path.open("xb", buffering=0) as file:
        for _ in range(3):
            sha256 = transfer(remote, name, num_bytes, file, retries=PATIENT.until(remote.stopped))
            if sha256 in seen or check.holds(path):
                return
            seen.add(sha256)
    raise BuildError(f"{remote.where}/{name}: came damaged three times; try again later")


class _Heard:
    """A store whose pieces are counted, and that gives none once the download is given up."""

    def __init__(self, remote: Remote, advance: Callable[[int], None]) -> None:
        self._remote, self._advance = remote, advance
        self.stopped = threading.Event()

    @property
    def where(self) -> str:
        return self._remote.where

    def read(self, name: str, start: int = 0, num_bytes: int | None = None) -> Iterator[bytes]:
        for piece in self._remote.read(name, start, num_bytes):
            if self.stopped.is_set():
                raise BuildError(f"{self.where}/{name}: the download was given up")
            self._advance(len(piece))
            yield piece


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """One process of this machine at a time; the system lets the next one in when a process dies."""
    path = target.with_name(f"{TEMPORARY_PREFIX}{target.name}.lock")
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
