"""shards/FORMAT.md says what the code does."""

import os
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from cdgen.shards.index import INDEX_SCHEMA
from cdgen.shards.layout import shard_path
from cdgen.shards.manifest import (
    AlsoInfo,
    FilterInfo,
    Manifest,
    ManifestShard,
    Mix,
    MixPart,
    SourceInfo,
)
from cdgen.shards.sample import META_TYPES
from cdgen.shards.verdicts import VERDICT_SCHEMA
from shards.corpus_maker import synthetic_sample, write_shard

FORMAT = (Path(__file__).parents[2] / "shards/FORMAT.md").read_text("utf-8")


def test_every_field_and_column_is_described() -> None:
    types = {str: "string", int: "integer", bool: "boolean", float: "number"}
    for name, kind in META_TYPES.items():
        row = next(line for line in FORMAT.splitlines() if re.match(rf"\| [^|]*`{name}`", line))
        assert row.split("|")[2].strip() == types[kind], name
    described = set(re.findall(r"`(\w+)`", FORMAT))
    assert set(INDEX_SCHEMA.names) <= described
    assert set(VERDICT_SCHEMA.names) <= described
    for kind_of in (AlsoInfo, FilterInfo, Manifest, ManifestShard, Mix, MixPart, SourceInfo):
        assert {item.name for item in fields(kind_of)} <= described


def test_the_example_is_real(tmp_path: Path) -> None:
    example = re.findall(r"```json\n(.*?)```", FORMAT, re.DOTALL)[0]
    sample = synthetic_sample(1, 2, 1)
    assert example.replace("\n", "").encode() == sample.meta.to_json()
    if shutil.which("tar") is None:
        pytest.skip("there is no tar here")
    info = write_shard(tmp_path, "synthetic", "train", 0, sample)
    listed = subprocess.run(
        ["tar", "tvf", shard_path(tmp_path, info.name)],
        capture_output=True,
        text=True,
        env=os.environ | {"TZ": "UTC", "LC_ALL": "C"},
        check=True,
    )
    assert listed.stdout in FORMAT
