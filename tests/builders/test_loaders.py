"""A built corpus in other people's hands: webdataset and datasets read every sample, with cdgen not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdgen import open_corpus
from cdgen.builders.report import Report

READER = """
import json, sys
sys.modules["cdgen"] = None  # as if it were not installed
loader, folder, kind, out = sys.argv[1:]

def rows():
    if loader == "webdataset":
        import webdataset
        from pathlib import Path
        urls = sorted(str(p) for p in Path(folder, "data", kind).glob(f"{kind}-train-*.tar"))
        for row in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode():
            yield row["__key__"], row["txt"], row["json"], row["npy"].tolist()
    else:
        import datasets
        made = datasets.load_dataset(folder, kind, split="train", streaming=loader == "streaming")
        for row in made:
            yield row["__key__"], row["txt"], row["json"], list(map(int, row["npy"]))

with open(out, "w") as file:
    json.dump(list(rows()), file)
"""


@pytest.mark.parametrize("kind", ["real", "synthetic", "mixed"])
@pytest.mark.parametrize("loader", ["webdataset", "streaming", "whole"])
def test_every_field_of_every_sample_is_read(
    built: tuple[Path, Path, Report], tmp_path: Path, loader: str, kind: str
) -> None:
    """Through the card's configurations, in the order of the files."""
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", READER, loader, str(built[1]), kind, str(tmp_path / "rows")]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]

    found = {row[0]: row[1:] for row in json.loads((tmp_path / "rows").read_text())}
    expected = {
        sample.key: [sample.text, json.loads(sample.meta.to_json()), sample.ids.tolist()]
        for sample in open_corpus(built[1]).samples(kind)
    }
    assert expected
    assert found == expected
