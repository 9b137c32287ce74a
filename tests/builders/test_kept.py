"""The cache is listed and cleared, and nothing else ever is."""

import os
from pathlib import Path

import pytest

from cdgen.builders.kept import SECONDS_PER_DAY, list_cache
from cdgen.errors import UsageError

NOW = 1_800_000_000.0
DIGEST = "0123456789abcdef" * 2


def make(folder: Path, kind: str, name: str, *, size: int = 10, age_days: float = 0.0) -> Path:
    """An entry of the cache with one file of `size` bytes."""
    path = folder / kind / name
    path.mkdir(parents=True)
    file = path / "file"
    file.write_bytes(b"x" * size)
    made = NOW - age_days * SECONDS_PER_DAY
    os.utime(file, (made, made))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A tokenizer of yesterday, weights of last week and of last year."""
    folder = tmp_path / "cache"
    make(folder, "tokenizers", DIGEST, size=100, age_days=1)
    make(folder, "models", f"{DIGEST}-00000001", size=2000, age_days=7)
    make(folder, "models", f"{DIGEST[::-1]}-00000002", size=3000, age_days=365)
    return folder


def test_what_was_encoded_for_a_stream_is_known(tmp_path: Path) -> None:
    """Ids of another tokenizer, and the places of documents, which are files."""
    make(tmp_path, "retokenized", DIGEST)
    (tmp_path / "places").mkdir()
    (tmp_path / "places/0af").write_bytes(b"x")

    assert {entry.kind for entry in list_cache(tmp_path).entries} == {"retokenized", "places"}
    list_cache(tmp_path, clear=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_entries_are_listed_with_all_that_is_known(cache: Path) -> None:
    """Newest first; nothing is deleted."""
    shown = list_cache(cache, clock=lambda: NOW)

    assert [(e.kind, e.numeric_class, e.num_bytes, e.age_days) for e in shown.entries] == [
        ("tokenizers", "", 100, 1.0),
        ("models", "00000001", 2000, 7.0),
        ("models", "00000002", 3000, 365.0),
    ]
    assert shown.num_bytes == 5100 and not shown.cleared
    assert shown.entries[0].digest == DIGEST
    assert len(list_cache(cache, clock=lambda: NOW).entries) == 3


def test_a_clearing_empties_it(cache: Path) -> None:
    shown = list_cache(cache, clear=True)

    assert shown.cleared and len(shown.entries) == 3
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert list_cache(cache).entries == ()


def test_only_what_is_older_is_cleared(cache: Path) -> None:
    cleared = list_cache(cache, clear=True, older_than_days=30, clock=lambda: NOW)

    assert [entry.numeric_class for entry in cleared.entries] == ["00000002"]
    assert len(list_cache(cache).entries) == 2


def test_no_cache_is_an_empty_one(tmp_path: Path) -> None:
    assert list_cache(tmp_path / "nowhere", clear=True).entries == ()
    assert not (tmp_path / "nowhere").exists()


def test_a_clock_that_jumped_back_makes_no_negative_age(cache: Path) -> None:
    assert {entry.age_days for entry in list_cache(cache, clock=lambda: 0.0).entries} == {0.0}


ODD = ["notes.txt", "models/mine", "tokenizers/readme.md", "models/" + DIGEST, "hub/x"]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_with_anything_else_in_it_is_refused_whole(cache: Path, name: str) -> None:
    """Somebody's own folder, named by mistake, loses nothing."""
    (cache / name).parent.mkdir(exist_ok=True)
    (cache / name).write_text("precious")
    before = sorted(cache.rglob("*"))

    with pytest.raises(
        UsageError, match=r"not a cdgen cache, it holds .*; \$CDGEN_CACHE names the cache"
    ):
        list_cache(cache, clear=True)

    assert sorted(cache.rglob("*")) == before


def test_a_link_is_never_followed(cache: Path, tmp_path: Path) -> None:
    """Neither in place of an entry, of a kind or of the cache, nor inside an entry."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    inside = cache / "models" / f"{DIGEST}-00000001"
    (inside / "out").symlink_to(precious)
    list_cache(cache, clear=True)
    assert (precious / "file").read_text() == "x"

    for place in (cache / "models" / f"{DIGEST}-00000003", cache / "models", cache):
        if place.is_dir():
            place.rename(tmp_path / f"moved-{place.name}")
        place.symlink_to(precious)
        with pytest.raises(UsageError):
            list_cache(cache, clear=True)
        place.unlink()
        place.parent.mkdir(exist_ok=True)
    assert (precious / "file").read_text() == "x"


def test_what_a_killed_build_left_goes_with_a_clearing(cache: Path) -> None:
    """Not what a running build is writing now."""
    old, new = cache / "models/.tmp-old", cache / "models/.tmp-new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))

    assert len(list_cache(cache).entries) == 3
    list_cache(cache, clear=True)

    assert not old.exists() and new.exists()
