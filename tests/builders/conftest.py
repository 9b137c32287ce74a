"""One calm build that the tests of builders look at and copy."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kitchen import FILTERS, Kitchen, also_line
from small import SMALL_RECIPE

from cdgen.builders.report import Report
from cdgen.builders.run import build


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A build sets the process's threads; give them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, small_text: str) -> tuple[Path, Path, Report]:
    """(recipe, corpus folder, report) of one calm build with a cold cache."""
    home = tmp_path_factory.mktemp("built")
    (home / "tales.txt").write_text(small_text, encoding="utf-8")
    recipe = home / "small.yaml"
    recipe.write_text(SMALL_RECIPE, encoding="utf-8")
    return recipe, home / "out", build(recipe, home / "out", cache=home / "cache")


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory: pytest.TempPathFactory, small_text: str) -> Kitchen:
    """Two corpora of one text, built once."""
    return Kitchen(tmp_path_factory.mktemp("kitchen"), small_text)


@pytest.fixture(scope="session")
def filtered(kitchen: Kitchen) -> tuple[Path, Report]:
    """Both corpora in one mix, filtered."""
    old, new = also_line(0.1)
    return kitchen.build("filtered", (old, FILTERS + new))
