"""Tars that somebody else wrote are indexed as they are; what is hostile in them is left out or refused, and said."""

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fuzz import cases
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import BuildError, UsageError
from cdgen.shards.foreign import (
    DEFAULT_FOLDER,
    FOREIGN_MANIFEST,
    ForeignReport,
    index_tars,
    read_foreign_index,
    read_foreign_manifest,
    tars_of,
)

Files = list[tuple[str, bytes]]


def tar(path: Path, files: Files, *, form: int = tarfile.PAX_FORMAT, mtime: float = 0) -> Path:
    """A tar of plain files, as Python writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), mtime
            archive.addfile(info, io.BytesIO(content))
    return path


def rows(folder: Path, name: str = "a.tar") -> list[dict[str, Any]]:
    """The index rows of one tar of the folder."""
    index = folder / DEFAULT_FOLDER / name.replace(".tar", ".parquet")
    found: list[dict[str, Any]] = read_foreign_index(index).to_pylist()
    return found


def contents(path: Path, index: Path) -> Files:
    """What the index finds in the tar, by plain reads at its offsets."""
    data, found = path.read_bytes(), []
    for row in read_foreign_index(index).to_pylist():
        for ending, offset, length in zip(
            row["endings"], row["offsets"], row["lengths"], strict=True
        ):
            assert row["offset"] < offset <= offset + length <= row["offset"] + row["length"]
            found.append((f"{row['key']}.{ending}", data[offset : offset + length]))
    return found


SAMPLES: Files = [
    ("000.txt", b"one"), ("000.json", b"{}"), ("001.txt", b""), ("001.json", b"x" * 600), ("sub/002.a.txt", b"two"),
]  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1.5])
def test_every_member_is_found_where_it_is(tmp_path: Path, form: int, mtime: float) -> None:
    """Ustar, GNU and pax, with the fractional times that webdataset's own writer puts in extended headers."""
    path = tar(tmp_path / "a.tar", SAMPLES, form=form, mtime=mtime)
    before = path.read_bytes()

    report = index_tars(tmp_path)

    assert contents(path, tmp_path / DEFAULT_FOLDER / "a.parquet") == SAMPLES
    assert [row["key"] for row in rows(tmp_path)] == ["000", "001", "sub/002"]
    assert rows(tmp_path)[2]["endings"] == ["a.txt"]
    assert report.notes == () and path.read_bytes() == before


def test_the_keys_and_members_are_webdataset_s(tmp_path: Path) -> None:
    """webdataset is the reference; it reads in a process of its own, since it leaves the tar open."""
    files = [*SAMPLES, (".hidden", b"x"), ("noending", b"x"), ("./d/003.txt", b"three")]
    path = tar(tmp_path / "a.tar", files)
    code = (
        "import sys, webdataset\n"
        "for s in webdataset.WebDataset(sys.argv[1], shardshuffle=False):\n"
        "    print(s['__key__'], *sorted(k for k in s if not k.startswith('__')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, path],
        capture_output=True,
        text=True,
        check=True,
    )

    index_tars(tmp_path)

    ours = [" ".join([row["key"], *sorted(row["endings"])]) for row in rows(tmp_path)]
    assert ours == done.stdout.splitlines()


def test_names_longer_than_a_header_are_read(tmp_path: Path) -> None:
    """As GNU and as pax write them."""
    name = "deep/" * 40 + "000.txt"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        folder = tmp_path / str(form)
        path = tar(folder / "a.tar", [(name, b"x")], form=form)
        index_tars(folder)
        assert contents(path, folder / DEFAULT_FOLDER / "a.parquet") == [(name, b"x")]


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    """Sizes, counts, endings and the hash of each index; the tars are found from the index's folder."""
    path = tar(tmp_path / "in/sub/a.tar", SAMPLES)

    index_tars(tmp_path / "in", tmp_path / "out")

    [(entry, found, index)] = tars_of(tmp_path / "out")
    assert (entry.name, entry.num_bytes) == ("sub/a.tar", path.stat().st_size)
    assert (entry.num_samples, entry.endings) == (3, {"txt": 2, "json": 2, "a.txt": 1})
    assert found.resolve() == path and index == tmp_path / "out/sub/a.parquet"
    assert entry.index_sha256 == hashlib.sha256(index.read_bytes()).hexdigest()
    assert str(tmp_path) not in (tmp_path / "out" / FOREIGN_MANIFEST).read_text()
    assert [found.name for found in (tmp_path / "in").iterdir()] == ["sub"]


def test_a_tar_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", SAMPLES)
    index_tars(tmp_path)
    tar(path, [*SAMPLES, ("zzz.txt", b"more" * 5000)])

    with pytest.raises(
        BuildError, match=r"a.tar: not the tar that was indexed; run cdgen index again"
    ):
        list(tars_of(tmp_path / DEFAULT_FOLDER))


def odd(kind: bytes, name: str = "001.txt", target: str = "") -> tarfile.TarInfo:
    """A member that is not a plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


ODD = [
    (odd(tarfile.SYMTYPE, target="/etc/passwd"), "'001.txt' is a symbolic link"),
    (odd(tarfile.LNKTYPE, target="000.txt"), "'001.txt' is a hard link"),
    (odd(tarfile.CHRTYPE), "'001.txt' is a character device"),
    (odd(tarfile.BLKTYPE), "'001.txt' is a block device"),
    (odd(tarfile.FIFOTYPE), "'001.txt' is a fifo"),
    (odd(tarfile.GNUTYPE_SPARSE), "'001.txt' is a member of an unknown type"),
    (odd(tarfile.REGTYPE, "../001.txt"), "'../001.txt' is a name with .. in it"),
    (odd(tarfile.REGTYPE, "a/../../001.txt"), "is a name with .. in it"),
    (odd(tarfile.REGTYPE, "/etc/001.txt"), "'/etc/001.txt' is an absolute name"),
    (odd(tarfile.REGTYPE, "0\n01.txt"), r"'0\n01.txt' is a name with control characters"),
    (odd(tarfile.REGTYPE, "001"), "'001' has no key and ending"),
    (odd(tarfile.REGTYPE, "d" * 5000 + ".txt"), "is a name of 5004 bytes"),
    (odd(tarfile.REGTYPE, "\udcff.txt"), "is a name that is not UTF-8"),
]


@pytest.mark.parametrize(("info", "expected"), ODD, ids=[expected for _, expected in ODD])
def test_an_odd_member_is_left_out_and_reported(
    tmp_path: Path, info: tarfile.TarInfo, expected: str
) -> None:
    """The samples around it are indexed; nothing is followed and nothing appears outside the index."""
    path = tmp_path / "in/a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for each in (tarfile.TarInfo("000.txt"), info, tarfile.TarInfo("002.txt")):
            archive.addfile(each)

    report = index_tars(tmp_path / "in", tmp_path / "out")

    assert len(report.notes) == 1 and expected in report.notes[0], report.notes
    assert "\n" not in report.notes[0] and report.notes[0].startswith(
        "a.tar: left out at byte 512: "
    )
    assert [row["key"] for row in read_foreign_index(tmp_path / "out/a.parquet").to_pylist()] == [
        "000",
        "002",
    ]
    assert report.manifest.tars[0].num_skipped == 1 and report.manifest.refused == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_folders_are_passed_over_in_silence(tmp_path: Path) -> None:
    """`tar cf a.tar folder` has them."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(odd(tarfile.DIRTYPE, "d"))
        archive.addfile(tarfile.TarInfo("d/000.txt"))

    assert index_tars(tmp_path).notes == ()


def resized(data: bytes, at: int, size: bytes) -> bytes:
    """The tar with another size, and the right check sum, in the header at `at`."""
    block = bytearray(data[at : at + 512])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + data[at + 512 :]


def refused(folder: Path, data: bytes) -> str:
    """Why a tar of these bytes is refused."""
    (folder / "a.tar").write_bytes(data)
    report = index_tars(folder)
    assert report.manifest.tars == () and not (folder / DEFAULT_FOLDER / "a.parquet").exists()
    assert read_foreign_manifest(folder / DEFAULT_FOLDER) == report.manifest
    return report.manifest.refused["a.tar"]


def test_wrong_sizes_are_refused(tmp_path: Path) -> None:
    """Larger than the file, in octal and in binary; negative; no number."""
    data = tar(tmp_path / "a.tar", SAMPLES, form=tarfile.USTAR_FORMAT).read_bytes()

    for size in (b"77777777777\0", b"\x80" + b"\xff" * 11):
        assert "the tar is cut or its sizes are wrong" in refused(tmp_path, resized(data, 0, size))
    for size in (b"\xff" * 12, b"-0000000001\0", b"zzzzzzzzzzz\0"):
        assert "a size that is not a number" in refused(tmp_path, resized(data, 0, size))


def test_a_huge_extended_header_is_refused(tmp_path: Path) -> None:
    """It would be read into memory."""
    info = tarfile.TarInfo("000.txt")
    info.pax_headers = {"comment": "x" * (1 << 21)}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)

    assert "an extended header of 2" in refused(tmp_path, (tmp_path / "a.tar").read_bytes())


def test_a_cut_tar_is_refused(tmp_path: Path) -> None:
    """Inside a member, inside a header, and before the end mark."""
    data = tar(tmp_path / "a.tar", SAMPLES, form=tarfile.USTAR_FORMAT).read_bytes()

    assert "is cut" in refused(tmp_path, data[:515])
    assert "no end mark: the tar is cut" in refused(tmp_path, data[:1100])
    assert "no end mark: the tar is cut" in refused(tmp_path, data[:1024])
    assert "no end mark" in refused(tmp_path, b"")


def test_a_flipped_bit_in_a_header_is_refused(tmp_path: Path) -> None:
    """tarfile would end there without a word."""
    data = bytearray(tar(tmp_path / "a.tar", SAMPLES, form=tarfile.USTAR_FORMAT).read_bytes())
    data[1024] ^= 1

    assert "at byte 1024: not a tar header: its check sum" in refused(tmp_path, bytes(data))


def test_two_tars_in_one_file_are_refused(tmp_path: Path) -> None:
    """Most readers would stop at the first end mark."""
    data = tar(tmp_path / "a.tar", SAMPLES).read_bytes()

    assert "bytes behind the end mark" in refused(tmp_path, data + data)


REPEATED: list[tuple[Files, str]] = [
    ([("a.txt", b""), ("b.txt", b""), ("a.json", b"")], "the key 'a' comes again"),
    ([("a.txt", b""), ("a.txt", b"")], "a second member 'a.txt'"),
    ([("a.txt", b""), ("a.TXT", b"")], "a second member 'a.TXT'"),
    ([("readme", b"")], "no samples in it"),
]


@pytest.mark.parametrize(("files", "expected"), REPEATED)
def test_samples_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, files: Files, expected: str
) -> None:
    """Keys that repeat or are not neighbours, members twice."""
    data = tar(tmp_path / "a.tar", files).read_bytes()

    assert expected in refused(tmp_path, data)


def test_a_refused_tar_does_not_stop_the_others(tmp_path: Path) -> None:
    """And it is in the manifest."""
    tar(tmp_path / "a.tar", SAMPLES)
    (tmp_path / "b.tar").write_bytes(b"not a tar" * 200)
    (tmp_path / "c.tar").symlink_to(tmp_path / "nowhere.tar")

    manifest = index_tars(tmp_path).manifest

    assert [entry.name for entry in manifest.tars] == ["a.tar"]
    assert list(manifest.refused) == ["b.tar"]


def test_wrong_folders_are_answered(tmp_path: Path, corpus: Path) -> None:
    """No folder, no tars, compressed ones, a corpus, an output that holds something else."""
    with pytest.raises(UsageError, match=r"nowhere: no such folder"):
        index_tars(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no .tar files in it$"):
        index_tars(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a.tar.gz is compressed: unpack it"):
        index_tars(tmp_path)
    with pytest.raises(UsageError, match=r"a cdgen corpus: it has its own index"):
        index_tars(corpus)
    tar(tmp_path / "in/a.tar", SAMPLES)
    with pytest.raises(UsageError, match=r"holds something else; choose another folder with --out"):
        index_tars(tmp_path / "in", tmp_path)


def test_a_second_index_replaces_the_first(tmp_path: Path) -> None:
    """With the same bytes when nothing changed."""

    def made() -> tuple[ForeignReport, bytes]:
        return index_tars(tmp_path), (tmp_path / DEFAULT_FOLDER / "a.parquet").read_bytes()

    tar(tmp_path / "a.tar", SAMPLES)

    assert made() == made()


def test_an_index_of_something_else_is_refused(tmp_path: Path, corpus: Path) -> None:
    index = next((corpus / "index").glob("*.parquet"))
    with pytest.raises(BuildError, match=r"not the index of a foreign tar"):
        read_foreign_index(index)
    with pytest.raises(BuildError, match=r"is not an index of tars: it has no foreign.json"):
        read_foreign_manifest(corpus)


NAME = st.from_regex(r"\A[a-z0-9/_-]{0,5}[a-z0-9](\.[a-zA-Z]{1,4}){0,2}\Z")


@given(names=st.lists(NAME, max_size=8), form=st.sampled_from([0, 1, 2]), data=st.data())
@cases(400)
def test_any_tar_and_any_damage_end_well(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], form: int, data: st.DataObject
) -> None:
    """tarfile is the naive reference: what is indexed is what it extracts, and damage is never an exception."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = tar(folder / "a.tar", [(name, name.encode() * 99) for name in names], form=form)
    with tarfile.open(path) as archive:
        expected = {
            (member.name, member.offset_data, member.size) for member in archive if member.isreg()
        }
    entries = index_tars(folder).manifest.tars

    for row in rows(folder) if entries else ():
        for ending, offset, length in zip(
            row["endings"], row["offsets"], row["lengths"], strict=True
        ):
            assert (f"{row['key']}.{ending}", offset, length) in expected
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    index_tars(folder)

    assert sorted(found.name for found in folder.iterdir()) == ["a.tar", DEFAULT_FOLDER]
