"""Evaluation sets in a build: found in real and synthetic text, dropped, flagged or counted, and verified."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from corpora import stages
from kitchen import Kitchen, hashes

from cdgen import mix, open_corpus
from cdgen.builders.report import Report
from cdgen.errors import UsageError
from cdgen.shards.findings import read_findings
from cdgen.shards.manifest import ContaminationInfo, read_manifest
from cdgen.shards.similarity import words
from cdgen.shards.verify import verify

SECTION = (
    "filters: {{min_tokens: 4, contamination: {{against: [{sets}], ngram: 5, action: {action}}}}}\n"
)


def build(
    kitchen: Kitchen, name: str, action: str, sets: str = "blimp.jsonl"
) -> tuple[Path, Report]:
    """The small recipe, searched."""
    section = SECTION.format(sets=sets, action=action)
    return kitchen.build(name, ("mix: {synthetic: 0.3", section + "mix: {synthetic: 0.1"))


@pytest.fixture(scope="module")
def evaluation(kitchen: Kitchen) -> Path:
    """Items of which some stand in real and in synthetic text: cut from the corpus that was built before."""
    lines = []
    for kind in ("real", "synthetic"):
        texts = [words(sample.text) for sample in open_corpus(kitchen.cd).samples(kind)]
        long = [text for text in texts if len(text) > 12]
        lines += [json.dumps({"sentence_good": " ".join(text[2:8]).title()}) for text in long[:2]]
    path = kitchen.home / "blimp.jsonl"
    path.write_text("\n".join([*lines, '{"sentence_good": "Nobody wrote quixotic zebras here"}']))
    return path


@pytest.fixture(scope="module")
def dropped(kitchen: Kitchen, evaluation: Path) -> tuple[Path, Report]:
    """Contaminated synthetic samples are left out."""
    return build(kitchen, "searched", "drop")


def searched(out: Path) -> ContaminationInfo:
    """The manifest's word on the search."""
    filters = read_manifest(out).filters
    assert filters is not None and filters.contamination is not None
    return filters.contamination


def test_what_holds_an_item_is_listed_and_kept_out_of_the_mix(dropped: tuple[Path, Report]) -> None:
    """The words that the findings name are the item's own, and no other synthetic sample has them."""
    out, _ = dropped
    info = searched(out)
    rows = read_findings(out / "index" / info.findings.name).to_pylist()
    samples = {s.key: s for kind in ("real", "synthetic") for s in open_corpus(out).samples(kind)}
    mixed = {sample.key for sample in open_corpus(out).samples("mixed")}
    synthetic = {row["key"] for row in rows if row["source"] == "synthetic"}

    assert info.sets[0].num_real >= 2 and info.sets[0].num_synthetic == len(synthetic) >= 2
    for row in rows:
        found = words(samples[row["key"]].text)[row["begin"] : row["begin"] + row["num_words"]]
        assert len(found) == 5
    assert not synthetic & mixed
    assert read_manifest(out).dropped["contamination"] == len(synthetic)
    assert list(verify(out, workers=2).problems) == []


def test_real_text_is_listed_and_stays(dropped: tuple[Path, Report]) -> None:
    out, _ = dropped
    rows = read_findings(out / "index" / searched(out).findings.name).to_pylist()
    mixed = {sample.key for sample in open_corpus(out).samples("mixed")}

    assert {row["key"] for row in rows if row["source"] == "real"} <= mixed


@pytest.mark.parametrize("action", ["flag", "keep"])
def test_flag_and_keep_leave_everything_in(
    kitchen: Kitchen, dropped: tuple[Path, Report], action: str
) -> None:
    out, _ = build(kitchen, f"searched-{action}", action)

    assert searched(out).sets == searched(dropped[0]).sets
    assert read_manifest(out).dropped["contamination"] == 0
    assert searched(out).findings == searched(dropped[0]).findings
    assert ("Careful" in (out / "README.md").read_text()) == (action == "flag")
    assert list(verify(out).problems) == []


def test_another_mix_needs_neither_the_sets_nor_another_search(
    kitchen: Kitchen, dropped: tuple[Path, Report], tmp_path: Path
) -> None:
    """And equals a build at that share."""
    out, _ = dropped
    moved = kitchen.home / "blimp.jsonl"
    hidden = moved.rename(kitchen.home / "hidden")
    try:
        mix(out, tmp_path / "again", synthetic=0.05)
    finally:
        hidden.rename(moved)
    section = SECTION.format(sets="blimp.jsonl", action="drop")
    direct, _ = kitchen.build("direct", ("mix: {synthetic: 0.3", section + "mix: {synthetic: 0.05"))

    assert hashes(tmp_path / "again", "mixed") == hashes(direct, "mixed")
    assert read_manifest(tmp_path / "again").filters == read_manifest(direct).filters
    assert list(verify(tmp_path / "again").problems) == []


def test_the_digest_goes_by_what_a_set_says(kitchen: Kitchen, dropped: tuple[Path, Report]) -> None:
    """Another path with the same name and content is the same corpus; another item is not."""
    folder = kitchen.home / "another-place"
    folder.mkdir()
    (folder / "blimp.jsonl").write_text((kitchen.home / "blimp.jsonl").read_text())
    same = "{path: another-place/blimp.jsonl, name: blimp-jsonl}"
    first, _ = build(kitchen, "same", "drop", same)
    (folder / "blimp.jsonl").write_text('{"text": "nothing of the kind"}\n')
    second, _ = build(kitchen, "other", "drop", same)

    digest = read_manifest(dropped[0]).digests["mix"]
    assert read_manifest(first).digests["mix"] == digest != read_manifest(second).digests["mix"]


def test_a_finished_search_is_not_done_again(
    kitchen: Kitchen, dropped: tuple[Path, Report]
) -> None:
    out, _ = dropped
    before = stages(out).count("search")
    (out / "manifest.json").unlink()
    build(kitchen, "searched", "drop")

    assert stages(out).count("search") == before


def test_changed_findings_are_found(
    kitchen: Kitchen, dropped: tuple[Path, Report], tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    mix(dropped[0], out, synthetic=0.1)
    path = out / "index" / searched(out).findings.name
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)

    problems = [problem.what for problem in verify(out).problems]
    assert any("SHA-256" in what for what in problems)
    assert any("in the manifest" in what for what in problems)


def test_a_set_that_cannot_be_read_is_named_before_any_work(kitchen: Kitchen) -> None:
    with pytest.raises(
        UsageError, match=r"broken\.yaml:\d+:\d+: filters\.contamination\.against\[0\]: .*missing"
    ):
        build(kitchen, "broken", "drop", "missing.jsonl")

    assert not (kitchen.home / "broken").exists()


def test_two_sets_of_one_name_are_refused(kitchen: Kitchen) -> None:
    with pytest.raises(UsageError, match="two evaluation sets are called blimp-jsonl"):
        build(kitchen, "twice", "drop", "a/blimp.jsonl, b/blimp.jsonl")
