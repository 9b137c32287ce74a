"""Files on a web server, with the standard library: one GET a file, from the byte that is wanted."""

import base64
import socket
import ssl
from collections.abc import Iterator
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from cdgen.errors import BuildError, UsageError
from cdgen.storage.remote import MissingError, PassingError, shown

PIECE_BYTES = 1 << 20
_TIMEOUT_S = 30.0
"""Without a byte: then the connection counts as dead."""
_PASSING = (408, 425, 429)
_OK, _PARTIAL, _UNAUTHORIZED, _FORBIDDEN, _RANGE = 200, 206, 401, 403, 416


class WebFolder:
    """A folder on a web server. A query in its address, such as a signature, is part of every request.

    Args:
        address: http:// or https://, perhaps with a user and password.
        token: sent as a bearer token to the server of the address, and to no other that it redirects to.
        where: what to show instead of the address.
        refused: what to do about a 401 or 403, for the message.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        where: str = "",
        refused: str = "check the address and your access",
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        try:
            parts = urlsplit(address)
            _ = parts.port  # checked when it is asked for
        except ValueError:
            raise UsageError(f"{shown(address)}: not an address of a web server") from None
        if not parts.hostname:
            raise UsageError(f"{shown(address)}: names no server: https://host/folder is expected")
        host = parts.netloc.rpartition("@")[2]
        self._base = parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/")
        self._query = f"?{parts.query}" if parts.query else ""
        self._authorization = f"Bearer {token}" if token else _basic(parts.username, parts.password)
        self.where = where or self._base
        self._refused = refused
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"WebFolder({self.where!r})"

    def read(self, name: str, start: int = 0, num_bytes: int | None = None) -> Iterator[bytes]:
        """The bytes of a file: see `Remote.read`."""
        where = f"{self.where}/{name}"
        try:
            with self._open(name, start) as answer:
                yield from _body(answer, start)
        except HTTPError as error:
            error.close()
            raise self._refusal(where, error.code, error.headers) from None
        except URLError as error:
            raise _unreachable(where, error.reason) from None
        except TimeoutError:
            raise PassingError(f"no byte came for {self._timeout_s:g} s") from None
        except (OSError, HTTPException) as error:
            raise PassingError(f"the connection broke ({type(error).__name__})") from None

    def _open(self, name: str, start: int) -> HTTPResponse:
        request = Request(  # noqa: S310 - the opener below knows http and https only
            f"{self._base}/{quote(name, safe='/%')}{self._query}",
            headers={"User-Agent": "cdgen", "Accept-Encoding": "identity"},
        )
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        answer: HTTPResponse = _opener().open(request, timeout=self._timeout_s)
        return answer

    def _refusal(self, where: str, code: int, headers: Message) -> Exception:
        if code in _PASSING or code >= 500 or code == _RANGE:
            return PassingError(f"the server answers {code}", _retry_after_s(headers))
        if code in (_UNAUTHORIZED, _FORBIDDEN):
            return BuildError(f"{where}: access is refused ({code}); {self._refused}")
        if code in (404, 410):
            return MissingError(f"{where}: there is no such file ({code})")
        return BuildError(f"{where}: the server answers {code}")


class _Redirects(HTTPRedirectHandler):
    """The password or token goes along to the same server only, and never from https to http."""

    def redirect_request(  # noqa: PLR0917 - the library's signature
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if (old.scheme, new.scheme) == ("https", "http"):
            raise URLError("it redirects from https to http")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.get_header("Authorization")
        if request and authorization and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            request.add_unredirected_header("Authorization", authorization)
        return request


def _opener() -> OpenerDirector:
    """No file, ftp or data addresses, wherever a server redirects to; proxies as the environment says."""
    opener = OpenerDirector()
    handlers = (
        ProxyHandler(), HTTPHandler(), HTTPSHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor(), _Redirects(),
    )  # fmt: skip
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _body(answer: HTTPResponse, start: int) -> Iterator[bytes]:
    """What follows byte `start`, whether or not the server knows ranges; PassingError where the body is cut."""
    if answer.status == _PARTIAL:
        if not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            raise PassingError("the server answers another range than was asked for")
        skip = 0
    else:
        skip = start
    length = answer.headers.get("Content-Length")
    received = 0
    while piece := answer.read(PIECE_BYTES):
        received += len(piece)
        if len(piece) > skip:
            yield piece[skip:]
        skip = max(0, skip - len(piece))
    if length is not None and received < int(length):
        raise PassingError(f"the body ended after {received} of {length} bytes")


def _unreachable(where: str, reason: object) -> Exception:
    """A name that does not exist and a certificate that does not fit stay so; the rest may pass."""
    if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
        return BuildError(f"{where}: no server of that name is known")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return BuildError(f"{where}: the server's certificate is not valid")
    if isinstance(reason, str):
        return BuildError(f"{where}: {reason[:80]}")
    said = reason.strerror if isinstance(reason, OSError) else None
    return PassingError(f"the server cannot be reached ({said or type(reason).__name__})")


def _retry_after_s(headers: Message) -> float | None:
    """The seconds a server asks for; the other form, a date, is taken as none."""
    value = (headers.get("Retry-After") or "").strip()
    return float(value) if value.isascii() and value.isdigit() else None


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
