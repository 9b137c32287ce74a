"""croissant.json: valid to its own library, which finds the shards by their hashes and reads their text."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cdgen import open_corpus
from cdgen.recipes.load import load_recipe
from cdgen.shards.croissant import croissant
from cdgen.shards.licensing import corpus_license
from cdgen.shards.lock import Input, Lock, read_lock
from cdgen.shards.manifest import AlsoInfo, SourceInfo, read_manifest
from cdgen.shards.sample import META_TYPES

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"
RECIPE = load_recipe(GOLDEN / "recipe.yaml").recipe
MANIFEST = replace(read_manifest(GOLDEN), **asdict(corpus_license(RECIPE, ())))
LOCK = read_lock(GOLDEN / "recipe.lock.json")
HOSTILE = 'x"}],\n<b>\u202e${jndi} https://evil/#'

READ = """
import json, sys
import mlcroissant
made = mlcroissant.Dataset(sys.argv[1])
found = {"errors": sorted(made.metadata.issues.errors), "warnings": sorted(made.metadata.issues.warnings)}
if len(sys.argv) > 2:
    rows = made.records(sys.argv[2])
    found["rows"] = {row[f"{sys.argv[2]}/key"].decode(): row[f"{sys.argv[2]}/txt"].decode() for row in rows}
json.dump(found, sys.stdout)
"""


def read(path: Path, home: Path, *arguments: str) -> dict[str, Any]:
    """What mlcroissant says of a file, in a process of its own: it leaves files open and keeps a cache at home."""
    environment = {**os.environ, "HOME": str(home), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", READ, str(path), *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def facts() -> dict[str, Any]:
    """The golden corpus's."""
    found: dict[str, Any] = json.loads(croissant(MANIFEST, RECIPE, LOCK, dtype="uint16"))
    return found


def test_mlcroissant_finds_no_fault_and_reads_every_text(tmp_path: Path) -> None:
    """It unpacks the shards whose hashes are right. The one warning is about a date: a corpus has none."""
    pytest.importorskip("mlcroissant", reason="a development dependency")
    corpus = tmp_path / "corpus"
    shutil.copytree(GOLDEN, corpus)
    (corpus / "croissant.json").write_text(croissant(MANIFEST, RECIPE, LOCK, dtype="uint16"))
    found = read(corpus / "croissant.json", tmp_path, "mixed")

    assert found["errors"] == []
    assert [line for line in found["warnings"] if "datePublished" not in line] == []
    assert found["rows"] == {s.key: s.text for s in open_corpus(GOLDEN).samples("mixed")}


def test_hostile_names_stay_data(tmp_path: Path) -> None:
    pytest.importorskip("mlcroissant", reason="a development dependency")
    info = SourceInfo(name=HOSTILE, license=HOSTILE, num_documents=1, num_tokens=1)
    also = AlsoInfo(name=HOSTILE, corpus="ab" * 32, digests={}, sources=(info,), license=HOSTILE)
    manifest = replace(MANIFEST, name=HOSTILE, sources=(info,), also=(also,), license=HOSTILE)
    lock = Lock(models={HOSTILE: Input(sha256=HOSTILE, hub=HOSTILE, revision=HOSTILE)})
    shutil.copytree(GOLDEN, tmp_path / "corpus")
    path = tmp_path / "corpus/croissant.json"
    path.write_text(croissant(manifest, RECIPE, lock, dtype="uint16"))

    assert read(path, tmp_path)["errors"] == []
    assert json.loads(path.read_text()).keys() == facts().keys()


def test_every_shard_is_there_with_its_hash() -> None:
    files = {f["@id"]: f for f in facts()["distribution"] if f["@type"] == "cr:FileObject"}

    assert {name: (f["sha256"], f["contentUrl"]) for name, f in files.items()} == {
        shard.name: (shard.sha256, f"data/{shard.kind}/{shard.name}") for shard in MANIFEST.shards
    }


def test_file_sets_and_record_sets_hold_every_member_of_every_kind() -> None:
    found = facts()
    sets = {f["@id"]: f for f in found["distribution"] if f["@type"] == "cr:FileSet"}
    records = {one["@id"]: one for one in found["recordSet"]}

    for kind in ("mixed", "real", "synthetic"):
        shards = {shard.name for shard in MANIFEST.shards if shard.kind == kind}
        for ending in ("txt", "json", "npy"):
            assert {one["@id"] for one in sets[f"{kind}-{ending}"]["containedIn"]} == shards
        fields = [field["@id"] for field in records[f"{kind}-provenance"]["field"]]
        assert fields == [f"{kind}-provenance/{name}" for name in ("key", *META_TYPES)]
        assert records[f"{kind}-ids"]["field"][1]["dataType"] == "cr:UInt16"


def test_provenance_names_sources_models_and_what_was_done() -> None:
    found = facts()
    derived = {one["name"]: one.get("sha256") for one in found["prov:wasDerivedFrom"]}

    assert derived == {
        "source tales": LOCK.sources["tales"].sha256,
        "expert": LOCK.models["expert"].sha256,
        "amateur": LOCK.models["amateur"].sha256,
    }
    assert all(derived.values())
    done = found["prov:wasGeneratedBy"]
    assert f"decode:{MANIFEST.digests['decode']}" in done["identifier"]
    assert done["prov:wasAssociatedWith"]["name"] == "cdgen"


def test_nothing_of_time_and_place_is_in_it() -> None:
    text = croissant(MANIFEST, RECIPE, LOCK, dtype="uint16")

    assert text == croissant(MANIFEST, RECIPE, LOCK, dtype="uint16")
    assert "date" not in text.lower().replace("update", "") and str(Path.home()) not in text
