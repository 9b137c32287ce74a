"""One calm build that the tests of builders look at and copy."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
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
