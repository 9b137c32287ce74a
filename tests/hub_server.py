"""A Hub on this machine that can be written: repositories, commits, branches, tags, pull requests and big files.

It keeps everything in memory and answers as the Hugging Face Hub does, as far as `cdgen publish` and readers ask. A
test may have it fail: `server.faults` is asked before every answer.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BIG = (".tar", ".parquet")


@dataclass(frozen=True, slots=True)
class File:
    """A file of a commit; big ones are named by the SHA-256 of their content."""

    oid: str
    num_bytes: int
    content: bytes | None = None


@dataclass
class Repo:
    """A repository: every commit is a whole tree."""

    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    visibility: str = "public"

    def add(self, ref: str, tree: dict[str, File], title: str, *parents: str) -> str:
        """A new commit at the end of a branch; its name hangs on all of it."""
        parent = parents[0] if parents else self.refs.get(ref, "")
        said = json.dumps([title, parent, sorted((p, f.oid) for p, f in tree.items())])
        name = hashlib.sha1(said.encode()).hexdigest()
        self.commits[name], self.parents[name], self.titles[name] = tree, parent, title
        self.refs[ref] = name
        return name

    def find(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names."""
        return (
            self.refs.get(revision)
            or self.tags.get(revision)
            or (revision if revision in self.commits else None)
        )


Fault = tuple[int, str]
"""(status, message): the answer instead; status 0 = the answer is lost after the deed is done."""


@contextmanager
def hub_server(scratch: Path) -> Iterator["HubServer"]:
    """A running server; `scratch` is where hf-xet puts what it uploads."""
    server = HubServer(scratch)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class HubServer(ThreadingHTTPServer):
    """The server, what it holds, and what was asked of it."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scratch = scratch
        self.repos: dict[str, Repo] = {}
        self.big: dict[str, bytes] = {}
        """By SHA-256: big files as LFS uploads them."""
        self.local: dict[str, Path] = {}
        """By SHA-256: big files that xet uploaded, in the folder they came from."""
        self.asked: list[str] = []
        self.uploaded: list[str] = []
        self.faults: Callable[[str], Fault | None] = lambda _: None
        self.lock = RLock()

    @property
    def address(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def knows(self, folder: Path) -> None:
        """Xet's uploads cannot be read back here: they are served from the files they were made of."""
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix in BIG:
                self.local[hashlib.sha256(path.read_bytes()).hexdigest()] = path

    def content(self, file: File) -> bytes:
        """The bytes of a file."""
        if file.content is not None:
            return file.content
        if file.oid in self.big:
            return self.big[file.oid]
        return self.local[file.oid].read_bytes()

    def visible(self, repo: str, revision: str = "main") -> dict[str, File]:
        """The files that a reader of a revision sees."""
        held = self.repos[repo]
        return held.commits[held.find(revision) or ""]


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._body = self.rfile.read(length)
        url = urlsplit(self.path)
        self._query = parse_qs(url.query)
        path = unquote(url.path).strip("/")
        line = f"{self.command} {path}"
        with self.server.lock:
            self.server.asked.append(line)
            fault = self.server.faults(line)
            if fault and fault[0]:
                return self._json({"error": fault[1]}, fault[0], {"X-Error-Message": fault[1]})
            self._lost = bool(fault)
            for pattern, route in _ROUTES:
                found = re.fullmatch(pattern, line)
                if found:
                    return route(self, *found.groups())
            return self._json({"error": f"no such route: {line}"}, 404)

    # ---- answers ----

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self._is_lost():
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_lost(self) -> bool:
        return getattr(self, "_lost", False)

    def _json(
        self, value: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        kind = {"Content-Type": "application/json", **(headers or {})}
        self._send(json.dumps(value).encode(), status, kind)

    def _missing(self, code: str) -> None:
        self._json({"error": code}, 404, {"X-Error-Code": code})

    def _found(self, name: str, revision: str = "main") -> tuple[Repo, str] | None:
        """(repository, commit); answers itself when there is none."""
        repo = self.server.repos.get(name)
        if repo is None:
            self._missing("RepoNotFound")
            return None
        commit = repo.find(revision)
        if commit is None:
            self._missing("RevisionNotFound")
            return None
        return repo, commit

    # ---- repositories and revisions ----

    def _create(self) -> None:
        asked = json.loads(self._body)
        name = (
            f"{asked['organization']}/{asked['name']}"
            if asked.get("organization")
            else asked["name"]
        )
        url = f"{self.server.address}/datasets/{name}"
        if name in self.server.repos:
            return self._json({"url": url, "error": "You already created this dataset repo"}, 409)
        private = asked.get("visibility") == "private" or asked.get("private")
        repo = self.server.repos[name] = Repo(visibility="private" if private else "public")
        content = b"*.tar filter=lfs diff=lfs merge=lfs -text\n"
        repo.add("main", {".gitattributes": _small(content)}, "initial commit")
        return self._json({"url": url, "name": name})

    def _info(self, name: str, revision: str | None = None) -> None:
        found = self._found(name, revision or "main")
        if found:
            repo, commit = found
            siblings = [{"rfilename": path} for path in sorted(repo.commits[commit])]
            self._json(
                {"id": name, "sha": commit, "private": repo.visibility == "private", "tags": [], "siblings": siblings}
            )  # fmt: skip

    def _tree(self, name: str, revision: str, inside: str | None = None) -> None:
        found = self._found(name, revision)
        if not found:
            return None
        repo, commit = found
        folder = f"{inside.strip('/')}/" if inside else ""
        tree = {
            path: file for path, file in repo.commits[commit].items() if path.startswith(folder)
        }
        if inside and not tree:
            return self._missing("EntryNotFound")
        rows: list[dict[str, Any]] = [_row(path, file) for path, file in sorted(tree.items())]
        if "true" not in [value.lower() for value in self._query.get("recursive", [])]:
            deep = {
                path[len(folder) :].split("/")[0] for path in tree if "/" in path[len(folder) :]
            }
            rows = [row for row in rows if "/" not in row["path"][len(folder) :]]
            rows += [
                {"type": "directory", "path": folder + one, "oid": "0" * 40, "size": 0}
                for one in sorted(deep)
            ]
        return self._json(rows)

    def _refs(self, name: str) -> None:
        found = self._found(name)
        if found:
            repo = found[0]
            branches = [
                {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": commit}
                for ref, commit in repo.refs.items()
                if not ref.startswith("refs/pr/")
            ]
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
                for tag, commit in repo.tags.items()
            ]
            self._json({"branches": branches, "tags": tags, "converts": []})

    def _branch(self, name: str, branch: str) -> None:
        found = self._found(name)
        if found:
            repo, commit = found
            if branch in repo.refs:
                return self._json({"error": "already exists"}, 409)
            repo.refs[branch] = commit
            self._json({})
        return None

    def _tag(self, name: str, revision: str) -> None:
        found = self._found(name, revision)
        if found:
            repo, commit = found
            tag = json.loads(self._body)["tag"]
            if tag in repo.tags:
                return self._json({"error": "Tag reference exists already"}, 409)
            repo.tags[tag] = commit
            self._json({})
        return None

    # ---- uploads ----

    def _preupload(self, name: str, revision: str) -> None:
        found = self._found(name, revision)
        if found:
            repo, commit = found
            there = repo.commits[commit]
            self._json(
                {
                    "files": [
                        {
                            "path": one["path"],
                            "uploadMode": "lfs" if one["path"].endswith(BIG) else "regular",
                            "shouldIgnore": False,
                            "oid": there[one["path"]].oid if one["path"] in there else None,
                        }
                        for one in json.loads(self._body)["files"]
                    ]
                }
            )

    def _batch(self, name: str) -> None:
        objects = []
        for one in json.loads(self._body)["objects"]:
            oid, answer = one["oid"], {"oid": one["oid"], "size": one["size"]}
            if oid not in self.server.big and oid not in self.server.local:
                put, verify = (f"{self.server.address}/{way}/{oid}" for way in ("put", "verify"))
                answer["actions"] = {
                    "upload": {"href": put, "header": {}},
                    "verify": {"href": verify, "header": {}},
                }
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if hashlib.sha256(self._body).hexdigest() != oid:
            return self._json({"error": "the content is not what its name says"}, 400)
        self.server.big[oid] = self._body
        self.server.uploaded.append(oid)
        return self._send(b"")

    def _verify(self, oid: str) -> None:
        asked = json.loads(self._body)["oid"]
        self._json({}, 200 if asked == oid and oid in self.server.big else 404)

    def _xet_token(self, name: str, revision: str) -> None:
        self._json(
            {"casUrl": f"local://{self.server.scratch}", "accessToken": "token", "exp": 4102444800}
        )

    def _commit(self, name: str, revision: str) -> None:
        found = self._found(name, revision)
        if not found:
            return None
        repo, head = found
        tree = dict(repo.commits[head])
        title = ""
        for line in self._body.decode().splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    return self._json({"error": "A commit has happened since."}, 412)
            elif said["key"] == "file":
                tree[value["path"]] = _small(base64.b64decode(value["content"]))
            elif said["key"] == "lfsFile":
                oid = value["oid"]
                if oid not in self.server.big and oid not in self.server.local:
                    return self._json({"error": f"LFS pointer to nothing: {oid}"}, 400)
                tree[value["path"]] = File(oid, value["size"])
            elif said["key"] == "deletedFile":
                del tree[value["path"]]
            else:
                return self._json({"error": f"unknown {said['key']}"}, 400)
        made = repo.add(revision, tree, title)
        return self._json(
            {"commitUrl": f"{self.server.address}/datasets/{name}/commit/{made}", "commitOid": made}
        )

    # ---- pull requests ----

    def _discussions(self, name: str) -> None:
        found = self._found(name)
        if found:
            self._json(
                {"discussions": found[0].proposals, "count": len(found[0].proposals), "start": 0}
            )

    def _propose(self, name: str) -> None:
        found = self._found(name)
        if found:
            repo, commit = found
            number = len(repo.proposals) + 1
            repo.refs[f"refs/pr/{number}"] = commit
            repo.proposals.append(
                {
                    "num": number,
                    "title": json.loads(self._body)["title"],
                    "status": "draft",
                    "isPullRequest": True,
                    "author": {"name": "tester"},
                    "createdAt": "2026-01-01T00:00:00.000Z",
                    "repo": {"name": name, "type": "dataset"},
                    "events": [],
                    "changes": {"base": "refs/heads/main"},
                    "filesWithConflicts": [],
                    "diffUrl": "",
                }
            )
            self._json({"num": number})

    def _proposal(self, name: str, number: str) -> None:
        self._json(self.server.repos[name].proposals[int(number) - 1])

    def _status(self, name: str, number: str) -> None:
        status = json.loads(self._body)["status"]
        self.server.repos[name].proposals[int(number) - 1]["status"] = status
        self._json({"newStatus": {**_event("status-change"), "data": {"status": status}}})

    def _merge(self, name: str, number: str) -> None:
        repo = self.server.repos[name]
        proposal = repo.proposals[int(number) - 1]
        if proposal["status"] != "open":
            return self._json({"error": "not open"}, 409)
        proposal["status"] = "merged"
        tree = repo.commits[repo.refs[f"refs/pr/{number}"]]
        repo.add("main", dict(tree), proposal["title"])
        return self._json({})

    # ---- files ----

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._found(name, revision)
        if not found:
            return None
        repo, commit = found
        file = repo.commits[commit].get(path)
        if file is None:
            return self._missing("EntryNotFound")
        body = self.server.content(file)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.content is None:
            headers |= {"X-Linked-Size": str(file.num_bytes), "X-Linked-Etag": f'"{file.oid}"'}
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            return self._send(body, headers=headers)
        first, _, last = wanted.partition("-")
        begin, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(body)}"
        return self._send(body[begin : end + 1], 206, headers)

    def _yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"POST api/repos/create", _Handler._create),
    (r"POST api/validate-yaml", _Handler._yaml),
    (rf"GET api/datasets/{_NAME}", _Handler._info),
    (rf"GET api/datasets/{_NAME}/revision/(.+)", _Handler._info),
    (rf"GET api/datasets/{_NAME}/tree/(refs/pr/\d+|[^/]+)(/.*)?", _Handler._tree),
    (rf"GET api/datasets/{_NAME}/refs", _Handler._refs),
    (rf"POST api/datasets/{_NAME}/branch/(.+)", _Handler._branch),
    (rf"POST api/datasets/{_NAME}/tag/(.+)", _Handler._tag),
    (rf"POST api/datasets/{_NAME}/preupload/(.+)", _Handler._preupload),
    (rf"POST datasets/{_NAME}.git/info/lfs/objects/batch", _Handler._batch),
    (r"PUT put/([0-9a-f]{64})", _Handler._put),
    (r"POST verify/([0-9a-f]{64})", _Handler._verify),
    (rf"GET api/datasets/{_NAME}/xet-write-token/(.+)", _Handler._xet_token),
    (rf"POST api/datasets/{_NAME}/commit/(.+)", _Handler._commit),
    (rf"GET api/datasets/{_NAME}/discussions", _Handler._discussions),
    (rf"POST api/datasets/{_NAME}/discussions", _Handler._propose),
    (rf"GET api/datasets/{_NAME}/discussions/(\d+)", _Handler._proposal),
    (rf"POST api/datasets/{_NAME}/discussions/(\d+)/status", _Handler._status),
    (rf"POST api/datasets/{_NAME}/discussions/(\d+)/merge", _Handler._merge),
    (rf"(?:GET|HEAD) datasets/{_NAME}/resolve/(refs/pr/\d+|[^/]+)/(.+)", _Handler._resolve),
]


def _small(content: bytes) -> File:
    name = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return File(name, len(content), content)


def _row(path: str, file: File) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": file.num_bytes, "oid": file.oid}
    if file.content is None:
        row["oid"] = hashlib.sha1(file.oid.encode()).hexdigest()
        row["lfs"] = {"oid": file.oid, "size": file.num_bytes, "pointerSize": 134}
    return row


def _event(kind: str) -> dict[str, Any]:
    return {
        "id": "0",
        "type": kind,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "author": {"name": "tester"},
    }
