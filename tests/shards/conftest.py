"""A tiny corpus with real, synthetic and mixed shards, as a build would leave it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus_maker import make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole corpus that tests only read."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Path]:
    """A corpus of its own, to be damaged."""
    return make_corpus(tmp_path / "broken")
