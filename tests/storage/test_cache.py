"""Processes share the cache: one download, no half file, no file deleted under a reader, and the limit holds."""

import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import BuildError, UsageError
from cdgen.storage import FileStamp
from cdgen.storage.cache import Cache, NoRoomError, Pin, default_cache, limit_from_environment


def content(number: int, size: int = 1000) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * (size // 32 + 1)


def stamp(data: bytes, name: str = "a.tar") -> FileStamp:
    return FileStamp(name=name, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))


class Source:
    """Writes files, and counts how often."""

    def __init__(self) -> None:
        self.written = 0

    def of(self, data: bytes) -> Callable[[io.RawIOBase], None]:
        def fetch(file: io.RawIOBase) -> None:
            self.written += 1
            file.write(data)

        return fetch


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "shards", limit_bytes=10_000)


def held(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_a_file_is_fetched_once(cache: Cache, source: Source) -> None:
    data = content(1)
    for _ in range(3):
        pin = cache.get(stamp(data), source.of(data))
        assert pin.path.read_bytes() == data
        pin.close()
    assert source.written == 1


def test_names_do_not_collide(cache: Cache, source: Source) -> None:
    """Two shards of one name are two entries: the content decides."""
    one, two = content(1), content(2)
    assert cache.get(stamp(one), source.of(one)).path.read_bytes() == one
    assert cache.get(stamp(two), source.of(two)).path.read_bytes() == two


def test_what_fails_leaves_nothing(cache: Cache) -> None:
    def fetch(file: io.RawIOBase) -> None:
        file.write(b"half")
        raise BuildError("cut")

    with pytest.raises(BuildError, match="cut"):
        cache.get(stamp(content(1)), fetch)
    assert held(cache) == []


def test_a_full_disk_is_one_line(cache: Cache) -> None:
    def fetch(file: io.RawIOBase) -> None:
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
            full.write(b"x")

    with pytest.raises(
        BuildError, match=r"cannot cache a\.tar in .*: No space left on device; free"
    ):
        cache.get(stamp(content(1)), fetch)
    assert held(cache) == []


def test_a_file_that_was_cut_from_outside_is_fetched_again(cache: Cache, source: Source) -> None:
    data = content(1)
    pin = cache.get(stamp(data), source.of(data))
    pin.close()
    pin.path.write_bytes(data[:10])
    assert cache.get(stamp(data), source.of(data)).path.read_bytes() == data
    assert source.written == 2


def fill(cache: Cache, source: Source, count: int) -> list[Path]:
    """So many files of 1,000-odd bytes, the first one the oldest, none pinned."""
    paths = []
    for number in range(count):
        data = content(number)
        pin = cache.get(stamp(data), source.of(data))
        os.utime(pin.path, (number + 1, number + 1))
        pin.close()
        paths.append(pin.path)
    return paths


def test_what_was_unused_for_longest_goes_first(cache: Cache, source: Source) -> None:
    paths = fill(cache, source, 9)
    again = cache.get(stamp(content(0)), source.of(content(0)))  # used now: the newest
    big = content(100, 2500)
    cache.get(stamp(big), source.of(big))
    assert again.path.exists()
    assert [path.exists() for path in paths] == [True, False, False, *[True] * 6]


def test_a_pinned_file_stays(cache: Cache, source: Source) -> None:
    pins = [cache.get(stamp(content(n)), source.of(content(n))) for n in range(9)]
    big = content(100, 2500)
    with pytest.raises(
        NoRoomError,
        match=r"may hold 10,000 bytes, 9,\d+ of them are in use, and 2,\d+ more.*CDGEN_CACHE_LIMIT",
    ):
        cache.get(stamp(big), source.of(big))
    assert all(pin.path.exists() for pin in pins)
    for pin in pins[:2]:
        pin.close()
    cache.get(stamp(big), source.of(big))
    assert [pin.path.exists() for pin in pins] == [False, False, *[True] * 7]


def test_a_file_above_the_limit_is_refused(cache: Cache, source: Source) -> None:
    paths = fill(cache, source, 3)
    with pytest.raises(NoRoomError):
        cache.get(stamp(content(9, 20_000)), source.of(b""))
    assert source.written == 3 and [path.exists() for path in paths] == [False] * 3


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30))
def test_the_limit_holds_whatever_is_asked(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, bool]]
) -> None:
    """Any order of uses and releases: what was given is whole, what is pinned is there, the sum is bounded."""
    cache = Cache(tmp_path_factory.mktemp("cache") / "shards", limit_bytes=4_500)
    source, pins = Source(), dict[int, Pin]()
    for number, keep in asked:
        data = content(number)
        try:
            pin = cache.get(stamp(data), source.of(data))
        except NoRoomError:
            assert len(pins) == 4 and number not in pins
            pins.popitem()[1].close()
            continue
        assert pin.path.read_bytes() == data
        if keep and number not in pins:
            pins[number] = pin
        else:
            pin.close()
        assert all(pin.path.exists() for pin in pins.values())
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= 4_500


def test_threads_fetch_one_file_once(cache: Cache, source: Source) -> None:
    data, start = content(1), Barrier(8)
    got = []

    def use() -> None:
        start.wait()
        got.append(cache.get(stamp(data), source.of(data)).path.read_bytes())

    threads = [Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [data] * 8 and source.written == 1


def child(code: str, folder: Path) -> subprocess.Popen[str]:
    """A process that has `cache`, `stamp` and `data`, and runs `code`."""
    head = (
        "import hashlib, os, sys, time\nfrom pathlib import Path\n"
        "from cdgen.storage import FileStamp\nfrom cdgen.storage.cache import Cache\n"
        f"cache = Cache(Path({str(folder)!r}), limit_bytes=10_000)\n"
        "data = hashlib.sha256(b'1').digest() * (1000 // 32 + 1)\n"
        "stamp = FileStamp(name='a.tar', sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None and process.stdout.readline().strip() == line


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out


def test_processes_fetch_one_file_once(cache: Cache) -> None:
    """Four at once: one downloads, the others wait for it."""
    code = (
        "def fetch(file):\n    print('fetched', flush=True); time.sleep(0.3); file.write(data)\n"
        "sys.stdin.readline()\nassert cache.get(stamp, fetch).path.read_bytes() == data\n"
    )
    processes = [child(code, cache.folder) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(map(finish, processes)) == ["", "", "", "fetched\n"]


def test_a_killed_download_is_begun_anew(cache: Cache, source: Source) -> None:
    code = (
        "def fetch(file):\n    file.write(data[:500]); print('half', flush=True); time.sleep(60)\n"
        "cache.get(stamp, fetch)\n"
    )
    process = child(code, cache.folder)
    wait_for(process, "half")
    assert held(cache)[0].startswith(".tmp-")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    data = content(1)
    assert cache.get(stamp(data), source.of(data)).path.read_bytes() == data
    assert len(held(cache)) == 1


def test_what_a_killed_download_left_makes_room(cache: Cache, source: Source) -> None:
    code = (
        "def fetch(file):\n    print('begun', flush=True); time.sleep(60)\n"
        "cache.get(stamp, fetch)\n"
    )
    process = child(code, cache.folder)
    wait_for(process, "begun")
    big = content(9, 9_900)
    with pytest.raises(NoRoomError):  # a running one has its room reserved
        cache.get(stamp(big), source.of(big))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert cache.get(stamp(big), source.of(big)).path.read_bytes() == big
    assert len(held(cache)) == 1


def test_another_process_pins_until_it_dies(cache: Cache, source: Source) -> None:
    data, big = content(1), content(9, 9_500)
    cache.get(stamp(data), source.of(data)).close()
    process = child(
        "pin = cache.get(stamp, None)\nprint('pinned', flush=True)\ntime.sleep(60)", cache.folder
    )
    wait_for(process, "pinned")
    with pytest.raises(NoRoomError):
        cache.get(stamp(big), source.of(big))
    assert not cache.delete(cache.folder / f"{stamp(data).sha256}-a.tar")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cache.get(stamp(big), source.of(big))
    assert len(held(cache)) == 1


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_holds_nothing_on(cache: Cache, source: Source) -> None:
    """A DataLoader's workers are forked: what the parent lets go is free, though they live on."""
    data, big = content(1), content(9, 9_500)
    pin = cache.get(stamp(data), source.of(data))
    process = multiprocessing.get_context("fork").Process(target=_sleep, args=(60,), daemon=True)
    process.start()
    try:
        pin.close()
        cache.get(stamp(big), source.of(big))
    finally:
        process.kill()
        process.join()
    assert not pin.path.exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", None),
        ("1000", 1000),
        ("200GB", 200 * 10**9),
        ("1.5 TB", 15 * 10**11),
        ("2GiB", 2 << 30),
        ("5k", 5000),
    ],
)
def test_the_limit_is_a_size(monkeypatch: pytest.MonkeyPatch, text: str, size: int | None) -> None:
    monkeypatch.setenv("CDGEN_CACHE_LIMIT", text)
    assert limit_from_environment() == size


@pytest.mark.parametrize("text", ["lots", "-1", "5 PB", "1e9", "GB"])
def test_what_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CDGEN_CACHE_LIMIT", text)
    with pytest.raises(UsageError, match="such as 200GB"):
        limit_from_environment()


def test_without_a_limit_half_of_the_free_disk_is_used(tmp_path: Path) -> None:
    import shutil

    free = shutil.disk_usage(tmp_path).free
    cache = Cache(tmp_path)
    assert cache.may_hold(free // 4) and not cache.may_hold(free)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path))
    assert Cache.default().folder == tmp_path / "shards"
    monkeypatch.delenv("CDGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache() == tmp_path / "x/cdgen"
