import io
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cdgen.errors import BuildError
from cdgen.shards import ustar
from cdgen.shards.index import INDEX_SCHEMA, read_index, write_index
from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.reader import MappedShard, read_raw, samples
from shards.corpus_maker import DTYPE, real_sample, synthetic_sample, write_shard

SOME = [real_sample(1), real_sample(2), synthetic_sample(3)]


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """A shard of three samples in its corpus folder."""
    return shard_path(tmp_path, write_shard(tmp_path, "real", "train", 0, *SOME).name)


def test_samples_need_no_index(tar: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "index")
    assert list(samples(tar)) == SOME


def test_ids_are_views_of_the_file_and_cannot_be_written(tar: Path) -> None:
    shard = MappedShard(tar)
    ids = shard.ids(1)
    assert not ids.flags.owndata
    assert not ids.flags.writeable
    assert (ids.dtype, shard.dtype) == (DTYPE, DTYPE)
    assert np.array_equal(ids, SOME[1].ids)
    shard.close()
    assert np.array_equal(ids, SOME[1].ids)  # the view keeps the file mapped
    assert np.array_equal(shard.ids(0), SOME[0].ids)  # and a closed shard maps it again
    assert shard.num_tokens.tolist() == [len(sample.ids) for sample in SOME]
    assert shard.ids(np.int64(2)).tolist() == SOME[2].ids.tolist()  # type: ignore[arg-type]


def test_a_row_is_the_row_of_the_index_in_plain_values(tar: Path, tmp_path: Path) -> None:
    shard = MappedShard(tar)
    rows = read_index(index_path(tmp_path, tar.name)).to_pylist()
    for number, row in enumerate(rows):
        assert shard.row(number) == row
        assert {n: type(v) for n, v in shard.row(number).items()} == {
            n: type(v) for n, v in row.items()
        }
        assert bytes(shard.raw(number)) == read_raw(tar, row["offset"], row["length"])
    assert list(rows[0]) == INDEX_SCHEMA.names


def test_a_worker_process_can_be_given_a_mapped_shard(tar: Path) -> None:
    shard = MappedShard(tar)
    shard.ids(0)
    again = pickle.loads(pickle.dumps(shard))
    assert np.array_equal(again.ids(2), SOME[2].ids)


def test_what_is_missing_is_one_line(tar: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot read .*no such file"):
        next(samples(tmp_path / "missing.tar"))
    with pytest.raises(BuildError, match=r"cannot read .*: Is a directory|no such file"):
        next(samples(tmp_path))
    with pytest.raises(BuildError, match="100 bytes wanted"):
        read_raw(tar, tar.stat().st_size - 10, 100)
    with pytest.raises(BuildError, match=r"cannot read"):
        MappedShard(tar, tmp_path / "missing.parquet")
    index = index_path(tmp_path, tar.name)
    tar.unlink()
    with pytest.raises(BuildError, match=r"cannot read .*No such file"):
        MappedShard(tar, index)


def test_an_index_that_does_not_fit_is_refused(tar: Path, tmp_path: Path) -> None:
    index = index_path(tmp_path, tar.name)
    rows = read_index(index).to_pylist()
    big = 2**62
    changes: list[dict[str, int]] = [
        {"npy_offset": 10**9},
        {"npy_offset": -4096},
        {"num_tokens": 3},
        {"num_tokens": big + rows[1]["num_tokens"]},
        {"length": big, "npy_length": big},
        {"offset": 0},
        {"npy_length": 2},
    ]
    for change in changes:
        write_index(index, [rows[0], rows[1] | change, rows[2]])
        with pytest.raises(BuildError, match="do not fit: run cdgen verify"):
            MappedShard(tar)
    write_index(index, rows)
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(BuildError, match="do not fit"):
        MappedShard(tar)


def test_a_file_that_is_no_index_is_one_line(tar: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = index_path(tmp_path, tar.name)
    good = index.read_bytes()
    for junk in (b"", b"PAR1", good[:-20], good[len(good) // 2 :], bytes(500)):
        index.write_bytes(junk)
        with pytest.raises(BuildError, match="cannot read") as caught:
            read_index(index)
        assert "\n" not in str(caught.value)
    pq.write_table(pa.table({"key": ["a"]}), index)
    with pytest.raises(BuildError, match="its columns differ"):
        read_index(index)
    newer = INDEX_SCHEMA.with_metadata({b"cdgen_index_format": b"2"})
    pq.write_table(pa.Table.from_pylist([], schema=newer), index)
    with pytest.raises(BuildError, match="index format 2; this cdgen reads up to 1: upgrade"):
        read_index(index)


def member(name: str, data: bytes = b"x", **fields: object) -> bytes:
    """One member as Python's tarfile writes it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + ustar.padding(len(data))


def resized(data: bytes, num_bytes: int) -> bytes:
    """The first header with another size, its check sum made right."""
    name = data[:100].rstrip(b"\0").decode()
    return ustar.header(name, num_bytes) + data[512:]


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty file": (lambda d: d[:0], "it is cut"),
    "no end mark": (lambda d: d[:-1024], "it is cut"),
    "half an end mark": (lambda d: d[:-512], "zeros with 512 bytes to go"),
    "bytes after the end": (lambda d: d + bytes(512), "zeros with 1536 bytes"),
    "only zeros": (lambda d: bytes(len(d)), "zeros with"),
    "cut inside a header": (lambda d: d[:100], "it is cut"),
    "cut inside a member": (lambda d: d[:520], "ends inside"),
    "cut between members": (lambda d: d[:1024], "it is cut"),
    "random header": (lambda d: b"\xff" * 512 + d, "check sum"),
    "symbolic link": (
        lambda d: member("a.txt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd") + d,
        "a symbolic link: only regular files",
    ),
    "hard link": (
        lambda d: member("a.txt", b"", type=tarfile.LNKTYPE, linkname="b") + d,
        "a hard link",
    ),
    "device": (lambda d: member("a.txt", b"", type=tarfile.CHRTYPE) + d, "a device"),
    "block device": (lambda d: member("a.txt", b"", type=tarfile.BLKTYPE) + d, "a device"),
    "fifo": (lambda d: member("a.txt", b"", type=tarfile.FIFOTYPE) + d, "a fifo"),
    "folder": (lambda d: member("a", b"", type=tarfile.DIRTYPE) + d, "a folder"),
    "extended header": (lambda d: member("a.txt", type=tarfile.XHDTYPE) + d, "extended header"),
    "absolute name": (lambda d: ustar.header("/etc/x.txt", 0) + d, "'/etc/x.txt'|where"),
    "parent folder": (lambda d: ustar.header("../x.txt", 0) + d, "where"),
    "name with a folder": (lambda d: d.replace(b"r", b"/", 1), "check sum"),
    "time": (lambda d: member("a.txt", mtime=5) + d, "not one that cdgen writes"),
    "owner": (lambda d: member("a.txt", uid=5) + d, "not one that cdgen writes"),
    "mode": (lambda d: member("a.txt", mode=0o755) + d, "not one that cdgen writes"),
    "huge size": (lambda d: resized(d, 8**11 - 1), "ends inside"),
    "size beyond octal": (
        lambda d: member("a.txt", b"", size=8**12) + d,
        "not one that cdgen writes",
    ),
    "another order": (lambda d: d[1024:2048] + d, r"where .*\.txt should be"),
    "a member too many": (lambda d: ustar.header("a.md", 0) + d, r"'a.md' where a.md.txt"),
    "padding": (lambda d: d[:1000] + b"x" + d[1001:], "is not zeros"),
    "a sample twice": (lambda d: d[:3072] + d, "a second sample with the key"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_are_refused_with_shard_offset_and_reason(tmp_path: Path, name: str) -> None:
    change, said = HOSTILE[name]
    info = write_shard(tmp_path, "real", "train", 0, SOME[0])
    tar = shard_path(tmp_path, info.name)
    good = tar.read_bytes()
    assert len(good) == 3 * 1024 + 1024
    tar.write_bytes(change(good))
    with pytest.raises(BuildError, match=rf"{tar}: at byte \d+: .*({said})") as caught:
        list(samples(tar))
    assert "\n" not in str(caught.value)


def rebuilt(contents: tuple[bytes, bytes, bytes], key: str = "k") -> bytes:
    out = io.BytesIO()
    for ending, data in zip(("txt", "json", "npy"), contents, strict=True):
        out.write(ustar.header(f"{key}.{ending}", len(data)) + data + ustar.padding(len(data)))
    return out.getvalue() + ustar.END


def test_contents_of_another_kind_are_refused(tmp_path: Path) -> None:
    sample, tar = SOME[0], tmp_path / "a.tar"
    saved = io.BytesIO()
    np.save(saved, sample.ids)
    text, meta, ids = sample.text.encode(), sample.meta.to_json(), saved.getvalue()
    other = io.BytesIO()
    np.save(other, sample.ids.astype(np.int64))
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    tar.write_bytes(rebuilt((text, meta, ids)))
    assert [(s.text, s.meta) for s in samples(tar)] == [(sample.text, sample.meta)]
    wrong: list[tuple[bytes, bytes, bytes]] = [
        (b"\xff", meta, ids),
        (b"", meta, ids),
        (text, b"null", ids),
        (text, b"{}", ids),
        (text, b"[" * 10**5, ids),
        (text, meta.replace(b'"part":0', b'"part":0.5'), ids),
        (text, meta.replace(b'"num_tokens":8', b'"num_tokens":9'), ids),
        (text, meta, ids[:-1]),
        (text, meta, ids[:-2]),
        (text, meta, b""),
        (text, meta, other.getvalue()),
        (text, meta, objects.getvalue()),
    ]
    for contents in wrong:
        tar.write_bytes(rebuilt(contents))
        with pytest.raises(BuildError, match=r"a\.tar: at byte 0: k: ") as caught:
            list(samples(tar))
        assert "\n" not in str(caught.value)
    tar.write_bytes(rebuilt((text, meta, ids), key="K"))
    with pytest.raises(BuildError, match="a key must have"):
        list(samples(tar))
