"""What can happen to a corpus folder, row by row of the corruption table: nothing stays silent."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from shards.corpus_maker import make_corpus, real_sample, remake

import cdgen
from cdgen.errors import BuildError, UsageError
from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.manifest import read_manifest
from cdgen.shards.reader import MappedShard


def first_two(folder: Path) -> tuple[Path, Path]:
    names = [shard.name for shard in read_manifest(folder).shards if shard.kind == "real"]
    return shard_path(folder, names[-2]), shard_path(folder, names[-1])


def flip_a_byte(folder: Path) -> None:
    path, _ = first_two(folder)
    with MappedShard(path) as shard:
        row = shard.row(1)
    data = bytearray(path.read_bytes())
    data[row["npy_offset"] + row["npy_length"] - 1] ^= 1
    path.write_bytes(data)


def cut_at_a_sample(folder: Path) -> None:
    path, _ = first_two(folder)
    with MappedShard(path) as shard:
        row = shard.row(3)
    path.write_bytes(path.read_bytes()[: row["offset"]])


def cut_inside_a_member(folder: Path) -> None:
    path, _ = first_two(folder)
    with MappedShard(path) as shard:
        row = shard.row(3)
    path.write_bytes(path.read_bytes()[: row["txt_offset"] + 5])


def swap_shards(folder: Path) -> None:
    one, other = first_two(folder)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def change_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    entry = read_manifest(folder).shards[-1]
    path.write_text(path.read_text("utf-8").replace(entry.sha256, "0" * 64), "utf-8")


def lose_a_shard(folder: Path) -> None:
    first_two(folder)[0].unlink()


def lose_an_index(folder: Path) -> None:
    index_path(folder, first_two(folder)[0].name).unlink()


DAMAGE = [
    flip_a_byte,
    cut_at_a_sample,
    cut_inside_a_member,
    swap_shards,
    change_the_manifest,
    lose_a_shard,
    lose_an_index,
]


def read_all(folder: Path) -> int:
    made = cdgen.blocks(folder, block=8, repeat="allow")
    return sum(len(made[j]["input_ids"]) for j in range(len(made)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_no_damage_is_silent(whole: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    assert read_all(folder) > 0
    damage(folder)

    with pytest.raises((BuildError, UsageError)) as found:
        read_all(folder)

    assert str(folder) in str(found.value) or "-train-" in str(found.value)
    assert len(str(found.value).splitlines()) == 1


def test_two_corpora_with_shards_of_one_name_stay_apart(whole: Path, tmp_path: Path) -> None:
    """webdataset's cache goes by the basename alone; here a shard is its folder and its hash."""
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    for path in first_two(other):
        remake(other, path.name, *(real_sample(n) for n in range(700, 706)))

    left, right = (
        cdgen.blocks(folder, block=8, repeat="allow", shuffle=False, synthetic=0.0)
        for folder in (whole, other)
    )

    assert left[0]["input_ids"].tolist() != right[0]["input_ids"].tolist()
    assert left.fingerprint != right.fingerprint
