import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cdgen
from cdgen.errors import BuildError
from cdgen.storage import (
    TEMPORARY_PREFIX,
    FileStamp,
    Receipt,
    atomic_file,
    atomic_write,
    canonical_json,
    check_format,
    find_receipt,
    hold,
    holder,
    matches,
    parse_json,
    read_receipt,
    read_receipts,
    receipts,
    remove_temporaries,
    sha256_file,
    typed,
    write_receipt,
)
from cdgen.storage.receipts import receipt_bytes

RECEIPT = Receipt(
    name="real-train-0123abcd-00000.tar",
    digest="0123abcd",
    sha256="a" * 64,
    num_bytes=5,
    num_samples=1,
    num_tokens=2,
    num_text_bytes=3,
    index=FileStamp(name="real-train-0123abcd-00000.parquet", sha256="b" * 64, num_bytes=7),
    numeric_class={"device": "cpu"},
    counts={"empty_parts": 1},
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# ---- atomic files ----


def test_a_file_appears_complete_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/a.bin"
    with atomic_file(path) as file:
        file.write(b"abc")
        file.flush()
        assert not path.exists()
        assert all(name.startswith(TEMPORARY_PREFIX) for name in names(tmp_path))
    assert path.read_bytes() == b"abc"
    assert names(tmp_path) == ["a.bin"]


def test_a_new_file_can_be_read_by_others_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        atomic_write(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_after_an_error_the_old_file_is_there_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a"
    atomic_write(path, b"old")

    def failing() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        failing()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "a") as file, Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), file.fileno())
            file.write(b"x")

    with pytest.raises(BuildError, match=r"cannot write .*/a: No space left on device"):
        write()
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BuildError, match="cannot write"):
        atomic_write(tmp_path / "file/a", b"x")


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    def copy() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write((tmp_path / "missing").read_bytes())

    with pytest.raises(FileNotFoundError, match="missing"):
        copy()


def test_leftovers_of_killed_builds_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "data/real").mkdir(parents=True)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    for path in ("data/real/.tmp-a.tar-1-00", ".tmp-b", "data/keep.tar", "data/tmp-c"):
        (tmp_path / path).write_bytes(b"x")
    (outside / ".tmp-theirs").write_bytes(b"x")
    (tmp_path / "link").symlink_to(outside)
    assert len(remove_temporaries(tmp_path)) == 2
    assert names(tmp_path) == ["keep.tar", "tmp-c"]
    assert (outside / ".tmp-theirs").exists()
    assert remove_temporaries(tmp_path / "missing") == []


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    with pytest.raises(BuildError, match=r"cannot read .*missing: No such file"):
        sha256_file(tmp_path / "missing")


# ---- JSON ----

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)


@given(values)
def test_canonical_json_is_read_back_and_canonical_again(value: object) -> None:
    data = canonical_json(value)
    assert parse_json(data, "x") == value
    assert canonical_json(json.loads(data)) == data


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": [1.0, 0.1], "a": "é"}) == '{"a":"é","b":[1.0,0.1]}'.encode()
    for wrong in (float("nan"), float("inf"), "\ud800"):
        with pytest.raises(ValueError, match=r"JSON|surrogates"):
            canonical_json([wrong])
    with pytest.raises(TypeError, match="must be a string"):
        canonical_json({"a": [{1: 2}]})


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[NaN]", b"[Infinity]", b"[" * 10**5, b'"\\ud800"', b"9" * 5000],
)
def test_hostile_json_is_one_line(data: bytes) -> None:
    with pytest.raises(BuildError, match=r"^here: not valid JSON: ") as caught:
        parse_json(data, "here")
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Inner:
    number: int


@dataclass(frozen=True)
class Outer:
    text: str
    share: float
    some: tuple[Inner, ...] = ()
    table: dict[str, int] | None = None


def test_json_becomes_types() -> None:
    value = {"text": "t", "share": 1, "some": [{"number": 3}], "table": {"a": 1}}
    assert typed(Outer, value, "x") == Outer("t", 1.0, (Inner(3),), {"a": 1})
    assert typed(Outer, {"text": "t", "share": 0.5, "table": None}, "x") == Outer("t", 0.5)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "x: expected an object, found a list"),
        ({"text": "t"}, "x: the field 'share' is missing"),
        ({"text": "t", "share": 1.0, "shar": 1}, "x: unknown field 'shar'"),
        ({"text": 1, "share": 1.0}, "x: text: expected a string, found an integer"),
        ({"text": "t", "share": True}, "x: share: expected a number, found true or false"),
        ({"text": "t", "share": 10**400}, "x: share: expected a number, found an integer"),
        ({"text": "t", "share": 1.0, "some": [{"number": 2**60}]}, "beyond 2"),
        ({"text": "t", "share": 1.0, "some": [{"number": 1.0}]}, r"x: some\[0\]: number: expected"),
        ({"text": "t", "share": 1.0, "table": {"a": None}}, r"x: table\.a: expected an integer"),
    ],
)
def test_wrong_types_are_one_line(value: object, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        typed(Outer, value, "x")


@pytest.mark.parametrize("found", [0, 3, True, "1", None])
def test_formats(found: object) -> None:
    assert check_format({"format": 2, "a": 1}, 2, "x") == {"a": 1}
    with pytest.raises(BuildError, match="format"):
        check_format({"format": found}, 2, "x")


# ---- receipts ----


def test_receipts_come_back(tmp_path: Path) -> None:
    other = replace(RECEIPT, name="real-train-0123abcd-00001.tar")
    write_receipt(tmp_path, RECEIPT)
    path = write_receipt(tmp_path, other)
    assert read_receipts(tmp_path) == {RECEIPT.name: RECEIPT, other.name: other}
    assert read_receipts(tmp_path / "missing") == {}

    path.write_text("is not read", encoding="utf-8")
    found = read_receipts(tmp_path, but={other.name}, report=pytest.fail)
    assert found == {RECEIPT.name: RECEIPT}


@given(st.data())
def test_a_damaged_receipt_counts_as_absent_and_is_reported(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("receipts")
    path = write_receipt(folder, RECEIPT)
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 2))
    cut = data.draw(st.booleans())
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != good[at]))
    path.write_bytes(good[:at] if cut else good[:at] + bytes([byte]) + good[at + 1 :])
    reported: list[str] = []
    found = read_receipts(folder, report=reported.append)
    assert found in ({}, {RECEIPT.name: RECEIPT})  # white space may differ
    assert len(reported) == (not found)
    assert find_receipt(folder, RECEIPT.name, report=reported.append) == found.get(RECEIPT.name)
    assert len(set(reported)) == (not found)


@given(
    st.dictionaries(st.text(max_size=4), st.text(max_size=9), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(-(2**53), 2**53), max_size=3),
    st.data(),
)
def test_a_check_sum_of_the_bytes_says_what_that_of_the_canonical_form_says(
    numeric_class: dict[str, str], counts: dict[str, int], data: st.DataObject
) -> None:
    """Whether a receipt is whole, written otherwise, or damaged in any byte."""
    receipt = replace(RECEIPT, numeric_class=numeric_class, counts=counts)
    good = receipt_bytes(receipt)
    at, byte = data.draw(st.integers(0, len(good) - 1)), data.draw(st.binary(max_size=1))
    loose = json.dumps(json.loads(good), indent=1).encode()
    for found in (good, good[:at] + byte + good[at + 1 :], loose):
        said: list[object] = []
        for shortcut in (receipts.is_as_written, lambda _: False):
            with patch.object(receipts, "is_as_written", shortcut):
                try:
                    said.append(receipts.parse_receipt(found, f"{RECEIPT.name}.json"))
                except BuildError as error:
                    said.append(str(error))
        assert said[0] == said[1]
        if found in (good, loose):
            assert said[0] == receipt
    assert receipts.is_as_written(good) and not receipts.is_as_written(loose)


def test_one_receipt_that_is_not_there_is_nothing_to_report(tmp_path: Path) -> None:
    reported: list[str] = []
    assert find_receipt(tmp_path, RECEIPT.name, report=reported.append) is None
    write_receipt(tmp_path, RECEIPT)
    assert find_receipt(tmp_path, RECEIPT.name, report=reported.append) == RECEIPT
    assert not reported


def test_receipts_that_cannot_be_listed_are_not_taken_for_none(tmp_path: Path) -> None:
    """Every shard would be made again."""
    (tmp_path / "receipts").write_text("a file")
    with pytest.raises(BuildError, match=r"cannot read .*receipts: Not a directory"):
        read_receipts(tmp_path / "receipts")


def test_a_receipt_under_another_name_is_damaged(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, RECEIPT)
    path.rename(tmp_path / "real-train-0123abcd-00009.tar.json")
    reported: list[str] = []
    assert read_receipts(tmp_path, report=reported.append) == {}
    assert "is the receipt of real-train-0123abcd-00000.tar" in reported[0]


def test_a_well_made_receipt_of_wrong_types_is_one_line(tmp_path: Path) -> None:
    body = {"format": 1, "name": 5}
    check = hashlib.sha256(canonical_json(body)).hexdigest()
    path = tmp_path / "x.json"
    path.write_bytes(canonical_json({**body, "check": check}))
    with pytest.raises(BuildError, match="missing"):
        read_receipt(path)


def test_a_receipt_matches_by_the_sizes_of_shard_and_index(tmp_path: Path) -> None:
    file = tmp_path / "data/real" / RECEIPT.name
    index = tmp_path / "index" / RECEIPT.index.name
    atomic_write(file, b"12345")
    assert not matches(RECEIPT, file)
    atomic_write(index, b"1234567")
    assert matches(RECEIPT, file)
    assert matches(RECEIPT, file, index)
    assert not matches(RECEIPT, file, tmp_path / "elsewhere")
    atomic_write(index, b"123456")
    assert not matches(RECEIPT, file)
    atomic_write(index, b"1234567")
    atomic_write(file, b"1234")
    assert not matches(RECEIPT, file)
    assert not matches(replace(RECEIPT, name="b.tar"), file)


@pytest.mark.parametrize("name", ["../a.tar", "/a.tar", "", ".hidden", "a/b", "a\n"])
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        replace(RECEIPT, name=name)


# ---- locks ----

HOLDER = r"""
import os, sys, time
from pathlib import Path
from cdgen.storage import hold
with hold(Path(sys.argv[1]), "build tiny"):
    if len(sys.argv) > 2 and os.fork() == 0:
        os.write(1, b"worker %d\n" % os.getpid())
        time.sleep(60)
        os._exit(0)
    os.write(1, b"held\n")
    time.sleep(60)
"""


LOOKER = r"""
import os, sys
from pathlib import Path
from cdgen.storage import holder
os.write(1, b"looking\n")
while True:
    holder(Path(sys.argv[1]))
"""


def start(program: str, folder: Path, *args: str) -> "subprocess.Popen[str]":
    env = os.environ | {"PYTHONPATH": str(Path(cdgen.__file__).parents[1])}
    command = [sys.executable, "-c", program, str(folder), *args]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def test_a_second_builder_is_told_who_holds_the_folder_until_kill_9(tmp_path: Path) -> None:
    with start(HOLDER, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        said = rf"held by process {process.pid} on \S+ since 20\S+Z \(build tiny\).*--out"
        with pytest.raises(BuildError, match=said) as caught, hold(tmp_path, "build"):
            pass
        assert "\n" not in str(caught.value)
        found = holder(tmp_path)
        assert found is not None
        assert (found.pid, found.purpose) == (process.pid, "build tiny")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert holder(tmp_path) is None
        with hold(tmp_path, "build"):
            pass


def test_a_worker_that_outlives_a_killed_builder_does_not_keep_the_lock(tmp_path: Path) -> None:
    with start(HOLDER, tmp_path, "fork") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        worker = int(next(line for line in lines if line.startswith("worker")).split()[1])
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            assert holder(tmp_path) is None
        finally:
            os.kill(worker, signal.SIGKILL)


def test_the_lock_is_free_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with hold(tmp_path, "one"):
        found = holder(tmp_path)
        assert found is not None
        assert found.pid == os.getpid()
        with pytest.raises(BuildError, match="held by"), hold(tmp_path, "two"):
            pass
        assert holder(tmp_path) == found
    assert holder(tmp_path) is None
    with pytest.raises(KeyError), hold(tmp_path, "three"):
        raise KeyError
    with hold(tmp_path, "four"):
        pass


def test_one_who_only_looks_never_stops_a_builder(tmp_path: Path) -> None:
    with hold(tmp_path, "first"):
        pass
    with start(LOOKER, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "looking\n"
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with hold(tmp_path, "build"):
                pass
        process.kill()


def test_a_holder_that_has_not_written_its_name_yet_is_unknown(tmp_path: Path) -> None:
    with hold(tmp_path, "build"):
        (tmp_path / "work/lock").write_bytes(b"junk")
        found = holder(tmp_path)
        assert found is not None
        assert (found.pid, found.host) == (0, "unknown")


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "work").write_bytes(b"")
    with pytest.raises(BuildError, match="cannot lock"), hold(tmp_path, "build"):
        pass
