"""Writing into object stores under a condition: only where nothing is yet, or only over the version that was seen.

S3's If-None-Match and If-Match, Google's ifGenerationMatch. A store that ignores them would let two builders overwrite
each other, so `check_conditions` asks it, and refuses it by name.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cdgen.errors import BuildError, UsageError
from cdgen.storage.drivers import DRIVERS, NOTE, SHA256, Driver, Stored, limit_s
from cdgen.storage.objects import filesystem, passing, read_whole, status_of
from cdgen.storage.remote import PATIENT, MissingError, Retries, shown

T = TypeVar("T")

_PRECONDITION_FAILED = 412


class IgnoredError(BuildError):
    """A store does not keep to conditions."""


@dataclass(frozen=True, slots=True)
class Objects:
    """A folder of an object store that is written to under conditions. It can be pickled and holds no connection.

    Raises:
        UsageError: the address names no bucket, or the package for its kind is not installed.
    """

    address: str
    retries: Retries = PATIENT

    def __post_init__(self) -> None:
        if not self.root.partition("/")[2]:
            raise UsageError(
                f"{self.where}: names no folder in a bucket: {self.scheme}://bucket/folder is expected"
            )
        self._driver()

    @property
    def scheme(self) -> str:
        """s3 or gs."""
        return self.address.partition(":")[0].lower()

    @property
    def where(self) -> str:
        """The address, without secrets."""
        return shown(self.address).rstrip("/")

    @property
    def root(self) -> str:
        """bucket/folder."""
        return self.where.partition("://")[2].strip("/")

    def create(self, name: str, source: bytes | Path, sha256: str = "", note: str = "") -> bool:
        """Write an object where there is none. False: there is one, perhaps our own, of a try whose answer was lost.

        Raises:
            BuildError: the store refuses it, or does not answer.
        """
        about = _about(source, sha256, note)
        path = f"{self.root}/{name}"
        return self._under_condition(
            name, lambda: self._driver().write(path, source, about, "create")
        )

    def replace(
        self, name: str, source: bytes | Path, version: str, sha256: str = "", note: str = ""
    ) -> bool:
        """Write over one version of an object. False: it is another one by now, perhaps our own: see `create`."""
        about = _about(source, sha256, note)
        path = f"{self.root}/{name}"
        try:
            return self._under_condition(
                name, lambda: self._driver().replace(path, source, about, version)
            )
        except MissingError:  # S3's word for it, where there is none any more
            return False

    def update(self, name: str, source: bytes | Path, sha256: str, seen: Stored | None) -> bool:
        """Have an object say this, which said something else, or was not there, when it was `seen`.

        Returns:
            False: somebody else has written it since.
        """
        if seen is not None and seen.sha256 == sha256:
            return True
        if (
            self.create(name, source, sha256)
            if seen is None
            else self.replace(name, source, seen.version, sha256)
        ):
            return True
        now = self.stat(name)  # perhaps our own first try
        return now is not None and now.sha256 == sha256

    def put(self, name: str, source: bytes | Path, sha256: str = "") -> None:
        """Write an object over whatever is there."""
        about = _about(source, sha256, "")
        self._ask(name, lambda path: self._driver().write(path, source, about, "overwrite"))

    def stat(self, name: str) -> Stored | None:
        """What the store says of an object; None where there is none."""
        try:
            return self._ask(name, lambda path: self._driver().stat(path))
        except MissingError:
            return None

    def listed(self, folder: str = "") -> dict[str, Stored]:
        """By name: every object below a folder."""
        try:
            found = self._ask(folder, lambda path: self._driver().listed(path))
        except MissingError:
            return {}
        return {path.removeprefix(f"{self.root}/"): told for path, told in found.items()}

    def files(self) -> dict[str, Stored]:
        """By name: every object in the folder itself; none where there is no such folder, or bucket."""
        try:
            found = self._ask("", lambda path: self._driver().files_in(path))
        except MissingError:
            return {}
        inside = f"{self.root}/"
        return {
            path.removeprefix(inside): told
            for path, told in found.items()
            if path.startswith(inside)
        }

    def part_bytes(self, name: str) -> int:
        """How large the parts of an object were whose MD5 is one of parts; 0 where that is not known."""
        return self._ask(name, lambda path: self._driver().part_bytes(path))

    def top(self) -> list[str]:
        """The names in the folder itself, folders included."""

        def ask(path: str) -> list[str]:
            try:
                return [
                    each.rstrip("/") for each in self._files().ls(path, detail=False, refresh=True)
                ]
            except FileNotFoundError:
                return []

        return sorted(path.removeprefix(f"{self.root}/") for path in self._ask("", ask))

    def read(self, name: str) -> bytes | None:
        """A small object; None where there is none."""

        def ask(path: str) -> bytes:
            (data,) = read_whole(self.address, [path])
            if isinstance(data, Exception):
                raise data
            return data

        try:
            return self._ask(name, ask)
        except MissingError:
            return None

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Small objects, many requests at a time; those that are gone by now are left out."""
        found: dict[str, bytes] = {}
        wanted = list(names)

        def ask(_: str) -> None:
            missing = [name for name in wanted if name not in found]
            read = read_whole(self.address, [f"{self.root}/{name}" for name in missing])
            failed = None
            for name, data in zip(missing, read, strict=True):
                if isinstance(data, bytes):
                    found[name] = data
                elif not isinstance(data, FileNotFoundError):
                    failed = data
            if failed is not None:  # what came is kept: of many thousands a few are always refused
                raise failed

        if wanted:
            self._ask("", ask)
        return found

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; one that is gone already is no fault."""
        for name in names:
            try:
                self._ask(name, lambda path: self._files().rm_file(path))
            except MissingError:
                continue

    def move(self, name: str, to: str) -> None:
        """Give an object another name: copied by the store, then deleted. One that is gone already is no fault."""
        target = f"{self.root}/{to}"
        with suppress(MissingError):
            self._ask(name, lambda path: self._files().cp_file(path, target))
            self.delete([name])

    def abort_uploads(self) -> None:
        """Drop what killed builds had begun to upload; for the build that holds the folder."""
        self._ask("", lambda path: self._driver().abort_uploads(path))

    def _under_condition(self, name: str, ask: Callable[[], None]) -> bool:
        def attempt(_: str) -> bool:
            try:
                ask()
            except Exception as error:
                if _refused_condition(error):
                    return False
                raise
            return True

        return self._ask(name, attempt)

    def _ask(self, name: str, ask: Callable[[str], T]) -> T:
        where = f"{self.where}/{name}".rstrip("/")
        path = f"{self.root}/{name}".rstrip("/")
        return self.retries.run(lambda: passing(lambda: ask(path), where), where)

    def _driver(self) -> Driver:
        return DRIVERS[self.scheme](self.address)

    def _files(self) -> Any:
        return filesystem(self.address)


def check_conditions(objects: Objects, name: str, version: str) -> None:
    """Whether the store keeps to conditions, asked of an object that is there; for whoever holds it.

    Args:
        objects: the folder.
        name: of a small object that nobody else writes now.
        version: of it.

    Raises:
        IgnoredError: it does not: two builds could overwrite one another there. The object is deleted.
    """
    other = "1" + "0" * (len(version) - 1)  # of the same form, and no version that there ever was
    kept = not objects.create(name, b"{}") and not objects.replace(name, b"{}", other)
    if kept and objects.scheme == "s3":
        kept = not _completes_over(objects, name)
    if not kept:
        objects.delete([name])  # whatever it is now
        raise IgnoredError(
            f"{objects.where}: this store ignores If-None-Match or If-Match, so two builds could overwrite one "
            "another; build into a folder and publish that: cdgen build RECIPE --out DIR; cdgen publish DIR "
            f"{objects.where}"
        )


def _completes_over(objects: Objects, name: str) -> bool:
    """Whether a multipart upload ends over an object that is there, against its condition."""
    files = filesystem(objects.address)
    bucket, key, _ = files.split_path(f"{objects.root}/{name}")
    where = {"Bucket": bucket, "Key": key}

    def ask() -> bool:
        where["UploadId"] = files.call_s3("create_multipart_upload", **where)["UploadId"]
        try:
            part = files.call_s3(
                "upload_part", PartNumber=1, Body=b"{}", timeout=limit_s(b"{}"), **where
            )
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            files.call_s3(
                "complete_multipart_upload", MultipartUpload=parts, IfNoneMatch="*", **where
            )
        except Exception as error:
            if not _refused_condition(error):
                raise
            return False
        finally:
            with suppress(OSError):
                files.call_s3("abort_multipart_upload", **where)
            del where["UploadId"]
        return True

    at = f"{objects.where}/{name}"
    return objects.retries.run(lambda: passing(ask, at), at)


def _about(source: bytes | Path, sha256: str, note: str) -> dict[str, str]:
    if not sha256 and isinstance(source, bytes):
        sha256 = hashlib.sha256(source).hexdigest()
    return {SHA256: sha256} | ({NOTE: note} if note else {})


def _refused_condition(error: Exception) -> bool:
    """Whether an error of a store's library says that its condition did not hold (412)."""
    return isinstance(error, FileExistsError) or status_of(error) == _PRECONDITION_FAILED
