"""Files that are complete or not there. Local ones today; object stores will come behind the same functions."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cdgen.errors import BuildError

TEMPORARY_PREFIX = ".tmp-"


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`: afterwards the file is complete, or (BuildError) as it was before."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path`, complete and on disk, when the block ends without an error.

    Until then it has a temporary name in the same folder, which an error removes. Folders are created.

    Raises:
        BuildError: the disk is full, the folder is read-only, or the like.
    """
    temporary = path.with_name(
        f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # A failed write names no file; one that names another file is not about this one.
        if isinstance(error, OSError) and error.filename in (None, *_names(path, temporary)):
            raise BuildError(f"cannot write {path}: {_reason(error)}") from error
        raise


def _names(path: Path, temporary: Path) -> Iterator[str]:
    yield str(temporary)
    yield from map(str, (path, *path.parents))


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> list[Path]:
    """Delete what killed builds left under `folder`; links are not followed. Returns what was deleted."""
    found = [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if name.startswith(TEMPORARY_PREFIX)
    ]
    for path in found:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise BuildError(f"cannot remove {path}: {error.strerror}") from error
    return found


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits; BuildError where it cannot be read."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a BuildError that names `path`."""
    try:
        yield
    except OSError as error:
        raise BuildError(f"cannot read {path}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    """What the system says; Arrow's OSErrors have only a text, of several lines."""
    return error.strerror or str(error).partition("\n")[0][:200]
