"""The packaged quickstart, as its README shows it: built, published, read by everyone's tools, checked and replayed.

Minutes on two idle cores: chosen with `-m soak`. `CDGEN_QUICKSTART=shards/quickstart` takes one that was built here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_readers import READER, rows, run_reader
from hub_server import HubServer, hub_server

from cdgen.shards.manifest import read_manifest

REPO = "someone/quickstart"
ADDRESS = f"hf://datasets/{REPO}"


class Shell:
    """The command line, as its user has it: against one Hub, with one cache."""

    def __init__(self, server: HubServer, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "CDGEN_CACHE": os.environ.get("CDGEN_CACHE", str(folder / "cache")),
            "HF_ENDPOINT": server.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_dummy",
        }

    def cdgen(self, *words: str) -> str:
        """Run one command; returns what it prints, which must be without an error."""
        ran = subprocess.run(
            [sys.executable, "-m", "cdgen", *words],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_quickstart_goes_to_the_hub_and_comes_back(tmp_path: Path) -> None:
    """Identical samples by `datasets`, streamed and not, by `webdataset` over hf:// and by `cdgen stream`."""
    with hub_server(tmp_path / "xet") as server:
        shell = Shell(server, tmp_path)
        given = os.environ.get("CDGEN_QUICKSTART")
        corpus = Path(given).resolve() if given else tmp_path / "quickstart"
        if not given:
            shell.cdgen("build", "quickstart", "--out", str(corpus))
        published = json.loads(shell.cdgen("publish", str(corpus), ADDRESS, "--json"))
        copy = f"{ADDRESS}@{published['tag']}"
        shards = [f"{ADDRESS}/data/mixed/{s.name}" for s in read_manifest(corpus).shards
                  if s.kind == "mixed"]  # fmt: skip
        for loader in ("streaming", "whole", "webdataset"):
            where = json.dumps(shards) if loader == "webdataset" else REPO
            out = tmp_path / loader
            ran = run_reader(READER, [loader, where, "mixed", str(out)], server, tmp_path)
            assert ran.returncode == 0, ran.stderr[-3000:]
            assert json.loads(out.read_text()) == rows(corpus, "mixed")

        look = ("--block", "256", "-n", "100000", "--json")
        here, there = (json.loads(shell.cdgen("stream", one, *look)) for one in (str(corpus), copy))
        assert here["blocks"] and here["blocks"] == there["blocks"]
        checked = json.loads(shell.cdgen("verify", copy, "--replay", "6", "--json"))
        assert not checked["problems"] and checked["replay"]["num_tokens"], checked
        assert not checked["replay"]["differences"]
        shell.cdgen("stats", copy, "--html", "report.html")
        assert "<svg" in (tmp_path / "report.html").read_text()
