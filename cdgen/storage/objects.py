"""Files in an object store, through fsspec: s3:// with s3fs, gs:// with gcsfs. Credentials are those libraries' own."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cdgen.errors import BuildError, UsageError
from cdgen.storage.remote import MissingError, PassingError, shown

T = TypeVar("T")

PIECE_BYTES = 8 << 20
"""Of one request: long enough to hide its latency, short enough to be tried again cheaply."""
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
"""By scheme: (the package that reads it, the extra that brings the package)."""
_OPTIONS: dict[str, Any] = {"use_listings_cache": False}
"""Others write there too, and a write of ours whose answer was lost clears no cache: a kept listing hides both."""
_S3_OPTIONS: dict[str, Any] = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
"""Whoever asks tries again himself (`Retries`): tries inside tries would multiply the waits."""
_S3FS_TRIES = 2
"""Of a request, which may be a part of a big file. s3fs has five, each of which may wait 15 s for an answer."""
_WHOLE: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}, "gs": {}}
"""What has a whole file read in one request. s3fs asks for its size first, to read it in pieces at the same time."""
_NO_SUCH_RANGE = 416
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")


class Bucket:
    """A folder in a bucket. UsageError where the package that reads it is not installed."""

    def __init__(self, address: str) -> None:
        self.where = shown(address).rstrip("/")
        parts = urlsplit(self.where)
        self._scheme = parts.scheme.lower()
        if not parts.netloc:
            raise UsageError(
                f"{self.where}: names no bucket: {self._scheme}://bucket/folder is expected"
            )
        self._path = f"{parts.netloc}{parts.path}"
        self._files()

    def __repr__(self) -> str:
        return f"Bucket({self.where!r})"

    def read(self, name: str, start: int = 0, num_bytes: int | None = None) -> Iterator[bytes]:
        """The bytes of a file, a request for each piece: see `Remote.read`."""
        if num_bytes is None:
            yield self._asked(name, **_WHOLE[self._scheme])
            return
        while start < num_bytes:
            piece = self._asked(name, start=start, end=min(start + PIECE_BYTES, num_bytes))
            if not piece:
                return
            yield piece
            start += len(piece)

    def _asked(self, name: str, **how: Any) -> bytes:
        path = f"{self._path}/{name}"
        piece: bytes = passing(lambda: self._files().cat_file(path, **how), f"{self.where}/{name}")
        return piece

    def _files(self) -> Any:
        """The library's file system. It keeps its own connections, and makes new ones in a forked process."""
        return filesystem(self.where)


def filesystem(address: str) -> Any:
    """The library's file system for an address. UsageError where the package for its kind is not installed."""
    scheme = address.partition("://")[0].lower()
    package, extra = _EXTRAS[scheme]
    import fsspec

    try:
        importlib.import_module(package)
        if scheme == "gs":
            from cdgen.storage.google import OneTry

            return OneTry(**_OPTIONS)
    except ImportError:
        raise UsageError(
            f"{shown(address)}: {scheme}:// needs {package}: pip install 'cdgen[{extra}]'"
        ) from None
    files = fsspec.filesystem(scheme, **_OPTIONS, **_S3_OPTIONS)
    files.retries = _S3FS_TRIES
    return files


def read_whole(address: str, paths: list[str]) -> list[bytes | Exception]:
    """The bytes of many small files, or what went wrong with each; one request a file, many at a time."""
    how = _WHOLE[address.partition("://")[0].lower()]
    # Not `cat`, which takes a bracket in a name for a pattern.
    found: list[bytes | Exception] = filesystem(address).cat_ranges(
        paths, None, None, on_error="return", **how
    )
    return found


def passing(ask: Callable[[], T], where: str) -> T:
    """What `ask` returns; what a store, its library or a network raises becomes a fault of `Remote.read`."""
    try:
        return ask()
    except FileNotFoundError as error:
        if _told(error).get("Error", {}).get("Code") == "NoSuchUpload":
            # Ended already: by a first try of ours whose answer was lost, or dropped by the build that came after.
            raise PassingError("an upload in parts is not there any more") from None
        raise MissingError(f"{where}: there is no such file, or no such bucket") from None
    except PermissionError:
        raise BuildError(f"{where}: access is refused; check your credentials") from None
    except Exception as error:  # noqa: BLE001 - whatever they raise
        raise _fault(where, error) from None


def status_of(error: Exception) -> int:
    """The HTTP status that a store's library had in its answer; 0 where the error holds none."""
    told = _told(error)
    if told:
        return int(told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    for one in (error, error.__cause__):
        code = str(getattr(one, "code", ""))
        if code.isdecimal():
            return int(code)
    return 0


def _told(error: BaseException | None) -> dict[str, Any]:
    """What S3 answered, as its library keeps it in an error; of an error that was translated in its cause."""
    for one in (error, getattr(error, "__cause__", None)):
        told = getattr(one, "response", None)
        if isinstance(told, dict):
            return told
    return {}


def _fault(where: str, error: Exception) -> Exception:
    """Only the kind of an unknown error is told: its text may hold a signed address."""
    kind = type(error).__name__
    if status_of(error) == _NO_SUCH_RANGE:
        return BuildError(f"{where}: ends before the byte that was asked for: it was changed")
    if kind in _NO_CREDENTIALS:
        return BuildError(f"{where}: no credentials were found; log in as the store's own tools do")
    if kind == "FlexibleChecksumError":
        return PassingError("what arrived does not have the store's own check sum")
    return PassingError(f"the store does not answer ({kind})")
