"""A reverse proxy on this machine that damages some of what passes: the faults of real networks, at chosen requests."""

import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import TypeVar
from urllib.parse import unquote

Plan = Callable[[str, int], str | None]
"""(path, how often it was asked for before) -> the fault to inject: one of FAULTS, or a status code; or None.

What writes comes as "PUT path?query", "POST …" or "DELETE …"; nothing is quoted.
"""
FAULTS = ("503", "429", "cut", "flip", "slow", "reset", "longer", "lost")
"""lost: what was asked is done, and the answer never arrives. reset: nothing is done; of an upload half is read."""
READS = ("GET", "HEAD")
S = TypeVar("S", bound=ThreadingHTTPServer)
_DROPPED = {"transfer-encoding", "connection", "content-length", "date", "server"}


class Proxy(ThreadingHTTPServer):
    """The proxy, with what was asked of it and what it did."""

    daemon_threads = True

    def __init__(self, upstream: str, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.plan = upstream.removeprefix("http://"), plan
        self.asked: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        """With their queries."""
        self.commands: Counter[str] = Counter()
        self.dropped_headers: set[str] = set()
        """Lower case: what a server that does not know them does not heed."""
        self.dropped_queries: set[str] = set()
        """The same, of what stands behind the question mark."""
        self.one_at_a_time = Lock()
        """moto looks whether an object is there and then writes, in many threads: a condition must hold for both."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may go away; that is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _pass(self) -> None:
        path = self.path.partition("?")[0]
        asked = unquote(path if self.command in READS else f"{self.command} {self.path}")
        fault = self.server.plan(asked, self.server.asked[path])
        self.server.asked[path] += 1
        self.server.commands[self.command] += 1
        self.server.headers.append(dict(self.headers))
        self.server.paths.append(self.path)
        if fault is not None:
            self.server.injected[fault] += 1
        sent = self._received(half=fault == "reset")
        if fault == "reset":
            return self._reset()
        if fault is not None and fault.isdigit():
            return self._refuse(int(fault))
        status, headers, body = self._fetched(sent)
        if fault == "lost":
            return self._reset()
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _DROPPED or (
                name == "Content-Length" and self.command == "HEAD"
            ):
                self.send_header(name, value)
        if fault == "longer":
            body += b"more"
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send(body, fault)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

    def _received(self, *, half: bool = False) -> bytes:
        """The body that comes with a request; a client that wants to know first whether to send it is told to."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            wanted = length // 2 if half else length
            body = self.rfile.read(wanted)
            if len(body) < wanted:  # the client was killed; no store keeps half of what was sent
                raise ConnectionResetError
            return body
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
            if half:
                return body
        while self.rfile.readline().strip():
            """A trailer."""
        return body

    def _send(self, body: bytes, fault: str | None) -> None:
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "flip" and body:
            half = len(body) // 2
            self.wfile.write(body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :])
        elif fault == "slow":
            for start in range(0, len(body), max(1, len(body) // 4)):
                self.wfile.write(body[start : start + max(1, len(body) // 4)])
                time.sleep(0.05)
        else:
            self.wfile.write(body)

    def _fetched(self, sent: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        dropped = {"connection", "expect", "transfer-encoding", "content-length"}
        dropped |= self.server.dropped_headers
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        if self.command not in READS:
            headers["Content-Length"] = str(len(sent))
        before, _, query = self.path.partition("?")
        said = [
            one
            for one in query.split("&")
            if one.partition("=")[0] not in self.server.dropped_queries
        ]
        address = f"{before}?{'&'.join(said)}" if query else before
        upstream = HTTPConnection(self.server.upstream, timeout=30)
        alone = nullcontext() if self.command in READS else self.server.one_at_a_time
        try:
            with alone:
                upstream.request(self.command, address, sent or None, headers)
                answer = upstream.getresponse()
                return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "3")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _reset(self) -> None:
        """Not closed but reset: the client sees ECONNRESET."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


def writes(path: str) -> bool:
    """Whether a request that a plan is asked about puts something into a store."""
    return path.startswith(("PUT", "POST"))


def _whole(path: str, before: int) -> None:
    """No fault."""


@contextmanager
def faulty(upstream: str, plan: Plan | None = None) -> Iterator[Proxy]:
    """A proxy before the server at `upstream`, http://host:port."""
    with _serving(Proxy(upstream, plan or _whole)) as server:
        yield server


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """The address of a plain web server over `folder`; it knows no ranges and answers whole files only."""
    with _serving(
        ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=folder))
    ) as server:
        yield f"http://127.0.0.1:{server.server_port}"


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@contextmanager
def _serving(server: S) -> Iterator[S]:
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
