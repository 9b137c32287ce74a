"""Other people's loaders read a published corpus, each in a process of its own that has never seen cdgen."""

import json
import os
import subprocess
import sys
from pathlib import Path

from hub_server import HubServer

from cdgen import open_corpus

READER = """
import json, sys
sys.modules["cdgen"] = None  # as if it were not installed
loader, where, kind, out = sys.argv[1:]

def rows():
    if loader in ("webdataset", "curl"):
        import webdataset
        for row in webdataset.WebDataset(json.loads(where), shardshuffle=False, empty_check=False).decode():
            yield row["__key__"], row["txt"], row["json"], row["npy"].tolist()
    else:
        import datasets
        made = datasets.load_dataset(where, kind, split="train", streaming=loader == "streaming")
        for row in made:
            yield row["__key__"], row["txt"], row["json"], list(map(int, row["npy"]))

with open(out, "w") as file:
    json.dump(list(rows()), file)
"""
"""[key, text, provenance, ids] of every train sample of a kind, in order, as webdataset or datasets give it."""


def rows(folder: Path, kind: str) -> list[list[object]]:
    """What a reader must find, in order."""
    return [
        [sample.key, sample.text, json.loads(sample.meta.to_json()), sample.ids.tolist()]
        for sample in open_corpus(folder).samples(kind)
    ]


def run_reader(
    program: str, arguments: list[str], server: HubServer, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a reader in a process of its own, with nothing cached, on this Hub."""
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "home"),
        "HF_ENDPOINT": server.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_dummy",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
