"""Where the finished shards of a build go: a folder here; `cdgen.storage.buckets` has the one for object stores.

A worker writes a shard and its index somewhere of its own and delivers them: shard, index, last the receipt, each under
a name that nobody has. So whoever comes first wins, without a lock, and the same job may be done twice: the second copy
is dropped if it has the same bytes, and is a `DeterminismError` if it has not.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NoReturn, Protocol

from cdgen.errors import BuildError, DeterminismError
from cdgen.storage.files import TEMPORARY_PREFIX, atomic_write, sha256_file, sync_folder
from cdgen.storage.locks import hold
from cdgen.storage.receipts import (
    RECEIPTS,
    Receipt,
    file_size,
    read_receipt,
    read_receipts,
    receipt_bytes,
    receipt_path,
    write_receipt,
)

STAGING = Path("work/staging")
"""Shards that are not delivered yet, in the corpus folder."""
ASIDE = "work/aside"
"""Both copies of a shard that was made twice with different bytes; of a finished corpus the second one."""
MANIFEST = "manifest.json"
"""As `cdgen.shards.layout` has it, which is above this layer."""

_CANNOT_LINK = (
    errno.EXDEV,
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
)


class Place(Protocol):
    """Where the finished shards of a build go. It can be pickled, and opens connections on first use."""

    @property
    def where(self) -> str:
        """Its address, without secrets."""
        ...

    def deliver(self, root: Path, receipt: Receipt) -> bool:
        """Make a shard part of the build: shard, index, last the receipt.

        Args:
            root: the folder under which shard and index lie complete, at `receipt.paths`; they stay there.
            receipt: of the shard.

        Returns:
            True: this copy is the one. False: the same bytes, with their receipt, were there already.

        Raises:
            DeterminismError: another copy with other bytes is there; both are kept aside. One that the manifest of a
                finished corpus names stays: a worker that was given up may come at any time.
            BuildError: the place does not take it.
        """
        ...

    def receipts(self) -> dict[str, Receipt]:
        """By shard name: the receipts whose files are there as they say."""
        ...

    def withdraw(self, names: Iterable[str]) -> None:
        """Remove what killed builds left under names that `receipts` does not have; for the build that holds the place.

        After this a copy of other bytes under one of these names can only come from this build.
        """
        ...

    def fetch(self, root: Path, receipt: Receipt) -> None:
        """Bring a delivered shard, its index and its receipt under `root`; nothing to do where they are there."""
        ...

    def hold(self, purpose: str) -> AbstractContextManager["Hold"]:
        """Be the only build in this place while the block runs; BuildError if another one is."""
        ...

    def until(self, stop: Event) -> "Place":
        """The same, for threads of this process: once `stop` is set, nothing is waited for and tried again."""
        ...


class Hold(Protocol):
    """A place that this build has for itself, until it is found to be lost."""

    def check(self) -> None:
        """BuildError once the place may be another build's; asks nobody, so that it can be called at every step."""
        ...

    def confirm(self) -> None:
        """The same, and asks: before something is written over."""
        ...


class Locked:
    """The system keeps a lock as long as its process lives."""

    def check(self) -> None:
        """Nothing can have happened to it."""

    def confirm(self) -> None:
        """Nor here."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A corpus folder, on a local disk or on a file system that the workers share."""

    root: Path

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.root)

    def deliver(self, root: Path, receipt: Receipt) -> bool:
        """As hard links where the file system can, else as copies: see `Place.deliver`."""
        if self.holds(receipt):
            return False
        hashes = receipt.sha256, receipt.index.sha256
        for path, sha256 in zip(receipt.paths, hashes, strict=True):
            if root == self.root:
                continue
            if (
                not put_new(root / path, self.root / path)
                and sha256_file(self.root / path) != sha256
            ):
                self._fault(root, receipt)
        return self._note(receipt)

    def receipts(self) -> dict[str, Receipt]:
        """Those whose shard and index are there and have the right sizes."""
        every = read_receipts(self.root / RECEIPTS)
        return {name: receipt for name, receipt in every.items() if self.has(receipt)}

    def withdraw(self, names: Iterable[str]) -> None:
        """The receipt is deleted first: see `Place.withdraw`."""
        for name in names:
            if self._proven(name) is not None:
                continue
            for path in (f"{RECEIPTS}/{name}.json", *reversed(paths_of(name))):
                with writing(self.root / path):
                    (self.root / path).unlink(missing_ok=True)

    def fetch(self, root: Path, receipt: Receipt) -> None:
        """Into another folder: as `deliver` there."""
        if root != self.root:
            Folder(root).deliver(self.root, receipt)

    @contextmanager
    def hold(self, purpose: str) -> Iterator["Hold"]:
        """The folder's lock, which nobody can lose: see `cdgen.storage.hold`."""
        with hold(self.root, purpose):
            yield Locked()

    def until(self, stop: Event) -> "Folder":
        """Itself: nothing here is tried again."""
        return self

    def has(self, receipt: Receipt) -> bool:
        """Whether the files of a receipt are here, by their sizes."""
        sizes = receipt.num_bytes, receipt.index.num_bytes
        files = (f"{self.root}/{path}" for path in receipt.paths)  # as text: a restart has many
        return all(file_size(file) == size for file, size in zip(files, sizes, strict=True))

    def holds(self, receipt: Receipt) -> bool:
        """Whether this very copy of a shard is here, by the receipt that it has here."""
        here = self._proven(receipt.name)
        hashes = receipt.sha256, receipt.index.sha256
        return here is not None and (here.sha256, here.index.sha256) == hashes

    def _proven(self, name: str) -> Receipt | None:
        """The receipt of a shard that is there."""
        path = receipt_path(self.root / RECEIPTS, name)
        if not path.is_file():
            return None
        try:
            receipt = read_receipt(path)
        except BuildError:  # damaged, so it proves nothing
            return None
        return receipt if self.has(receipt) else None

    def _note(self, receipt: Receipt) -> bool:
        """Write the receipt of a shard that is here, whose bytes were compared; False if it is written already."""
        path = receipt_path(self.root / RECEIPTS, receipt.name)
        temporary = temporary_beside(path)
        atomic_write(temporary, receipt_bytes(receipt))
        try:
            if put_new(temporary, path):
                return True
            if self._proven(receipt.name) is not None:
                return False
            temporary.replace(path)  # over one that is damaged, or of files that were lost
            return True
        finally:
            temporary.unlink(missing_ok=True)

    def _fault(self, root: Path, receipt: Receipt) -> NoReturn:
        """Two copies of one shard differ: keep both aside, so that the build makes it anew, and stop."""
        files = [self.root / path for path in receipt.paths]
        hashes = [sha256_file(path) for path in files if path.is_file()]
        kept = is_named(self._manifest(), hashes)
        first = self.root / ASIDE / aside_name(receipt.name, hashes)
        second = (
            self.root / ASIDE / aside_name(receipt.name, [receipt.sha256, receipt.index.sha256])
        )
        moved = [] if kept else [receipt_path(self.root / RECEIPTS, receipt.name), *reversed(files)]
        with writing(self.root / ASIDE):
            for path in moved:
                first.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    path.replace(first / path.name)
            second.mkdir(parents=True, exist_ok=True)
            for name in receipt.paths:
                shutil.copyfile(root / name, second / Path(name).name)
        write_receipt(second, receipt)
        raise DeterminismError(
            made_twice(receipt, next(iter(hashes), ""), f"{self.where}/{ASIDE}", kept=kept)
        )

    def _manifest(self) -> bytes:
        with suppress(OSError):
            return (self.root / MANIFEST).read_bytes()
        return b""


def paths_of(name: str) -> tuple[str, str]:
    """Where the shard `name` and its index lie, in the corpus folder: see `Receipt.paths`."""
    return f"data/{name.partition('-')[0]}/{name}", f"index/{name.removesuffix('.tar')}.parquet"


def put_new(source: Path, target: Path) -> bool:
    """Give a finished file a name in another folder, and make that last; False if somebody has the name.

    A hard link, or a copy on another file system. BuildError: the disk is full, read-only, or the like.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return _copy_new(source, target)
        sync_folder(target.parent)
        return True


def _copy_new(source: Path, target: Path) -> bool:
    temporary = temporary_beside(target)
    try:
        with source.open("rb") as data, temporary.open("xb") as copy:
            shutil.copyfileobj(data, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return _rename_new(temporary, target)
        return True
    finally:
        temporary.unlink(missing_ok=True)
        sync_folder(target.parent)


def _rename_new(temporary: Path, target: Path) -> bool:
    """Where a file system has no links: the folder is locked while we look whether the name is free."""
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if target.exists():
            return False
        temporary.replace(target)
        return True
    finally:
        os.close(folder)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A root of one's own in a corpus folder, for a shard that is to be delivered; gone when the block ends.

    Raises:
        BuildError: the disk is full, the folder is read-only, or the like.
    """
    root = folder / STAGING / f"{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def clear_staging(folder: Path) -> None:
    """Delete what killed builds had staged; for the build that holds the folder."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def aside_name(name: str, hashes: Iterable[str]) -> str:
    """What the folder of one copy of a shard is called, by the hashes of shard and index."""
    return "-".join((name.removesuffix(".tar"), *(sha256[:8] for sha256 in hashes)))


def is_named(manifest: bytes, hashes: Sequence[str]) -> bool:
    """Whether the manifest's file names a shard and an index with these SHA-256."""
    return bool(hashes) and all(f'"{sha256}"'.encode() in manifest for sha256 in hashes)


def made_twice(receipt: Receipt, first: str, aside: str, *, kept: bool) -> str:
    """The message of a DeterminismError; `first` is the hash of the copy that was there, `kept` whether it still is."""
    which = (
        "its index differs"
        if first == receipt.sha256
        else f"{first[:12]}… and {receipt.sha256[:12]}…"
    )
    said = f"{receipt.name}: was made twice, and not with the same bytes (SHA-256: {which}); "
    one = "One of the machines computes something else: compare the two receipts"
    if kept:
        return (
            f"{said}the first belongs to a finished corpus, which stays as it is; the second is in {aside}. {one}; "
            "to build on with this machine's, choose another folder with --out"
        )
    return f"{said}both copies are in {aside}. {one}; the same command makes the shard anew"


def temporary_beside(path: Path) -> Path:
    """A name that nobody has, which `remove_temporaries` finds."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a BuildError that names `path`."""
    try:
        yield
    except OSError as error:
        raise BuildError(
            f"cannot write {path}: {error.strerror or type(error).__name__}"
        ) from error
