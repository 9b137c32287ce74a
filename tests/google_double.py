"""A store with Google's JSON interface on this machine: the calls with which a build writes and reads, nothing else.

What it answers is what Google's own test bench answers to the same tests (CONTRIBUTING.md). Objects are in memory.
"""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REWRITTEN_BYTES = 1 << 20
"""Of one call that copies an object; a larger one takes more calls, as between two places of Google's."""
_OBJECTS = re.compile(
    r"(?P<kind>|/upload|/download)/storage/v1/b/(?P<bucket>[^/]+)/o(?:/(?P<name>[^/]+))?"
)
_REWRITE = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)")


@contextmanager
def google() -> Iterator[str]:
    """Its address."""
    server = _Google()
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    data: bytes
    generation: int
    metadata: dict[str, str]
    updated: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")

    @property
    def md5(self) -> str:
        digest = hashlib.md5(self.data, usedforsecurity=False).digest()
        return base64.b64encode(digest).decode()

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        """As JSON: numbers of 64 bits are text."""
        return {
            "kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(self.data)),
            "generation": str(self.generation), "metageneration": "1", "md5Hash": self.md5,
            "metadata": self.metadata, "updated": self.updated, "timeCreated": self.updated,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Upload:
    """What a resumable upload was begun with."""

    bucket: str
    name: str
    about: dict[str, Any]
    condition: str | None


class _RefusedError(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Google(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = RLock()
        self.buckets: dict[str, dict[str, _Object]] = {}
        self.uploads: dict[str, _Upload] = {}
        self.rewrites: dict[str, int] = {}
        self.generations = count(int(datetime.now(UTC).timestamp() * 1e6))

    def objects(self, bucket: str) -> dict[str, _Object]:
        if bucket not in self.buckets:
            raise _RefusedError(404, "The specified bucket does not exist.")
        return self.buckets[bucket]

    def object(self, bucket: str, name: str) -> _Object:
        try:
            return self.objects(bucket)[name]
        except KeyError:
            raise _RefusedError(404, f"No such object: {bucket}/{name}") from None

    def check(self, bucket: str, name: str, condition: str | None) -> None:
        """ifGenerationMatch; 0 = there is none."""
        there = self.objects(bucket).get(name)
        if condition is not None and int(condition) != (there.generation if there else 0):
            raise _RefusedError(
                412, "At least one of the pre-conditions you specified did not hold."
            )

    def write(self, to: _Upload, data: bytes) -> dict[str, Any]:
        self.check(to.bucket, to.name, to.condition)
        made = _Object(
            data=data, generation=next(self.generations), metadata=to.about.get("metadata") or {}
        )
        if to.about.get("md5Hash", made.md5) != made.md5:
            raise _RefusedError(400, "Provided MD5 hash does not match calculated MD5 hash.")
        self.objects(to.bucket)[to.name] = made
        return made.resource(to.bucket, to.name)


class _Handler(BaseHTTPRequestHandler):
    server: _Google
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        try:
            with self.server.lock:
                self._dispatch(path, asked, body)
        except _RefusedError as error:
            said = {"error": {"code": error.status, "message": str(error)}}
            self._send(json.dumps(said).encode(), status=error.status)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _dispatch(self, path: str, asked: dict[str, str], body: bytes) -> None:
        if (self.command, path) == ("POST", "/storage/v1/b"):
            name = json.loads(body)["name"]
            self.server.buckets[name] = {}
            return self._json({"kind": "storage#bucket", "name": name})
        if self.command == "POST" and (found := _REWRITE.fullmatch(path)):
            return self._rewrite([unquote(one) for one in found.groups()], asked)
        found = _OBJECTS.fullmatch(path)
        if found is None:
            raise _RefusedError(404, f"not one of this server's calls: {self.command} {path}")
        bucket, name = found["bucket"], unquote(found["name"] or "")
        match self.command, found["kind"], bool(name):
            case "GET", "", False:
                self._json(self._listed(bucket, asked))
            case "GET", "", True:
                self._json(self.server.object(bucket, name).resource(bucket, name))
            case "GET", "/download", True:
                self._read(self.server.object(bucket, name))
            case "DELETE", "", True:
                self.server.object(bucket, name)
                del self.server.objects(bucket)[name]
                self._send(b"", status=204)
            case "POST" | "PUT", "/upload", False:
                self._write(bucket, asked, body)
            case _:
                raise _RefusedError(405, f"{self.command} {path}")
        return None

    def _listed(self, bucket: str, asked: dict[str, str]) -> dict[str, Any]:
        """One page; what lies behind the delimiter is one prefix."""
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        objects = self.server.objects(bucket)
        names = sorted(name for name in objects if name.startswith(prefix))
        inside = {
            name: prefix + name[len(prefix) :].partition(delimiter)[0] + delimiter
            for name in names
            if delimiter and delimiter in name[len(prefix) :]
        }
        rows = list(dict.fromkeys(inside.get(name, name) for name in names))
        rows = [row for row in rows if row > asked.get("pageToken", "")]
        page = rows[: int(asked.get("maxResults", 1000))]
        folders = set(inside.values())
        told: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [objects[row].resource(bucket, row) for row in page if row not in folders],
            "prefixes": [row for row in page if row in folders],
        }
        return told | ({"nextPageToken": page[-1]} if len(page) < len(rows) else {})

    def _read(self, found: _Object) -> None:
        data, status, headers = found.data, 200, {"X-Goog-Generation": str(found.generation)}
        if wanted := self.headers.get("Range", "").removeprefix("bytes="):
            first, _, last = wanted.partition("-")
            start, end = int(first), min(int(last or len(data)), len(data) - 1)
            if start > end:
                raise _RefusedError(416, "The requested range cannot be satisfied.")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data = data[start : end + 1]
        self._send(data, status=status, headers=headers, kind="application/octet-stream")

    def _write(self, bucket: str, asked: dict[str, str], body: bytes) -> None:
        """In one request, or in two of which the first says what comes."""
        if self.command == "PUT":
            return self._json(self.server.write(self.server.uploads[asked["upload_id"]], body))
        condition = asked.get("ifGenerationMatch")
        if asked["uploadType"] == "multipart":
            about, data = _parts(self.headers.get("Content-Type", ""), body)
            name = asked.get("name") or about["name"]
            return self._json(self.server.write(_Upload(bucket, name, about, condition), data))
        about = json.loads(body)
        name = asked.get("name") or about["name"]
        self.server.check(bucket, name, condition)
        token = secrets.token_hex(16)
        self.server.uploads[token] = _Upload(bucket, name, about, condition)
        at = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o"
        location = f"{at}?uploadType=resumable&upload_id={token}"
        return self._send(b"", headers={"Location": location})

    def _rewrite(self, names: list[str], asked: dict[str, str]) -> None:
        bucket, name, to_bucket, to_name = names
        found = self.server.object(bucket, name)
        token = asked.get("rewriteToken") or secrets.token_hex(16)
        done = self.server.rewrites.get(token, 0) + REWRITTEN_BYTES
        size = {"objectSize": str(len(found.data)), "kind": "storage#rewriteResponse"}
        if done < len(found.data):
            self.server.rewrites[token] = done
            told = {"done": False, "rewriteToken": token, "totalBytesRewritten": str(done)}
            return self._json(size | told)
        to = _Upload(to_bucket, to_name, {"metadata": found.metadata}, None)
        return self._json(size | {"done": True, "resource": self.server.write(to, found.data)})

    def _json(self, told: dict[str, Any]) -> None:
        self._send(json.dumps(told).encode())

    def _send(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        kind: str = "application/json; charset=UTF-8",
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if body:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


def _parts(kind: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """What is said of an object, and its bytes, out of a body of two parts."""
    boundary = kind.partition("boundary=")[2].strip('"').encode()
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary) if boundary else []
    if len(parts) != 4 or parts[3].strip() != b"--":
        raise _RefusedError(400, "Invalid multipart request.")
    about, data = (part.partition(b"\r\n\r\n")[2] for part in parts[1:3])
    return json.loads(about), data
