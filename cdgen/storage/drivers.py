"""The kinds of object stores that are written to, one try at a time: S3 through s3fs, Google's through gcsfs."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

from cdgen.storage.objects import filesystem

PART_BYTES = 64 << 20
"""Of a multipart upload. Files below two parts go in one request."""
_SILENT_S = 30.0
"""Half of a lease's term: a renewal that hangs is tried again in time."""
_SLOWEST_BYTES_PER_S = 64 << 10
"""Of one write of many at a time; slower ones are begun again."""

SHA256 = "cdgen-sha256"
NOTE = "cdgen-note"
_MD5 = re.compile(r"[0-9a-f]{32}(-[1-9][0-9]{0,4})?")


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

    def replace(self, path: str, source: bytes | Path, about: dict[str, str], version: str) -> None:
        """Write over the very version that was seen, in one request; else as `write`."""
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
        how: dict[str, Any] = {"mode": mode, "Metadata": about, "timeout": limit_s(source)}
        if isinstance(source, bytes):
            self.files.pipe_file(path, source, **how)
        else:
            self.files.put_file(str(source), path, chunksize=PART_BYTES, **how)

    def replace(self, path: str, source: bytes | Path, about: dict[str, str], version: str) -> None:
        """If-Match with the etag. Not `pipe_file`, which forgets the condition where it uploads in parts."""
        bucket, key, _ = self.files.split_path(path)
        where = {"Bucket": bucket, "Key": key, "IfMatch": f'"{version}"'}
        self.files.call_s3(
            "put_object", Body=_bytes(source), Metadata=about, timeout=limit_s(source), **where
        )

    def stat(self, path: str) -> Stored:
        """A HEAD request."""
        bucket, key, _ = self.files.split_path(path)
        told = self.files.call_s3("head_object", Bucket=bucket, Key=key)
        about = told.get("Metadata", {})
        now = parsedate_to_datetime(told["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Stored(
            num_bytes=told["ContentLength"],
            version=told["ETag"].strip('"'),
            sha256=about.get(SHA256, ""),
            note=about.get(NOTE, ""),
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
        how: dict[str, Any] = {"mode": mode, "metadata": about, "timeout": limit_s(source)}
        if isinstance(source, bytes):
            self.files.pipe_file(path, source, **how)
        else:
            self.files.put_file(str(source), path, **how)

    def replace(self, path: str, source: bytes | Path, about: dict[str, str], version: str) -> None:
        """ifGenerationMatch."""
        how: dict[str, Any] = {"metadata": about, "timeout": limit_s(source)}
        self.files.pipe_file(path, _bytes(source), generation=version, **how)

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
            sha256=about.get(SHA256, ""),
            note=about.get(NOTE, ""),
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


def limit_s(source: bytes | Path) -> float:
    """How long a write may take. The libraries wait for ever for who takes a request and says nothing.

    Their own limits begin when a body is sent, and before that they ask whether it is wanted (Expect: 100-continue).
    """
    num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    return _SILENT_S + num_bytes / _SLOWEST_BYTES_PER_S


def _bytes(source: bytes | Path) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


DRIVERS: dict[str, Callable[[str], Driver]] = {"s3": S3, "gs": Google}
