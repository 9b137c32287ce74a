"""A small finished corpus, and a Hub on this machine to publish it to."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, hub_server
from huggingface_hub import HfApi, constants

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A copy of the golden corpus, with something in work/ that must never be published."""
    folder = tmp_path / "corpus"
    shutil.copytree(GOLDEN, folder)
    (folder / "work").mkdir(exist_ok=True)
    (folder / "work/secret.txt").write_text("not for strangers")
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    """A running Hub."""
    with hub_server(tmp_path / "xet") as running:
        yield running


@pytest.fixture(params=["xet", "lfs"])
def api(
    request: pytest.FixtureRequest,
    corpus: Path,
    server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> HfApi:
    """The client, uploading in both of its ways."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    if request.param == "xet":
        server.knows(corpus)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    return HfApi(endpoint=server.address, token="hf_dummy")
