"""Near-duplicates in a build: dropped, named, verified."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kitchen import Kitchen, changed

from cdgen import mix, open_corpus
from cdgen.shards.manifest import read_manifest
from cdgen.shards.similarity import resemblance, shingles
from cdgen.shards.verdicts import read_verdicts
from cdgen.shards.verify import verify

THRESHOLD = 0.4


@pytest.fixture(scope="module")
def near(kitchen: Kitchen) -> Path:
    """Completions so short that those of one prefix are nearly the same."""
    section = f"filters: {{near_dedup: {THRESHOLD}}}\n"
    short = (
        "prefix_tokens: 8, completions: 6, new_tokens: 48",
        "prefix_tokens: 40, completions: 6, new_tokens: 8",
    )
    return kitchen.build("near", short, changed(section + "mix: {synthetic: 0.05, seed: 42}"))[0]


def verdicts(out: Path) -> list[dict[str, object]]:
    """The rows of a corpus's verdicts."""
    manifest = read_manifest(out)
    assert manifest.filters is not None
    path = out / "index" / manifest.filters.verdicts.name
    rows: list[dict[str, object]] = read_verdicts(path, manifest.digests["mix"]).to_pylist()
    return rows


def test_a_near_duplicate_is_dropped_for_one_that_stays(near: Path) -> None:
    rows = {str(row["key"]): row for row in verdicts(near)}
    texts = {s.key: s.text for s in open_corpus(near).samples("real")}
    short = {s.key: s.text for s in open_corpus(near).samples("synthetic")}
    dropped = [row for row in rows.values() if row["reason"] == "near_dedup"]

    assert len(dropped) == read_manifest(near).dropped["near_dedup"] > 0
    for row in dropped:
        twin = str(row["duplicate_of"])
        assert twin in texts or rows[twin]["kept"]
        alike = resemblance(shingles({**texts, **short}[twin]), shingles(short[str(row["key"])]))
        assert alike >= THRESHOLD
    assert list(verify(near, workers=2).problems) == []


def test_a_verdict_that_names_another_twin_is_found(near: Path, tmp_path: Path) -> None:
    """As is one that drops what has no twin."""
    mix(near, tmp_path / "copy", synthetic=0.04)
    out = tmp_path / "copy"
    filters = read_manifest(out).filters
    assert filters is not None
    path = out / "index" / filters.verdicts.name
    table = pq.read_table(path)
    rows = table.to_pylist()
    dropped = next(row for row in rows if row["reason"] == "near_dedup")
    twin = dropped["duplicate_of"]
    kept = [row for row in rows if row["kept"] and row["key"] != twin][-1]
    dropped["duplicate_of"] = kept["key"]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)

    problems = [(problem.key, problem.what) for problem in verify(out).problems]

    assert any(key == dropped["key"] and "the verdict differs" in what for key, what in problems)
