"""Corpora for the tests of shards."""

from pathlib import Path

import pytest

from shards.corpus_maker import make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole corpus that tests only read."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A whole corpus to be damaged."""
    return make_corpus(tmp_path / "broken")
