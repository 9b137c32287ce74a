import hashlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import BuildError
from cdgen.shards import ustar
from cdgen.shards.index import INDEX_SCHEMA, read_index
from cdgen.shards.npy import IdDtype
from cdgen.shards.reader import MappedShard, samples
from cdgen.shards.sample import Meta, Sample
from cdgen.shards.writer import ShardWriter
from shards.corpus_maker import (
    DTYPE,
    program,
    real_sample,
    synthetic_sample,
    write_shard,
)

GOLDEN = "4ee1cd00ff06104cc0b41b7f234f19baa67ccda6c81c99f71b2c99b605d3c855"


def written(folder: Path, *some: Sample, dtype: IdDtype = DTYPE) -> tuple[Path, Path]:
    tar, index = folder / "a.tar", folder / "a.parquet"
    with ShardWriter(tar, index, dtype) as writer:
        for sample in some:
            writer.add(sample)
    return tar, index


def test_golden_bytes(tmp_path: Path) -> None:
    """A change here changes every published shard: see the rule in shards/FORMAT.md."""
    info = write_shard(tmp_path, "real", "train", 0, real_sample(1), synthetic_sample(2, 1, 1))
    assert info.sha256 == GOLDEN


def test_the_info_counts_what_is_in_the_files(tmp_path: Path) -> None:
    some = [real_sample(1), synthetic_sample(2), synthetic_sample(2, 1)]
    tar, index = tmp_path / "a.tar", tmp_path / "a.parquet"
    with ShardWriter(tar, index, DTYPE) as writer:
        for number, sample in enumerate(some):
            assert writer.num_samples == number
            writer.add(sample)
    info = writer.info
    assert info.sha256 == hashlib.sha256(tar.read_bytes()).hexdigest()
    assert info.num_bytes == tar.stat().st_size == writer.num_bytes
    assert info.num_samples == 3
    assert info.num_tokens == sum(len(sample.ids) for sample in some)
    assert info.num_synthetic_tokens == sum(len(sample.ids) for sample in some[1:])
    assert info.num_text_bytes == sum(len(sample.text.encode()) for sample in some)
    assert info.index.sha256 == hashlib.sha256(index.read_bytes()).hexdigest()
    assert info.index.num_bytes == index.stat().st_size
    assert (info.name, info.index.name) == ("a.tar", "a.parquet")


def test_members_are_what_pythons_tarfile_would_write(tmp_path: Path) -> None:
    sample = real_sample(1)
    tar, _ = written(tmp_path, sample)
    wanted = io.BytesIO()
    with tarfile.open(fileobj=wanted, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        contents = sample.text.encode(), sample.meta.to_json(), None
        saved = io.BytesIO()
        np.save(saved, sample.ids)
        for ending, content in zip(("txt", "json", "npy"), contents, strict=True):
            data = content or saved.getvalue()
            member = tarfile.TarInfo(f"{sample.key}.{ending}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    members = tar.read_bytes().removesuffix(ustar.END)
    assert wanted.getvalue().startswith(members + ustar.END)
    assert not any(wanted.getvalue()[len(members) :])


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar here")
def test_the_tar_tool_lists_a_shard_without_complaint(tmp_path: Path) -> None:
    sample = real_sample(1)
    tar, _ = written(tmp_path, sample)
    env = os.environ | {"TZ": "UTC", "LC_ALL": "C"}
    done = subprocess.run(["tar", "tvf", tar], capture_output=True, text=True, env=env, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[-1] for line in lines] == [
        f"{sample.key}.{ending}" for ending in ("txt", "json", "npy")
    ]
    assert all(line.startswith("-rw-r--r-- 0/0 ") and "1970-01-01 00:00" in line for line in lines)


@given(st.from_regex(r"[ -~]{1,100}", fullmatch=True), st.integers(0, 8**11 - 1))
def test_every_header_is_read_back_and_tarfile_agrees(name: str, num_bytes: int) -> None:
    header = ustar.header(name, num_bytes)
    assert ustar.parse(header) == (name, num_bytes)
    member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    assert (member.size, member.isreg(), member.mtime) == (num_bytes, True, 0)


@pytest.mark.parametrize(("name", "num_bytes"), [("a" * 101, 0), ("", 0), ("a", 8**11), ("a", -1)])
def test_what_ustar_cannot_say_is_refused(name: str, num_bytes: int) -> None:
    with pytest.raises(ValueError, match=r"bytes"):
        ustar.header(name, num_bytes)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1500)


@given(
    st.lists(
        st.tuples(texts, st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=400)),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_and_ids_come_back_from_tar_index_and_map(
    tmp_path_factory: pytest.TempPathFactory, contents: list[tuple[str, list[int]]]
) -> None:
    some = [
        Sample(
            key=f"k{number}",
            text=text,
            ids=np.array(ids, "<u4"),
            meta=Meta(source="real", num_tokens=len(ids), license=text[:9]),
        )
        for number, (text, ids) in enumerate(contents)
    ]
    tar, index = written(tmp_path_factory.mktemp("shard"), *some, dtype=np.dtype("<u4"))
    assert list(samples(tar)) == some
    with MappedShard(tar, index) as shard:
        assert [shard.sample(row) for row in range(len(shard))] == some
        assert [shard.text(row) for row in range(len(shard))] == [s.text for s in some]
        assert [shard.meta(row) for row in range(len(shard))] == [s.meta for s in some]
        assert all(np.array_equal(shard.ids(row), s.ids) for row, s in enumerate(some))


def test_a_copy_is_the_same_bytes_and_a_repeat_has_another_key(tmp_path: Path) -> None:
    first, second = real_sample(1), synthetic_sample(2)
    tar, index = written(tmp_path / "from", first, second)
    with (
        MappedShard(tar, index) as shard,
        ShardWriter(tmp_path / "b.tar", tmp_path / "b.parquet", shard.dtype) as writer,
    ):
        writer.copy(shard.raw(1), shard.row(1))
        writer.copy(bytes(shard.raw(0)), shard.row(0))
        writer.copy(shard.raw(1), shard.row(1), key=f"{second.key}-p2")
    again = Sample(key=f"{second.key}-p2", text=second.text, ids=second.ids, meta=second.meta)
    assert list(samples(tmp_path / "b.tar")) == [second, first, again]
    straight, straight_index = written(tmp_path / "straight", second, first, again)
    assert straight.read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert read_index(tmp_path / "b.parquet").equals(read_index(straight_index))
    assert straight_index.read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_copy_of_damaged_bytes_is_refused(tmp_path: Path) -> None:
    tar, index = written(tmp_path, real_sample(1))
    with MappedShard(tar, index) as shard:
        raw, row = bytearray(shard.raw(0)), shard.row(0)
    flipped = bytearray(raw)
    flipped[row["npy_offset"] + 130] ^= 1
    for damaged in (bytes(flipped), bytes(raw[:-512]), bytes(raw).replace(b"r", b"q", 1)):
        with (
            pytest.raises(BuildError, match="run cdgen verify"),
            ShardWriter(tmp_path / "b.tar", tmp_path / "b.parquet", DTYPE) as writer,
        ):
            writer.copy(damaged, row)
    with (
        pytest.raises(ValueError, match="its ids are not uint32"),
        ShardWriter(tmp_path / "b.tar", tmp_path / "b.parquet", np.dtype("<u4")) as writer,
    ):
        writer.copy(bytes(raw), row)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (real_sample(1), "has a sample of this key already"),
        (
            Sample(key="k", text="t", ids=np.arange(2, dtype="<u4"), meta=Meta(num_tokens=2)),
            "ids are uint32, the shard's are uint16",
        ),
        (
            Sample(key="k", text="\ud800", ids=np.arange(2, dtype="<u2"), meta=Meta(num_tokens=2)),
            "surrogates",
        ),
    ],
)
def test_after_an_error_nothing_remains(tmp_path: Path, second: Sample, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        written(tmp_path, real_sample(1), second)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_an_earlier_shard_as_it_was(tmp_path: Path) -> None:
    tar, index = written(tmp_path, real_sample(1))
    before = tar.read_bytes(), index.read_bytes()
    with pytest.raises(ValueError, match="already"):
        written(tmp_path, real_sample(2), real_sample(2))
    assert (tar.read_bytes(), index.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_an_index_that_cannot_be_put_in_place_takes_its_shard_along(tmp_path: Path) -> None:
    index = tmp_path / "a.parquet"
    index.mkdir()
    with (
        pytest.raises(BuildError, match="cannot write"),
        ShardWriter(tmp_path / "a.tar", index, DTYPE) as writer,
    ):
        writer.add(real_sample(1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_shard_without_samples_is_a_shard(tmp_path: Path) -> None:
    tar, index = written(tmp_path)
    assert tar.read_bytes() == ustar.END
    assert list(samples(tar)) == []
    assert len(MappedShard(tar, index)) == 0


def test_the_index_says_where_everything_is(tmp_path: Path) -> None:
    some = [real_sample(1), synthetic_sample(2)]
    tar, index = written(tmp_path, *some)
    data, table = tar.read_bytes(), read_index(index)
    assert table.schema.equals(INDEX_SCHEMA, check_metadata=True)
    for sample, row in zip(some, table.to_pylist(), strict=True):
        contents = {
            ending: data[row[f"{ending}_offset"] :][: row[f"{ending}_length"]]
            for ending in ("txt", "json", "npy")
        }
        assert contents["txt"] == sample.text.encode()
        assert contents["json"] == sample.meta.to_json()
        ids = np.frombuffer(data, "<u2", row["num_tokens"], row["npy_offset"] + 128)
        assert np.array_equal(ids, sample.ids)
        assert row["npy_offset"] % 512 == row["offset"] % 512 == row["length"] % 512 == 0
        assert {name: row[name] for name in ("key", "document", "mean_logp_expert")} == {
            "key": sample.key,
            "document": sample.meta.document,
            "mean_logp_expert": sample.meta.mean_logp_expert,
        }


ENDLESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from shards.corpus_maker import DTYPE, real_sample
from cdgen.shards.writer import ShardWriter
folder = Path(sys.argv[1])
with ShardWriter(folder / "a.tar", folder / "a.parquet", DTYPE) as writer:
    for number in range(10**9):
        writer.add(real_sample(number))
        if number == 3000:
            print("writing", flush=True)
"""


def test_kill_9_while_writing_leaves_no_shard(tmp_path: Path) -> None:
    command, env = program(ENDLESS, tmp_path, Path(__file__).parents[1])
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert all(name.startswith(".tmp-") for name in left)
