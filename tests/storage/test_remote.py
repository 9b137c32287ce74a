"""A file from a web server arrives whole and as it was, or one line says why not; and no line holds a secret."""

import hashlib
import io
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import Plan, faulty, web
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import BuildError, CdgenError, UsageError
from cdgen.storage import FileStamp
from cdgen.storage.http import PIECE_BYTES, WebFolder
from cdgen.storage.remote import (
    MissingError,
    PassingError,
    Retries,
    download,
    is_remote,
    read_whole,
    remote_at,
    shown,
)

DATA = bytes(range(256)) * (3 * PIECE_BYTES // 256 + 7)
STAMP = FileStamp(name="a.tar", sha256=hashlib.sha256(DATA).hexdigest(), num_bytes=len(DATA))
SECRET = "s3cr3t"


class Clock:
    """Sleeps in no time, and remembers how long."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retries(clock: Clock) -> Retries:
    return Retries(tries=4, sleep=clock.sleep, jitter=lambda: 0.5)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "a.tar").write_bytes(DATA)
    (folder / "empty").write_bytes(b"")
    with web(folder) as address:
        yield address


def first(*faults: str) -> Plan:
    """These faults at the first requests of each file, then none."""

    def plan(path: str, before: int) -> str | None:
        return faults[before] if before < len(faults) else None

    return plan


def open_remote(address: str) -> None:
    assert is_remote(address)
    remote_at(address)


def always(fault: str) -> Plan:

    def plan(path: str, before: int) -> str:
        return fault

    return plan


def fetched(address: str, retries: Retries, stamp: FileStamp = STAMP, **options: object) -> bytes:
    file = io.BytesIO()
    download(WebFolder(address, **options), stamp.name, stamp, file, retries=retries)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("503", "503", "500"),
        ("429",),
        ("cut",),
        ("cut", "cut", "cut"),
        ("flip",),
        ("cut", "flip"),
        ("reset", "reset"),
        ("slow",),
        ("longer",),
        ("408", "cut", "reset"),
    ],
)
def test_what_passes_is_tried_again(site: str, retries: Retries, faults: tuple[str, ...]) -> None:
    with faulty(site, first(*faults)) as proxy:
        assert fetched(proxy.address, retries) == DATA
        assert proxy.asked["/a.tar"] == len(faults) + 1 - ("slow" in faults)
        assert sum(proxy.injected.values()) == len(faults)


def test_a_cut_transfer_goes_on_where_it_was_cut(tmp_path: Path, retries: Retries) -> None:
    """From a server that knows ranges, the second request asks for the rest alone."""
    from hub_double import REVISION, hub

    (tmp_path / "datasets/o/n").mkdir(parents=True)
    (tmp_path / "datasets/o/n/a.tar").write_bytes(DATA)
    with hub(tmp_path) as (address, _), faulty(address, first("cut")) as proxy:
        assert fetched(f"{proxy.address}/datasets/o/n/resolve/{REVISION}", retries) == DATA
        assert [h.get("Range") for h in proxy.headers] == [None, f"bytes={len(DATA) // 2}-"]


def test_waits_grow_and_come_apart(site: str, clock: Clock, retries: Retries) -> None:
    with faulty(site, first("503", "503", "503")) as proxy:
        fetched(proxy.address, retries)
    assert clock.slept_s == [0.375, 0.75, 1.5]


def test_a_server_is_left_alone_as_long_as_it_asks(
    site: str, clock: Clock, retries: Retries
) -> None:
    with faulty(site, first("429")) as proxy:
        fetched(proxy.address, retries)
    assert clock.slept_s == [3.0]


@given(st.integers(1, 30), st.floats(0, 1, exclude_max=True), st.floats(0, 1e9))
def test_no_wait_is_longer_than_the_longest(number: int, jitter: float, asked_s: float) -> None:
    clock = Clock()
    patient = Retries(tries=number + 1, sleep=clock.sleep, jitter=lambda: jitter)

    def attempt() -> None:
        raise PassingError("no", asked_s)

    with pytest.raises(BuildError, match=f"no, {number + 1} times"):
        patient.run(attempt, "x")
    assert len(clock.slept_s) == number
    assert all(0.25 <= wait <= 60 for wait in clock.slept_s)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("503", r"a\.tar: the server answers 503, 4 times; try again later"),
        ("reset", r"a\.tar: the server cannot be reached \(.*\), 4 times|a\.tar: the connection broke \(.*\), 4 times"),
        ("flip", r"a\.tar: fetched twice, its SHA-256 is not [0-9a-f]{12}… of the manifest"),
        ("longer", r"a\.tar: fetched twice, its SHA-256 is not"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_one_line(site: str, retries: Retries, fault: str, says: str) -> None:
    with faulty(site, always(fault)) as proxy, pytest.raises(BuildError, match=says) as caught:
        fetched(proxy.address, retries)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_short_is_named(site: str, retries: Retries) -> None:
    longer = FileStamp(name="a.tar", sha256=STAMP.sha256, num_bytes=len(DATA) + 1)
    with pytest.raises(BuildError, match=rf"ended at byte {len(DATA)} of {len(DATA) + 1}, 4 times"):
        fetched(site, retries, longer)


@pytest.mark.parametrize("code", [401, 403, 404, 410, 400])
def test_what_no_try_helps_against_is_said_at_once(
    site: str, clock: Clock, retries: Retries, code: int
) -> None:
    with faulty(site, always(str(code))) as proxy, pytest.raises(BuildError, match=str(code)) as e:
        fetched(proxy.address, retries)
    assert clock.slept_s == [] and proxy.asked["/a.tar"] == 1
    assert isinstance(e.value, MissingError) == (code in (404, 410))


def test_a_server_that_says_nothing_is_given_up(site: str, clock: Clock) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        few = Retries(tries=2, sleep=clock.sleep)
        with pytest.raises(BuildError, match=r"no byte came for 0\.1 s, 2 times"):
            fetched(address, few, timeout_s=0.1)


def test_no_server_at_all(retries: Retries) -> None:
    with pytest.raises(BuildError, match=r"cannot be reached \(Connection refused\), 4 times"):
        fetched("http://127.0.0.1:9", retries)


def test_a_whole_file_of_unknown_size(site: str, retries: Retries) -> None:
    with faulty(site, first("cut", "503")) as proxy:
        assert read_whole(WebFolder(proxy.address), "a.tar", retries=retries) == DATA
        assert read_whole(WebFolder(proxy.address), "empty", retries=retries) == b""
        with pytest.raises(BuildError, match="more than 1000 bytes"):
            read_whole(WebFolder(proxy.address), "a.tar", most_bytes=1000, retries=retries)


def test_secrets_are_sent_and_never_shown(
    site: str, retries: Retries, caplog: pytest.LogCaptureFixture
) -> None:
    """User, password and signature of an address go to its server, and into no message, log or repr."""
    caplog.set_level(logging.DEBUG)
    for fault in ("404", "403", "400", "503", "flip", "reset"):
        with faulty(site, always(fault)) as proxy:
            host = proxy.address.removeprefix("http://")
            remote = remote_at(f"http://me:{SECRET}@{host}/?sig={SECRET}#{SECRET}")
            with pytest.raises(CdgenError) as caught:
                download(remote, "a.tar", STAMP, io.BytesIO(), retries=retries)
            assert proxy.headers[0]["Authorization"].startswith("Basic ")
        chain: list[str] = []
        error: BaseException | None = caught.value
        while error is not None:
            chain.append(str(error))
            error = error.__cause__
        for text in (*chain, repr(remote), remote.where, caplog.text):
            assert SECRET not in text
    assert SECRET not in shown(f"s3://me:{SECRET}@bucket/x?versionId={SECRET}")


def test_a_query_is_part_of_every_request(tmp_path: Path, retries: Retries) -> None:
    (tmp_path / "a.tar").write_bytes(DATA)
    with web(tmp_path) as address, faulty(address) as proxy:
        file = io.BytesIO()
        download(WebFolder(f"{proxy.address}/?sig=x"), "a.tar", STAMP, file, retries=retries)
    assert proxy.paths == ["/a.tar?sig=x"] and file.getvalue() == DATA


def test_a_token_goes_to_its_own_server_only(tmp_path: Path, retries: Retries) -> None:
    """A redirect to another server, such as a store's signed address, takes no token along."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    (tmp_path / "a.tar").write_bytes(DATA)
    with web(tmp_path) as address, faulty(address) as store:

        class Redirects(BaseHTTPRequestHandler):
            tokens: list[str | None] = []  # noqa: RUF012 - of this test

            def do_GET(self) -> None:
                self.tokens.append(self.headers.get("Authorization"))
                there = "/again" if self.path == "/a.tar" else f"{store.address}/a.tar?sig={SECRET}"
                self.send_response(302)
                self.send_header("Location", there)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        front = ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
        Thread(target=front.serve_forever, args=(0.02,), daemon=True).start()
        try:
            got = fetched(f"http://127.0.0.1:{front.server_port}", retries, token=SECRET)
        finally:
            front.shutdown()
            front.server_close()
        assert got == DATA
        assert Redirects.tokens == [f"Bearer {SECRET}"] * 2
        assert "Authorization" not in store.headers[0]


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        ("shards/x", False),
        ("/a://b", False),
        ("file:///x", False),
        ("s3://b/x", True),
        ("HTTPS://h/x", True),
    ],
)
def test_what_is_an_address(address: str, remote: bool) -> None:
    assert is_remote(address) == remote


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (f"ftp://me:{SECRET}@h/x", r"ftp://h/x: ftp:// is not known"),
        ("https:///x", "names no server"),
        (f"https://me:{SECRET}@h:port/x", "not an address of a web server"),
        ("s3:///x", "names no bucket"),
        ("hf://models/o/n", r"hf://datasets/<owner>/<name>"),
        ("hf://datasets/o", r"hf://datasets/<owner>/<name>"),
    ],
)
def test_a_wrong_address_is_one_line(address: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_remote(address)
    assert SECRET not in str(caught.value)


def test_a_remote_can_be_sent_to_another_process(site: str, retries: Retries) -> None:
    remote = pickle.loads(pickle.dumps(remote_at(site)))
    file = io.BytesIO()
    download(remote, "a.tar", STAMP, file, retries=retries)
    assert file.getvalue() == DATA
