"""Streams keep the places of documents in the cache; the tests' is not the user's."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def stream_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests of streams."""
    return tmp_path_factory.mktemp("stream-cache")


@pytest.fixture(autouse=True)
def cache(stream_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tests have one of their own."""
    monkeypatch.setenv("CDGEN_CACHE", str(stream_cache))
