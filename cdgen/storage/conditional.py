"""Writing into object stores under a condition: only where nothing is yet, or only over the version that was seen.

S3's If-None-Match and If-Match, Google's ifGenerationMatch. A store that ignores them would let two builders overwrite
each other, so `check_conditions` asks it, and refuses it by name.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cdgen.errors import BuildError, UsageError
from cdgen.storage.objects import filesystem, passing
from cdgen.storage.remote import PATIENT, MissingError, Retries, shown

PART_BYTES = 64 << 20
"""Of a multipart upload. Files below two parts go in one request."""

_SHA256 = "cdgen-sha256"
_NOTE = "cdgen-note"
_MD5 = re.compile(r"[0-9a-f]{32}(-[1-9][0-9]{0,4})?")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object, as its store tells of it.

    Attributes:
        num_bytes: its size.
        version: what the store calls these bytes: an etag, or Google's generation. Another write, another version.
        sha256, note: what its writer said of it; "" where that is not known.
        md5: hex, as the store says it; "" where it does not. Of an object that S3 got in parts it is that of the parts'
            MD5s, with a dash and their number; of an encrypted one it may be something else.
        age_s: how long ago it was written, by the store's own clock.
    """

    num_bytes: int
    version: str
    sha256: str = ""
    note: str = ""
    md5: str = ""
    age_s: float = 0.0


class Driver(Protocol):
    """One kind of store. Paths are "bucket/key"; a method makes one try and raises what the library raises."""

    def write(self, path: str, source: bytes | Path, about: dict[str, str], mode: str) -> None:
        """Write an object, complete or not at all; with mode "create" FileExistsError (or a 412) where there is one."""
        ...

    def replace(self, path: str, data: bytes, about: dict[str, str], version: str) -> None:
        """Write over the very version that was seen; else as `write`."""
        ...

    def stat(self, path: str) -> Stored:
        """FileNotFoundError where there is none."""
        ...

    def listed(self, path: str) -> dict[str, Stored]:
        """By path: every object below a folder."""
        ...

    def files_in(self, path: str) -> dict[str, Stored]:
        """By path: every object in a folder itself."""
        ...

    def part_bytes(self, path: str) -> int:
        """How large the parts of an object were that was written in parts; 0 where that is not known."""
        ...

    def abort_uploads(self, path: str) -> None:
        """Drop the uploads below a folder that nobody has finished: a store keeps, and charges for, their parts."""
        ...


class S3:
    """s3://, through s3fs."""

    def __init__(self, address: str) -> None:
        self.files = filesystem(address)

    def write(self, path: str, source: bytes | Path, about: dict[str, str], mode: str) -> None:
        """The condition of a multipart upload is on its last request, which makes the object appear."""
        if isinstance(source, bytes):
            self.files.pipe_file(path, source, mode=mode, Metadata=about)
        else:
            self.files.put_file(str(source), path, chunksize=PART_BYTES, mode=mode, Metadata=about)

    def replace(self, path: str, data: bytes, about: dict[str, str], version: str) -> None:
        """If-Match with the etag."""
        self.files.pipe_file(path, data, Metadata=about, IfMatch=f'"{version}"')

    def stat(self, path: str) -> Stored:
        """A HEAD request."""
        bucket, key, _ = self.files.split_path(path)
        told = self.files.call_s3("head_object", Bucket=bucket, Key=key)
        about = told.get("Metadata", {})
        now = parsedate_to_datetime(told["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Stored(
            num_bytes=told["ContentLength"],
            version=told["ETag"].strip('"'),
            sha256=about.get(_SHA256, ""),
            note=about.get(_NOTE, ""),
            age_s=(now - told["LastModified"]).total_seconds(),
        )

    def listed(self, path: str) -> dict[str, Stored]:
        """A thousand objects a request."""
        found = self.files.find(path, detail=True, refresh=True)
        return {name: self._told(told) for name, told in found.items()}

    def files_in(self, path: str) -> dict[str, Stored]:
        """The same, up to the next slash."""
        found = self.files.ls(path, detail=True, refresh=True)
        return {told["name"]: self._told(told) for told in found if told["type"] == "file"}

    def _told(self, told: dict[str, Any]) -> Stored:
        etag = told["ETag"].strip('"')
        md5 = etag if _MD5.fullmatch(etag) else ""
        return Stored(num_bytes=int(told["size"]), version=etag, md5=md5)

    def part_bytes(self, path: str) -> int:
        """All but the last are as large as the first."""
        bucket, key, _ = self.files.split_path(path)
        told = self.files.call_s3("head_object", Bucket=bucket, Key=key, PartNumber=1)
        return int(told["ContentLength"])

    def abort_uploads(self, path: str) -> None:
        """Of this folder only: others may upload into the same bucket."""
        bucket, key, _ = self.files.split_path(path)
        told = self.files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/")
        for upload in told.get("Uploads", ()):
            if upload["Key"].startswith(f"{key}/"):
                self.files.call_s3(
                    "abort_multipart_upload",
                    Bucket=bucket,
                    Key=upload["Key"],
                    UploadId=upload["UploadId"],
                )


class Google:
    """gs://, through gcsfs."""

    def __init__(self, address: str) -> None:
        self.files = filesystem(address)

    def write(self, path: str, source: bytes | Path, about: dict[str, str], mode: str) -> None:
        """ifGenerationMatch=0."""
        if isinstance(source, bytes):
            self.files.pipe_file(path, source, mode=mode, metadata=about)
        else:
            self.files.put_file(str(source), path, mode=mode, metadata=about)

    def replace(self, path: str, data: bytes, about: dict[str, str], version: str) -> None:
        """ifGenerationMatch."""
        self.files.pipe_file(path, data, metadata=about, generation=version)

    def stat(self, path: str) -> Stored:
        """The object's resource."""
        bucket, key, _ = self.files.split_path(path)
        headers, body = self.files.call("GET", "b/{}/o/{}", bucket, key)
        told = json.loads(body)
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        about = told.get("metadata", {})
        return Stored(
            num_bytes=int(told["size"]),
            version=str(told["generation"]),
            sha256=about.get(_SHA256, ""),
            note=about.get(_NOTE, ""),
            age_s=(now - datetime.fromisoformat(told["updated"])).total_seconds(),
        )

    def listed(self, path: str) -> dict[str, Stored]:
        """A thousand objects a request."""
        found = self.files.find(path, detail=True)
        return {name: self._told(told) for name, told in found.items()}

    def files_in(self, path: str) -> dict[str, Stored]:
        """The same, up to the next slash."""
        found = self.files.ls(path, detail=True, refresh=True)
        return {told["name"]: self._told(told) for told in found if told["type"] == "file"}

    def _told(self, told: dict[str, Any]) -> Stored:
        """Of an object that was composed of others Google knows no MD5."""
        md5 = base64.b64decode(told.get("md5Hash", "")).hex()
        return Stored(num_bytes=int(told["size"]), version=str(told["generation"]), md5=md5)

    def part_bytes(self, path: str) -> int:
        """Its MD5 is of the whole."""
        return 0

    def abort_uploads(self, path: str) -> None:
        """Nothing to do: Google drops an upload after a week, and charges nothing for it."""


_DRIVERS: dict[str, Callable[[str], Driver]] = {"s3": S3, "gs": Google}


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
        return self.address.partition("://")[0].lower()

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

    def replace(self, name: str, data: bytes, version: str, note: str = "") -> bool:
        """Write over one version of an object. False: it is another one by now, perhaps our own: see `create`."""
        about = _about(data, "", note)
        path = f"{self.root}/{name}"
        return self._under_condition(
            name, lambda: self._driver().replace(path, data, about, version)
        )

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
        try:
            data: bytes = self._ask(name, lambda path: self._files().cat_file(path))
        except MissingError:
            return None
        return data

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Small objects, many requests at a time; those that are gone by now are left out."""
        found: dict[str, bytes] = {}
        paths = {f"{self.root}/{name}": name for name in names}

        def ask(_: str) -> None:
            missing = [path for path, name in paths.items() if name not in found]
            for path, data in self._files().cat(missing, on_error="return").items():
                if isinstance(data, bytes):
                    found[paths[path]] = data
                elif not isinstance(data, FileNotFoundError):
                    raise data

        if paths:
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
        """Give an object another name: copied by the store, then deleted."""
        target = f"{self.root}/{to}"
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
        return _DRIVERS[self.scheme](self.address)

    def _files(self) -> Any:
        return filesystem(self.address)


def check_conditions(objects: Objects, name: str, version: str) -> None:
    """Whether the store keeps to conditions, asked of an object that is there; for whoever holds it.

    Args:
        objects: the folder.
        name: of a small object that nobody else writes now.
        version: of it.

    Raises:
        BuildError: it does not: two builds could overwrite one another there.
    """
    other = "1" + "0" * (len(version) - 1)  # of the same form, and no version that there ever was
    kept = not objects.create(name, b"{}") and not objects.replace(name, b"{}", other)
    if kept and objects.scheme == "s3":
        kept = not _completes_over(objects, name)
    if not kept:
        objects.delete([name])  # whatever it is now
        raise BuildError(
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
            part = files.call_s3("upload_part", PartNumber=1, Body=b"{}", **where)
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
    return {_SHA256: sha256} | ({_NOTE: note} if note else {})


def _refused_condition(error: Exception) -> bool:
    """Whether an error of a store's library says that its condition did not hold (412)."""
    if isinstance(error, FileExistsError):
        return True
    told = getattr(error.__cause__ or error, "response", None)
    status = told.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(told, dict) else 0
    return bool(status == 412)
