"""A reverse proxy on this machine that damages some of what passes: the faults of real networks, at chosen requests."""

import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TypeVar

Plan = Callable[[str, int], str | None]
"""(path, how often it was asked for before) -> the fault to inject: one of FAULTS, or a status code; or None."""
FAULTS = ("503", "429", "cut", "flip", "slow", "reset", "longer")
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

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may go away; that is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _pass(self) -> None:
        path = self.path.partition("?")[0]
        fault = self.server.plan(path, self.server.asked[path])
        self.server.asked[path] += 1
        self.server.headers.append(dict(self.headers))
        self.server.paths.append(self.path)
        if fault is not None:
            self.server.injected[fault] += 1
        if fault == "reset":
            return self._reset()
        if fault is not None and fault.isdigit():
            return self._refuse(int(fault))
        status, headers, body = self._fetched()
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _DROPPED:
                self.send_header(name, value)
        if fault == "longer":
            body += b"more"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send(body, fault)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = _pass

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

    def _fetched(self) -> tuple[int, list[tuple[str, str]], bytes]:
        length = int(self.headers.get("Content-Length") or 0)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        upstream = HTTPConnection(self.server.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, self.rfile.read(length) or None, headers)
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
