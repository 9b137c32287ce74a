"""A Hub on this machine that serves folders: the calls with which models and datasets are read, and nothing else."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import yaml

REVISION = "0123456789abcdef0123456789abcdef01234567"
"""The one commit of every repository."""


@contextmanager
def hub(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, the paths asked for); `root` holds models/<owner>/<name> and datasets/<owner>/<name>."""
    server = _Hub(root)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()


class _Hub(ThreadingHTTPServer):
    """The server, with what it serves and what was asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(path)
        root = self.server.root
        parts = path.split("/")
        if parts[0] == "api":
            self._api(root / parts[1] / parts[2] / parts[3], parts[4:])
        else:
            parts = parts if parts[0] == "datasets" else ["models", *parts]
            self._file(root / "/".join(parts[:3]), parts[3:])

    def _api(self, repo: Path, parts: list[str]) -> None:
        if not repo.is_dir():
            return self._refuse("RepoNotFound")
        if len(parts) > 1 and parts[1] not in (REVISION, "main"):
            return self._refuse("RevisionNotFound")
        names = sorted(str(path.relative_to(repo)) for path in repo.rglob("*") if path.is_file())
        if parts[:1] == ["tree"]:
            inside = "/".join(parts[2:])
            rows = [
                {
                    "type": "file",
                    "path": name,
                    "size": (repo / name).stat().st_size,
                    "oid": _oid(repo / name),
                }
                for name in names
                if name.startswith(inside)
            ]
            return self._send(json.dumps(rows).encode())
        about = {
            "id": f"{repo.parent.name}/{repo.name}",
            "sha": REVISION,
            "private": False,
            "tags": [],
            "siblings": [{"rfilename": name} for name in names],
        }
        if "README.md" in names:
            head = (repo / "README.md").read_text(encoding="utf-8").split("---")[1]
            about["cardData"] = yaml.safe_load(head)
        return self._send(json.dumps(about).encode())

    def _file(self, repo: Path, parts: list[str]) -> None:
        path = repo / "/".join(parts[2:])
        if not repo.is_dir():
            return self._refuse("RepoNotFound")
        if parts[1] not in (REVISION, "main"):
            return self._refuse("RevisionNotFound")
        if not path.is_file():
            return self._refuse("EntryNotFound")
        return self._send(path.read_bytes(), etag=_oid(path))

    def _send(self, body: bytes, etag: str = "") -> None:
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        self.send_response(206 if wanted else 200)
        if wanted:
            first, _, last = wanted.partition("-")
            span = int(first), min(int(last or len(body) - 1), len(body) - 1)
            self.send_header("Content-Range", f"bytes {span[0]}-{span[1]}/{len(body)}")
            body = body[span[0] : span[1] + 1]
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
