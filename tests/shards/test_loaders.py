"""Other people's loaders read every field of every kind of shard, with cdgen out of reach."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cdgen.shards.manifest import read_manifest
from cdgen.shards.reader import samples
from cdgen.shards.sample import FEATURES
from shards.corpus_maker import make_corpus

KINDS = {"mixed": "train", "real": "train", "held_out": "eval", "synthetic": "train"}
GLOBS = {
    "mixed": "data/mixed/mixed-train-*.tar",
    "real": "data/real/real-train-*.tar",
    "held_out": "data/real/real-eval-*.tar",
    "synthetic": "data/synthetic/synthetic-train-*.tar",
}

READ = """
import json, sys, glob
sys.modules["cdgen"] = None  # any import of it fails from here on
folder, out, loader = sys.argv[1:]
globs = json.load(open(folder + "/globs.json"))

def rows_of_webdataset(kind):
    import webdataset
    urls = sorted(glob.glob(folder + "/" + globs[kind]))
    for row in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode():
        yield row

def rows_of_datasets(kind, streaming):
    import datasets
    split = "eval" if kind == "held_out" else "train"
    yield from datasets.load_dataset(folder, kind, split=split, streaming=streaming)

def plain(row):
    return {"key": row["__key__"], "txt": row["txt"], "json": row["json"], "npy": list(map(int, row["npy"]))}

read = {}
for kind in globs:
    if loader == "webdataset":
        rows = rows_of_webdataset(kind)
    else:
        rows = rows_of_datasets(kind, loader == "streaming")
    read[kind] = [plain(row) for row in rows]
json.dump(read, open(out, "w"))
"""


def yaml_of(value: Any) -> str:
    """YAML is a superset of JSON."""
    return json.dumps(value)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a card: explicit configs, pinned features."""
    folder = make_corpus(tmp_path_factory.mktemp("published"))
    features = FEATURES["uint16"]
    card = {
        "configs": [
            {
                "config_name": kind,
                "data_files": [{"split": split, "path": GLOBS[kind]}],
                **({"default": True} if kind == "mixed" else {}),
            }
            for kind, split in KINDS.items()
        ],
        "dataset_info": [{"config_name": kind, "features": features} for kind in KINDS],
    }
    (folder / "README.md").write_text(f"---\n{yaml_of(card)}\n---\n# Tiny\n", "utf-8")
    (folder / "globs.json").write_text(json.dumps(GLOBS), "utf-8")
    return folder


@pytest.mark.parametrize("loader", ["webdataset", "streaming", "not streaming"])
def test_every_field_of_every_sample_is_read(published: Path, tmp_path: Path, loader: str) -> None:
    out = tmp_path / "read.json"
    env = os.environ | {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    env.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", READ, str(published), str(out), loader]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(out.read_text("utf-8"))
    for kind, pattern in GLOBS.items():
        wanted = [
            {
                "key": sample.key,
                "txt": sample.text,
                "json": json.loads(sample.meta.to_json()),
                "npy": sample.ids.tolist(),
            }
            for tar in sorted(published.glob(pattern))
            for sample in samples(tar)
        ]
        found = [row | {"key": Path(row["key"]).name} for row in read[kind]]
        assert len(wanted) > 0
        assert found == wanted
        types = [{n: type(v) for n, v in row["json"].items()} for row in (found[0], wanted[0])]
        assert types[0] == types[1]
    assert read_manifest(published).name == "tiny"
