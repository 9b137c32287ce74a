"""Files of a folder that is somewhere else: on a web server, on the Hub, in an object store.

A `Remote` gives the bytes of one file and says what went wrong; `download` tries again where that may help and checks
what arrived. Nothing here is imported, and no library of a store is loaded, before an address asks for it.
No message holds a secret: an address is shown without its user, password and query.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import RawIOBase
from threading import Event
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import urlsplit

from cdgen.errors import BuildError, UsageError
from cdgen.storage.receipts import FileStamp

SCHEMES = ("hf", "s3", "gs", "https", "http")
"""What an address may begin with, besides file."""

T = TypeVar("T")


class MissingError(BuildError):
    """There is no such file."""


class PassingError(Exception):
    """A fault that another try may not meet: `why`, and how long the server wants to be left alone."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.wait_s = wait_s


class GivenUpError(BuildError):
    """What was tried again is not wanted any more."""


class Remote(Protocol):
    """A folder somewhere else. It can be pickled, and holds no connection between two calls."""

    @property
    def where(self) -> str:
        """Its address, without secrets."""
        ...

    def read(self, name: str, start: int = 0, num_bytes: int | None = None) -> Iterator[bytes]:
        """The bytes of a file, in pieces.

        Args:
            name: the file's path in the folder.
            start: the first byte wanted.
            num_bytes: the size of the whole file, where it is known.

        Raises:
            PassingError: worth another try.
            MissingError: there is no such file.
            BuildError: access is refused, or no try will help.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often, and how patiently, a fault that may pass is tried again."""

    tries: int = 7
    first_wait_s: float = 0.5
    """Before the second try; doubled before each further one."""
    longest_wait_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    """Uniform in [0, 1): a wait is between half of what is due and all of it, so that many readers come apart."""

    def run(self, attempt: Callable[[], T], what: str) -> T:
        """The result of `attempt`; BuildError, naming `what`, when its last try has a PassingError too."""
        for number in range(1, self.tries + 1):
            try:
                return attempt()
            except PassingError as error:
                if number == self.tries:
                    why = f"{what}: {error.why}, {number} times; try again later"
                    raise BuildError(why) from None
                self.sleep(self._wait_s(number, error.wait_s))
        raise AssertionError("the last try returns or raises")

    def until(self, stop: Event) -> "Retries":
        """The same, given up once `stop` is set: a process that is to end does not wait for a store to come back."""

        def sleep(seconds: float) -> None:
            if stop.wait(seconds):
                raise GivenUpError("was given up")

        return replace(self, sleep=sleep)

    def _wait_s(self, number: int, asked_s: float | None) -> float:
        due_s: float = self.first_wait_s * 2 ** (number - 1) * (1 + self.jitter()) / 2
        return min(self.longest_wait_s, max(due_s, asked_s or 0.0))


PATIENT = Retries()


def is_remote(address: str) -> bool:
    """Whether an address is to be read through a `Remote`; UsageError for a scheme that cdgen does not know."""
    scheme, separator, _ = address.partition("://")
    if not separator or scheme == "file" or "/" in scheme:
        return False
    if scheme.lower() not in SCHEMES:
        raise UsageError(
            f"{shown(address)}: {scheme[:20]}:// is not known; a folder, or one of "
            f"file, {', '.join(SCHEMES)} before :// is expected"
        )
    return True


def remote_at(address: str) -> Remote:
    """The folder at an address that `is_remote`.

    Raises:
        UsageError: not an address of its kind, or the package that reads it is not installed.
        BuildError: the Hub does not answer, or has no such dataset.
    """
    scheme = address.partition("://")[0].lower()
    if scheme in ("https", "http"):
        from cdgen.storage.http import WebFolder

        return WebFolder(address)
    if scheme == "hf":
        from cdgen.storage.hub import hub_folder

        return hub_folder(address)
    from cdgen.storage.objects import Bucket

    return Bucket(address)


def shown(address: str) -> str:
    """An address without what may be secret: user, password, query, fragment."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address.partition("://")[0][:20] + "://…"
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


def read_whole(
    remote: Remote, name: str, *, most_bytes: int = 1 << 30, retries: Retries = PATIENT
) -> bytes:
    """A small file whose size is not known. Raises: see `Remote.read`; BuildError for more than `most_bytes`."""

    def attempt() -> bytes:
        data = bytearray()
        for piece in remote.read(name):
            data += piece
            if len(data) > most_bytes:
                raise BuildError(f"{remote.where}/{name}: more than {most_bytes} bytes")
        return bytes(data)

    return retries.run(attempt, f"{remote.where}/{name}")


def download(
    remote: Remote,
    name: str,
    stamp: FileStamp,
    file: RawIOBase | BinaryIO,
    *,
    retries: Retries = PATIENT,
) -> None:
    """Write a file of known size and SHA-256 to `file`, from its first byte; a cut transfer goes on where it was cut.

    What does not have its SHA-256 is fetched once more from the beginning: a byte may have changed on the way.

    Raises:
        BuildError: see `Remote.read`; or it is not the file that the manifest names.
    """
    where = f"{remote.where}/{name}"
    for _ in range(2):
        if transfer(remote, name, stamp.num_bytes, file, retries=retries) == stamp.sha256:
            return
    raise BuildError(
        f"{where}: fetched twice, its SHA-256 is not {stamp.sha256[:12]}… of the manifest: it was damaged, or changed "
        "after its manifest was written; publish the corpus again"
    )


def transfer(
    remote: Remote,
    name: str,
    num_bytes: int,
    file: RawIOBase | BinaryIO,
    *,
    retries: Retries = PATIENT,
) -> str:
    """Write a file of known size to `file`, from its first byte, and return the SHA-256 of what arrived.

    A cut transfer goes on where it was cut. Raises: see `Remote.read`.
    """
    file.seek(0)
    one = _Transfer(remote, name, num_bytes, file)
    retries.run(one.attempt, f"{remote.where}/{name}")
    return one.sha256


class _Transfer:
    """One download, over as many tries as it takes."""

    def __init__(
        self, remote: Remote, name: str, num_bytes: int, file: RawIOBase | BinaryIO
    ) -> None:
        self._remote, self._name, self._num_bytes, self._file = remote, name, num_bytes, file
        self._hash = hashlib.sha256()
        self._done = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def attempt(self) -> None:
        """Go on from the last byte that was written."""
        for piece in self._remote.read(self._name, self._done, self._num_bytes):
            wanted = piece[: self._num_bytes - self._done]
            self._hash.update(wanted)
            _write(self._file, wanted)
            self._done += len(wanted)
            if len(wanted) < len(piece):  # a longer file is another file
                self._hash.update(piece[len(wanted) :])
                return
        if self._done < self._num_bytes:
            raise PassingError(f"it ended at byte {self._done} of {self._num_bytes}")


def _write(file: RawIOBase | BinaryIO, data: bytes) -> None:
    """All of `data`, to a file without a buffer: a forked child must not have bytes of it to flush."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
