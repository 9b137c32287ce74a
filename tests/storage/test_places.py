"""A folder that shards are delivered to: the first one wins, the same bytes twice are one, others are a fault."""

import errno
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kitchen import tree
from shard_maker import made, manifest_naming

import cdgen
from cdgen.errors import BuildError, DeterminismError
from cdgen.shards.layout import MANIFEST
from cdgen.storage import atomic_write, places, read_receipts, remove_temporaries
from cdgen.storage.places import ASIDE, Folder, Place, clear_staging, put_new, staging

NAME = "synthetic-train-0123abcd-00000.tar"


def delivered(folder: Path) -> dict[str, bytes]:
    """What a folder holds, without its lock."""
    return {name: data for name, data in tree(folder).items() if name != "work/lock"}


def test_a_delivered_shard_is_there_whole_and_its_receipt_says_so(tmp_path: Path) -> None:
    receipt = made(tmp_path / "mine", NAME, b"text")
    place = Folder(tmp_path / "out")
    assert place.deliver(tmp_path / "mine", receipt)
    assert set(delivered(place.root)) == {*receipt.paths, f"work/receipts/{NAME}.json"}
    assert (place.root / receipt.paths[0]).read_bytes() == b"text"
    assert place.receipts() == {NAME: receipt} == read_receipts(place.root / "work/receipts")
    assert tree(tmp_path / "mine").keys() == set(receipt.paths), "they stay where they were made"


def test_a_late_copy_of_the_same_bytes_changes_nothing(tmp_path: Path) -> None:
    place = Folder(tmp_path / "out")
    assert place.deliver(tmp_path / "a", made(tmp_path / "a", NAME, b"text"))
    before = delivered(place.root)
    assert not place.deliver(tmp_path / "b", made(tmp_path / "b", NAME, b"text"))
    assert delivered(place.root) == before


@pytest.mark.parametrize("with_receipt", [True, False], ids=["with receipt", "before its receipt"])
def test_a_late_copy_of_other_bytes_stops_the_build_and_both_are_kept_aside(
    tmp_path: Path, with_receipt: bool
) -> None:
    place = Folder(tmp_path / "out")
    first = made(tmp_path / "a", NAME, b"text")
    place.deliver(tmp_path / "a", first)
    if not with_receipt:
        (place.root / "work/receipts" / f"{NAME}.json").unlink()
    second = made(tmp_path / "b", NAME, b"else")
    said = (
        rf"{NAME}: was made twice, and not with the same bytes \(SHA-256: {first.sha256[:12]}… and"
    )
    with pytest.raises(DeterminismError, match=said) as caught:
        place.deliver(tmp_path / "b", second)
    assert "\n" not in str(caught.value)
    aside = {path.parent.name: path.read_bytes() for path in (place.root / ASIDE).glob("*/*.tar")}
    assert sorted(aside.values()) == [b"else", b"text"]
    assert place.receipts() == {}, "neither counts: the shard is made anew"
    receipts = list((place.root / ASIDE).glob("*/*.json"))
    assert len(receipts) == 1 + with_receipt
    assert place.deliver(tmp_path / "a", first), "and can be"


def test_another_index_of_the_same_shard_is_a_fault_too(tmp_path: Path) -> None:
    place = Folder(tmp_path / "out")
    place.deliver(tmp_path / "a", made(tmp_path / "a", NAME, b"text", index=b"one"))
    with pytest.raises(DeterminismError, match="its index differs"):
        place.deliver(tmp_path / "b", made(tmp_path / "b", NAME, b"text", index=b"two"))
    assert {p.read_bytes() for p in (place.root / ASIDE).glob("*/*.parquet")} == {b"one", b"two"}


@pytest.mark.parametrize("content", [b"text", b"else"], ids=["equal", "other"])
def test_of_many_workers_at_once_one_is_first(tmp_path: Path, content: bytes) -> None:
    """All with the same bytes: one is told so. One with other bytes: somebody finds out."""
    copies = [made(tmp_path / str(n), NAME, content if n == 7 else b"text") for n in range(8)]
    place, barrier = Folder(tmp_path / "out"), threading.Barrier(8)

    def deliver(number: int) -> bool | str:
        barrier.wait()
        try:
            return place.deliver(tmp_path / str(number), copies[number])
        except BuildError as error:
            return type(error).__name__

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(deliver, range(8)))
    if content == b"text":
        assert sorted(told, key=str) == [False] * 7 + [True]
        assert place.receipts() == {NAME: copies[0]}
    else:
        assert "DeterminismError" in told
        assert {p.read_bytes() for p in (place.root / ASIDE).glob("*/*.tar")} == {b"text", b"else"}


def test_a_worker_that_comes_after_the_end_takes_nothing_from_the_corpus(tmp_path: Path) -> None:
    """It was given up, its job done elsewhere, and the manifest written."""
    place = Folder(tmp_path / "out")
    receipt = made(tmp_path / "a", NAME, b"text")
    place.deliver(tmp_path / "a", receipt)
    atomic_write(place.root / MANIFEST, manifest_naming(receipt))
    before = delivered(place.root)
    with pytest.raises(DeterminismError, match="the first belongs to a finished corpus"):
        place.deliver(tmp_path / "b", made(tmp_path / "b", NAME, b"else"))
    after = delivered(place.root)
    assert before.items() <= after.items() and b"else" in after.values()
    assert all(name.startswith(ASIDE) for name in after.keys() - before.keys())


@settings(max_examples=40)  # each one fsyncs a hundred files
@given(data=st.data())
def test_whoever_dies_wherever_the_place_ends_with_the_same_files(data: st.DataObject) -> None:
    """Jobs done several times, in any order, each try ended after any of its steps: then one whole try."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        jobs = [f"synthetic-train-0123abcd-{n:05d}.tar" for n in range(3)]
        receipts = {name: made(home / "made", name, name.encode()) for name in jobs}
        calm, place = Folder(home / "calm"), Folder(home / "out")
        for receipt in receipts.values():
            calm.deliver(home / "made", receipt)
        for _ in range(data.draw(st.integers(0, 6), label="tries")):
            name, steps = data.draw(st.sampled_from(jobs)), data.draw(st.integers(0, 3))
            with _dying_after(steps), suppress(Killed):
                place.deliver(home / "made", receipts[name])
            if data.draw(st.booleans(), label="resume"):
                remove_temporaries(place.root)
                proven = place.receipts()
                place.withdraw(name for name in jobs if name not in proven)
        for receipt in receipts.values():
            place.deliver(home / "made", receipt)
        remove_temporaries(place.root)
        assert delivered(place.root) == delivered(calm.root)


class Killed(BaseException):
    """A worker died."""


class _dying_after:  # noqa: N801 - reads as a word in the with line
    """Let so many files get their names, then die at the next one."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def __enter__(self) -> None:
        self._real = put_new
        places.put_new = self._put

    def __exit__(self, *error: object) -> None:
        places.put_new = self._real

    def _put(self, source: Path, target: Path) -> bool:
        if not self._left:
            raise Killed
        self._left -= 1
        return self._real(source, target)


def test_what_killed_builds_left_is_withdrawn_and_the_rest_stays(tmp_path: Path) -> None:
    place = Folder(tmp_path / "out")
    names = [f"synthetic-train-0123abcd-{n:05d}.tar" for n in range(5)]
    receipts = [made(tmp_path / "a", name, name.encode()) for name in names]
    for receipt in receipts:
        place.deliver(tmp_path / "a", receipt)
    (place.root / "work/receipts" / f"{names[1]}.json").unlink()
    (place.root / "work/receipts" / f"{names[2]}.json").write_bytes(b"{")
    (place.root / receipts[3].paths[0]).write_bytes(b"cut")
    assert list(place.receipts()) == [names[0], names[4]]
    place.withdraw(names[1:4])
    kept = {*receipts[0].paths, *receipts[4].paths}
    kept |= {f"work/receipts/{names[n]}.json" for n in (0, 4)}
    assert set(delivered(place.root)) == kept


def test_a_damaged_receipt_is_written_over(tmp_path: Path) -> None:
    """Also where nobody withdrew it: its shard was compared byte for byte."""
    place = Folder(tmp_path / "out")
    receipt = made(tmp_path / "a", NAME, b"text")
    place.deliver(tmp_path / "a", receipt)
    (place.root / "work/receipts" / f"{NAME}.json").write_bytes(b"{")
    assert place.deliver(tmp_path / "a", receipt)
    assert place.receipts() == {NAME: receipt}


def test_in_its_own_folder_a_shard_only_gets_its_receipt(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    receipt = made(tmp_path, NAME, b"text")
    assert place.deliver(tmp_path, receipt)
    assert not place.deliver(tmp_path, receipt)
    assert place.receipts() == {NAME: receipt}
    place.fetch(tmp_path, receipt)


def test_fetched_it_is_a_delivery_of_its_own(tmp_path: Path) -> None:
    place = Folder(tmp_path / "out")
    receipt = made(tmp_path / "a", NAME, b"text")
    place.deliver(tmp_path / "a", receipt)
    place.fetch(tmp_path / "b", receipt)
    place.fetch(tmp_path / "b", receipt)
    assert delivered(tmp_path / "b") == delivered(place.root)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_from_another_disk_a_shard_is_copied(tmp_path: Path, other_disk: Path) -> None:
    receipt = made(other_disk, NAME, b"text")
    place = Folder(tmp_path)
    assert place.deliver(other_disk, receipt)
    assert not place.deliver(other_disk, receipt)
    assert place.receipts() == {NAME: receipt}
    assert not list(tmp_path.rglob(".tmp-*"))


def test_where_a_file_system_has_no_links_the_first_still_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    copies = [made(tmp_path / str(n), NAME, b"text") for n in range(4)]
    place = Folder(tmp_path / "out")
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda n: place.deliver(tmp_path / str(n), copies[n]), range(4)))
    assert sorted(told) == [False, False, False, True]
    assert place.receipts() == {NAME: copies[0]}
    with pytest.raises(DeterminismError):
        place.deliver(tmp_path / "x", made(tmp_path / "x", NAME, b"else"))


def test_a_place_that_does_not_take_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(BuildError, match=r"cannot write .*out/data.*Not a directory"):
        Folder(tmp_path / "out").deliver(tmp_path / "a", made(tmp_path / "a", NAME, b"text"))


def test_staging_is_gone_after_the_block_and_after_a_kill(tmp_path: Path) -> None:
    with staging(tmp_path) as root:
        made(root, NAME, b"text")
        assert root.is_relative_to(tmp_path / "work/staging")
    assert not root.exists()
    program = (
        "import os, sys; from pathlib import Path; from cdgen.storage.places import staging\n"
        "with staging(Path(sys.argv[1])) as root: root.mkdir(parents=True); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cdgen.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False)
    assert list((tmp_path / "work/staging").iterdir())
    clear_staging(tmp_path)
    assert not (tmp_path / "work/staging").exists()


def test_a_place_travels_and_holds_its_folder(tmp_path: Path) -> None:
    place: Place = pickle.loads(pickle.dumps(Folder(tmp_path)))
    assert place == Folder(tmp_path) and place.where == str(tmp_path)
    with place.hold("build x"), pytest.raises(BuildError, match="is held by"), place.hold("y"):
        pass
