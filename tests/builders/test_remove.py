"""`cdgen remove`: documents and all that continues them leave a finished corpus; everything else stays as it was."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kitchen import Kitchen, changed, tree

import cdgen
from cdgen import open_corpus
from cdgen.builders import rest as module
from cdgen.builders.plan import plan
from cdgen.builders.remix import mix
from cdgen.builders.remove import listed, remove
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.builders.trace import replay
from cdgen.errors import BuildError, UsageError
from cdgen.mixing.remaining import remaining_mix
from cdgen.reports.difference import difference
from cdgen.reports.removal import remove_text
from cdgen.shards import removing
from cdgen.shards.manifest import Mix, MixPart, read_manifest
from cdgen.shards.sample import Sample
from cdgen.shards.verify import verify

KINDS = (("real", "train"), ("real", "eval"), ("synthetic", "train"), ("mixed", "train"))


def everything(folder: Path) -> dict[tuple[str, str], list[Sample]]:
    """Every sample by kind and split, in order."""
    corpus = open_corpus(folder)
    return {which: list(corpus.samples(*which)) for which in KINDS}


def documents(folder: Path, kind: str, split: str = "train") -> list[str]:
    """The documents that a kind of samples comes from."""
    return sorted({sample.meta.document for sample in open_corpus(folder).samples(kind, split)})


def names(folder: Path) -> dict[str, str]:
    """SHA-256 by shard name."""
    return {shard.name: shard.sha256 for shard in read_manifest(folder).shards}


def some(folder: Path) -> list[str]:
    """A real, an eval and two prefix documents."""
    real, held_out = documents(folder, "real"), documents(folder, "real", "eval")
    return [real[3], held_out[0], *documents(folder, "synthetic")[:2]]


@pytest.fixture
def removed(kitchen: Kitchen, tmp_path: Path) -> tuple[list[str], Path]:
    """(documents, a corpus without them)."""
    gone = some(kitchen.cd)
    remove(kitchen.cd, tmp_path / "removed", gone)
    return gone, tmp_path / "removed"


def test_nothing_of_the_documents_is_left_and_all_else_is_as_it_was(
    kitchen: Kitchen, removed: tuple[list[str], Path]
) -> None:
    """In the same order; the old corpus is not touched."""
    gone, folder = removed
    before, after = everything(kitchen.cd), everything(folder)
    for which in KINDS:
        assert after[which] == [s for s in before[which] if s.meta.document not in gone]
        assert len(after[which]) < len(before[which])
    assert verify(folder).problems == ()
    assert verify(kitchen.cd).problems == ()
    for data in (b for n, b in tree(folder).items() if n.startswith(("data/", "index/"))):
        assert not any(document.encode() in data for document in gone)


def test_a_name_stands_for_one_content(kitchen: Kitchen, removed: tuple[list[str], Path]) -> None:
    """Shards that lost nothing are the same files; no name of the old corpus means other bytes in the new one."""
    _, folder = removed
    old, new = names(kitchen.cd), names(folder)
    assert not {name for name in old.keys() & new.keys() if old[name] != new[name]}
    linked = {sha: name for name, sha in old.items() if sha in new.values()}
    assert linked, "some shard lost nothing"
    for name, sha in new.items():
        if sha in linked:
            kind = name.split("-")[0]
            first, second = kitchen.cd / "data" / kind / linked[sha], folder / "data" / kind / name
            assert first.samefile(second)


def test_the_manifest_says_what_went_and_from_where(
    kitchen: Kitchen, removed: tuple[list[str], Path]
) -> None:
    gone, folder = removed
    old, new = read_manifest(kitchen.cd), read_manifest(folder)
    assert new.removed is not None
    assert (new.removed.documents, new.removed.source) == (tuple(sorted(gone)), old.digest)
    assert {k: v for k, v in new.digests.items() if k != "mix"} == {
        k: v for k, v in old.digests.items() if k != "mix"
    }
    samples = sum(
        len(everything(f)[w]) * sign
        for f, sign in ((kitchen.cd, 1), (folder, -1))
        for w in KINDS[:3]
    )
    assert new.dropped["removed"] == samples
    real = list(open_corpus(folder).samples("real"))
    assert sum(s.num_documents for s in new.sources) == len(real)
    assert sum(s.num_tokens for s in new.sources) == sum(len(s.ids) for s in real)


def test_an_interrupted_removal_goes_on_to_the_same_bytes(
    kitchen: Kitchen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = some(kitchen.cd)
    remove(kitchen.cd, tmp_path / "whole", gone)
    writes = []

    def stop(*args: object) -> object:
        writes.append(args)
        if len(writes) == 3:
            raise KeyboardInterrupt
        return module_write(*args)  # type: ignore[arg-type]

    module_write = removing.write_rest
    monkeypatch.setattr(module, "write_rest", stop)
    with pytest.raises(KeyboardInterrupt):
        remove(kitchen.cd, tmp_path / "again", gone)
    assert not (tmp_path / "again/manifest.json").exists()
    monkeypatch.undo()
    remove(kitchen.cd, tmp_path / "again", reversed(gone))
    remove(kitchen.cd, tmp_path / "again", gone)
    assert tree(tmp_path / "again") == tree(tmp_path / "whole")


def test_the_rest_can_be_streamed_mixed_compared_and_replayed(
    kitchen: Kitchen,
    removed: tuple[list[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone, folder = removed
    plain, full = (_blocks(one) for one in (folder, kitchen.cd))
    assert 0 < plain < full
    report = mix(folder, tmp_path / "mixed", synthetic=0.2)
    assert verify(tmp_path / "mixed").problems == ()
    assert report.realised_share == pytest.approx(0.2, abs=0.05)
    assert not {s.meta.document for s in open_corpus(tmp_path / "mixed").samples()} & set(gone)
    assert read_manifest(tmp_path / "mixed").removed.documents == tuple(sorted(gone))  # type: ignore[union-attr]
    assert not difference(kitchen.cd, folder).same
    monkeypatch.setenv("CDGEN_CACHE", str(kitchen.home / "cache"))
    again = replay(folder, 4)
    assert again.num_tokens and again.differences == ()


def _blocks(folder: Path) -> int:
    """How many blocks are streamed."""
    return sum(1 for _ in cdgen.stream(open_corpus(folder), block=64, seed=0))


def test_a_mix_after_a_removal_never_has_a_name_of_the_mix_before_it(
    kitchen: Kitchen, removed: tuple[list[str], Path], tmp_path: Path
) -> None:
    """Nor two removals, in either order of mixing and removing."""
    _, folder = removed
    other = documents(folder, "synthetic")[:1]
    mix(folder, tmp_path / "mixed", synthetic=0.3)
    remove(tmp_path / "mixed", tmp_path / "mixed-removed", other)
    remove(folder, tmp_path / "twice", other)
    found: dict[str, str] = {}
    for one in (
        kitchen.cd,
        folder,
        tmp_path / "mixed",
        tmp_path / "mixed-removed",
        tmp_path / "twice",
    ):
        assert verify(one).problems == ()
        for name, sha in names(one).items():
            assert found.setdefault(name, sha) == sha
    mix(tmp_path / "twice", tmp_path / "last", synthetic=0.3)
    assert verify(tmp_path / "last").problems == ()


def test_filters_findings_and_other_corpora(filtered: tuple[Path, Report], tmp_path: Path) -> None:
    """A prefix of both decodings goes from both; the verdicts are those of what is left."""
    gone = documents(filtered[0], "synthetic")[:3]
    report = remove(filtered[0], tmp_path / "out", gone)
    assert verify(tmp_path / "out").problems == ()
    assert [part.source for part in report.parts][:2] == ["real", "synthetic"]
    assert _blocks(tmp_path / "out")
    mix(tmp_path / "out", tmp_path / "mixed", synthetic=0.1)
    assert verify(tmp_path / "mixed").problems == ()


def test_contamination_findings_lose_the_rows_and_need_no_sets(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    text = next(open_corpus(kitchen.cd).samples("synthetic")).text
    items = [" ".join(s.text.split()[:4]) for s in open_corpus(kitchen.cd).samples("real")][:6]
    (kitchen.home / "items.txt").write_text("\n".join([" ".join(text.split()[:4]), *items]))
    filters = "filters: {min_tokens: 1, near_dedup: 0.5, contamination: {against: [items.txt], action: drop}}\n"
    folder, _ = kitchen.build("searched", (changed("")[0], filters + changed("")[0]))
    (kitchen.home / "items.txt").unlink()
    found = read_manifest(folder).filters.contamination  # type: ignore[union-attr]
    assert found and found.sets[0].num_real
    remove(folder, tmp_path / "out", some(folder))
    assert verify(tmp_path / "out").problems == ()
    mix(tmp_path / "out", tmp_path / "mixed", synthetic=0.1)
    assert verify(tmp_path / "mixed").problems == ()


def test_a_mix_that_is_not_written_is_made_anew(kitchen: Kitchen, tmp_path: Path) -> None:
    mix(kitchen.cd, tmp_path / "without", synthetic=0.2, materialize=False)
    report = remove(tmp_path / "without", tmp_path / "out", some(kitchen.cd))
    assert not report.materialized and "mixed anew" in remove_text(report)
    assert verify(tmp_path / "out").problems == () and _blocks(tmp_path / "out")
    mix(tmp_path / "out", tmp_path / "with", synthetic=0.2, materialize=True)
    assert verify(tmp_path / "with").problems == ()


def test_a_shard_that_is_empty_goes_and_numbers_have_no_gap(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    entry = open_corpus(kitchen.cd).shards("synthetic")[0]
    corpus = open_corpus(kitchen.cd)
    first = {s.meta.document for s in corpus.samples("synthetic")} & set(
        _of(kitchen.cd, entry.name)
    )
    report = remove(kitchen.cd, tmp_path / "out", first)
    assert report.num_emptied >= 1
    assert verify(tmp_path / "out").problems == ()


def _of(folder: Path, shard: str) -> list[str]:
    from cdgen.shards.index import read_index
    from cdgen.shards.layout import index_path

    found: list[str] = read_index(index_path(folder, shard), ["document"])["document"].to_pylist()
    return found


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            ["ffffffffffffffffffffffff-0"],
            "holds nothing of 1 of 1 documents, such as ffffffffffffffffffffffff-0",
        ),
        (["nonsense"], "24 hex digits"),
        ([], "no document is named"),
    ],
)
def test_a_wrong_id_is_refused_and_nothing_is_written(
    kitchen: Kitchen, tmp_path: Path, wanted: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        remove(kitchen.cd, tmp_path / "out", wanted)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_removed_is_said(
    kitchen: Kitchen, removed: tuple[list[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="1 of them removed earlier"):
        remove(removed[1], tmp_path / "out", removed[0][:1])
    with pytest.raises(UsageError, match="nothing would be left of its synthetic train text"):
        remove(kitchen.cd, tmp_path / "out", documents(kitchen.cd, "synthetic"))
    with pytest.raises(UsageError, match="a local folder is needed"):
        remove("hf://datasets/someone/tales", tmp_path / "out", removed[0])
    with pytest.raises(UsageError, match="would change"):
        remove(kitchen.cd, kitchen.cd / "inside", removed[0])
    assert not (tmp_path / "out").exists()


def test_no_build_brings_removed_documents_back(
    kitchen: Kitchen, removed: tuple[list[str], Path], tmp_path: Path
) -> None:
    """Neither a build nor a mix into the folder; the same removal again, or a larger one, may."""
    gone, folder = removed
    before = tree(folder)
    with pytest.raises(UsageError, match=rf"{len(gone)} of them would come back; .* --out"):
        build(kitchen.home / "cd.yaml", folder, cache=kitchen.home / "cache")
    with pytest.raises(UsageError, match="would come back"):
        plan(kitchen.home / "cd.yaml", folder, cache=kitchen.home / "cache")
    with pytest.raises(UsageError, match="would come back"):
        mix(kitchen.cd, folder, synthetic=0.2)
    with pytest.raises(UsageError, match="1 of them would come back"):
        remove(kitchen.cd, folder, gone[1:])
    assert tree(folder) == before

    mix(folder, tmp_path / "mixed", synthetic=0.2)
    with pytest.raises(UsageError, match="would come back"):
        mix(kitchen.cd, tmp_path / "mixed", synthetic=0.3)
    mix(folder, tmp_path / "mixed", synthetic=0.3)
    remove(kitchen.cd, folder, [*gone, documents(kitchen.cd, "real")[0]])
    assert verify(folder).problems == ()


def test_a_damaged_shard_is_not_passed_on(kitchen: Kitchen, tmp_path: Path) -> None:
    shutil.copytree(kitchen.cd, tmp_path / "damaged")
    gone = some(kitchen.cd)
    path = max((tmp_path / "damaged/data/synthetic").glob("*.tar"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BuildError, match="run cdgen verify"):
        remove(tmp_path / "damaged", tmp_path / "out", gone)
    assert not (tmp_path / "out/manifest.json").exists()


def test_ids_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a-0\n\n  b-1 \n")
    assert listed(tmp_path / "ids") == ["a-0", "b-1"]
    with pytest.raises(UsageError, match="cannot be read"):
        listed(tmp_path / "none")


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_set_of_documents_can_go(
    kitchen: Kitchen, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    every = sorted({d for w in KINDS[:3] for d in documents(kitchen.cd, *w)})
    gone = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=len(every) // 2))
    out = tmp_path_factory.mktemp("any") / "out"
    for which in (("real", "train"), ("synthetic", "train")):
        if set(documents(kitchen.cd, *which)) <= set(gone):
            with pytest.raises(UsageError, match="nothing would be left"):
                remove(kitchen.cd, out, gone)
            return
    remove(kitchen.cd, out, gone)
    before, after = everything(kitchen.cd), everything(out)
    for which in KINDS:
        assert after[which] == [s for s in before[which] if s.meta.document not in gone]
    assert verify(out).problems == ()


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.integers(1, 3)), max_size=30),
    st.booleans(),
)
def test_the_errors_of_what_is_left_are_measured(
    rows: list[tuple[bool, int, int]], by_documents: bool
) -> None:
    """Against a loop over the documents."""
    unit = "documents" if by_documents else "tokens"
    blank = {
        "num_documents": 0,
        "num_tokens": 0,
        "num_passes": 0,
        "error_low": 0.0,
        "error_high": 0.0,
    }
    parts = tuple(
        MixPart(source=s, nominal=n, realised=0.0, **blank)  # type: ignore[arg-type]
        for s, n in (("real", 0.75), ("synthetic", 0.25))
    )
    mixed = Mix(
        nominal=0.25,
        realised=0.0,
        unit=unit,
        num_real_tokens=0,
        num_synthetic_tokens=0,
        parts=parts,
    )
    source = np.array(["synthetic" if synthetic else "real" for synthetic, _, _ in rows], object)
    tokens = np.array([count for _, count, _ in rows], np.int64)
    found = remaining_mix(mixed, source, tokens, np.array([use for *_, use in rows], np.int64))
    for part in found.parts:
        own = total = 0.0
        errors = [0.0]
        for synthetic, count, _ in rows:
            size = 1 if by_documents else count
            total += size
            own += size * (synthetic == (part.source == "synthetic"))
            errors.append(own - part.nominal * total)
        assert (part.error_low, part.error_high) == (min(errors), max(errors))
        assert part.num_units(unit) == own
        assert part.num_passes == max(
            (u for s, _, u in rows if s == (part.source == "synthetic")), default=0
        )
