"""Hostile files: whatever is in them, the answer is a result or one line, never another exception."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz import cases
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import BuildError
from cdgen.shards.index import read_index
from cdgen.shards.manifest import read_manifest
from cdgen.shards.reader import MappedShard, samples
from cdgen.shards.verify import verify
from shards.corpus_maker import make_corpus

slow = cases(400)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose files each example replaces and puts back; as small as it can be and have every kind."""
    return make_corpus(tmp_path_factory.mktemp("fuzz") / "corpus", each=1, documents=3)


edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "repeat", "zero"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=3,
)


def mutated(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """`data` after some edits, each at a share of its length."""
    for kind, share, given_bytes in changes:
        at = int(share * len(data))
        block = at - at % 512
        data = {
            "set": data[:at] + given_bytes + data[at + len(given_bytes) :],
            "cut": data[:at],
            "insert": data[:block] + given_bytes.ljust(512, b"\0") + data[block:],
            "repeat": data[: block + 512] + data[block:],
            "zero": data[:block] + bytes(512) + data[block + 512 :],
        }[kind]
    return data


def done_or_one_line(action: Callable[[], object]) -> None:
    message = ""
    try:
        action()
    except BuildError as error:
        message = str(error)
    assert "\n" not in message


def read_all(folder: Path, tar: Path) -> None:
    done_or_one_line(lambda: list(samples(tar)))
    done_or_one_line(lambda: _read_mapped(tar))
    report = verify(folder)
    assert all("\n" not in str(problem) for problem in report.problems)


def _read_mapped(tar: Path) -> None:
    shard = MappedShard(tar)
    for row in range(len(shard)):
        shard.ids(row)
        shard.text(row)
        shard.meta(row)
        shard.sample(row)


def try_file(path: Path, data: bytes, action: Callable[[], None]) -> None:
    kept = path.read_bytes()
    try:
        path.write_bytes(data)
        action()
    finally:
        path.write_bytes(kept)


@slow
@given(edits)
def test_a_mutated_shard(scratch: Path, changes: list[tuple[str, float, bytes]]) -> None:
    tar = next(iter(sorted(scratch.glob("data/synthetic/*.tar"))))
    data = mutated(tar.read_bytes(), changes)
    try_file(tar, data, lambda: read_all(scratch, tar))


@slow
@given(edits)
def test_a_mutated_shard_is_never_taken_for_whole(
    scratch: Path, changes: list[tuple[str, float, bytes]]
) -> None:
    tar = next(iter(sorted(scratch.glob("data/real/*eval*.tar"))))
    good = tar.read_bytes()
    data = mutated(good, changes)

    def check() -> None:
        assert verify(scratch).ok == (data == good)

    try_file(tar, data, check)


@slow
@given(edits)
def test_a_mutated_index(scratch: Path, changes: list[tuple[str, float, bytes]]) -> None:
    index = next(iter(sorted(scratch.glob("index/real-train*.parquet"))))
    tar = scratch / "data/real" / f"{index.stem}.tar"

    def check() -> None:
        done_or_one_line(lambda: read_index(index))
        read_all(scratch, tar)

    try_file(index, mutated(index.read_bytes(), changes), check)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@slow
@given(st.data())
def test_a_manifest_with_a_value_of_another_type_anywhere(
    scratch: Path, data: st.DataObject
) -> None:
    path = scratch / "manifest.json"
    value = json.loads(path.read_text("utf-8"))
    node, depth = value, data.draw(st.integers(0, 3))
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if depth == 0 or not isinstance(node[key], dict | list) or not node[key]:
            break
        node, depth = node[key], depth - 1
    node[key] = data.draw(junk)
    _try_manifest(scratch, json.dumps(value).encode())


@slow
@given(st.binary(max_size=200) | junk.map(lambda value: json.dumps(value).encode()))
def test_a_manifest_that_is_something_else(scratch: Path, data: bytes) -> None:
    _try_manifest(scratch, data)


def _try_manifest(folder: Path, data: bytes) -> None:
    def check() -> None:
        done_or_one_line(lambda: read_manifest(folder))
        verify(folder)

    try_file(folder / "manifest.json", data, check)
