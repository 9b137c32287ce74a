"""Shared fixtures: a small piece of the packaged fairy tales, and the recipe that the tests build from it."""

import gc
import io
import os
import shutil
import signal
from pathlib import Path

import pytest
import zstandard
from hypothesis import settings
from small import SMALL_RECIPE

from cdgen.resources import resource

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # see cdgen/builders/process.py; torch comes later
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's workers are of niceness 15 otherwise: beside a busy suite they starve, for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # read when triton, where there is one, is imported
# A shell ignores Ctrl-C for what it runs with &, and whoever is started from there does: tests interrupt themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("cdgen", deadline=None)  # timings never decide a test
settings.load_profile("cdgen")
# What collecting imports stays. The garbage collector would go through it again and again, half a second a time.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on only what tests make is looked at."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def tales() -> list[str]:
    """The packaged documents."""
    file = resource("recipes", "quickstart").parent / "quickstart/fairytales.txt.zst"
    raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(file.read_bytes())).read()
    return raw.decode().split("\n\n")


@pytest.fixture(scope="session")
def small_text(tales: list[str]) -> str:
    """Forty documents of about 1,500 characters, cut at line ends."""
    cut = [tale[: tale.rfind(".", 0, 1500) + 1] for tale in tales[:40]]
    return "\n\n".join(cut) + "\n"


@pytest.fixture
def small_recipe(tmp_path: Path, small_text: str) -> Path:
    """A recipe that builds in seconds, in a folder of its own."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "tales.txt").write_text(small_text, encoding="utf-8")
    recipe = folder / "small.yaml"
    recipe.write_text(SMALL_RECIPE, encoding="utf-8")
    return recipe
