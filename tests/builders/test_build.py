"""A recipe is a pure function from inputs to a corpus: the same bytes however often, and however interrupted."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from corpora import copied, hashes, stages
from small import SMALL_RECIPE

from cdgen import open_corpus
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.builders.status import status
from cdgen.errors import BuildError, UsageError
from cdgen.progress import Advance, Quiet
from cdgen.shards.verify import verify
from cdgen.storage import hold


def test_a_calm_build_passes_verification(built: tuple[Path, Path, Report]) -> None:
    """Hashes, counts, keys, provenance, splits and the realised share."""
    _, out, report = built

    assert list(verify(out).problems) == []
    assert report.num_real_tokens > 0 and report.num_synthetic_tokens > 0
    assert not report.up_to_date


def test_two_cold_builds_give_the_same_bytes(
    built: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    """Shards, indexes and manifest, with nothing shared but the recipe."""
    recipe, out, _ = built

    build(recipe, tmp_path / "again", cache=tmp_path / "cache")

    assert hashes(tmp_path / "again") == hashes(out)


def test_a_repeated_build_does_nothing(built: tuple[Path, Path, Report]) -> None:
    """It says what is there, and writes no event."""
    recipe, out, report = built
    before = (out / "work/events.jsonl").read_bytes()

    again = build(recipe, out, cache=out.parent / "cache")

    assert again.up_to_date and again.manifest_digest == report.manifest_digest
    assert (out / "work/events.jsonl").read_bytes() == before


@pytest.mark.parametrize("stage", ["train expert", "decode", "mix"])
def test_a_build_that_stops_in_a_stage_goes_on_from_there(
    built: tuple[Path, Path, Report], tmp_path: Path, stage: str
) -> None:
    """An exception at the middle of each long stage, then the same bytes; training is not begun anew."""
    recipe, out, _ = built

    with pytest.raises(InterruptedError):
        build(recipe, tmp_path / "out", cache=tmp_path / "cache", progress=_Stops(stage, after=6))
    build(recipe, tmp_path / "out", cache=tmp_path / "cache")

    assert hashes(tmp_path / "out") == hashes(out)
    assert stages(tmp_path / "out").count("train expert") == (2 if stage == "train expert" else 1)


class _Stops:
    """A listener that fails in a stage, after some calls."""

    def __init__(self, stage: str, *, after: int) -> None:
        self._stage, self._left = stage, after

    def say(self, line: str) -> None:
        pass

    def heard(self, event: object) -> None:
        pass

    def stage(self, name: str, *, total: int | None, unit: str) -> "_Stops._Stage":
        return self._Stage(self, name == self._stage)

    class _Stage:
        def __init__(self, outer: "_Stops", counts: bool) -> None:
            self._outer, self._counts = outer, counts

        def __enter__(self) -> "_Stops._Stage":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def __call__(self, amount: int = 1, *, note: str = "") -> None:
            if self._counts:
                self._outer._left -= 1
                if self._outer._left == 0:
                    raise InterruptedError


def test_a_shard_that_was_put_aside_in_the_last_moment_is_in_no_manifest(
    built: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    """By a copy of its job that came late, with other bytes: the mix is already made."""
    recipe, out, _ = copied(built, tmp_path)
    (out / "manifest.json").unlink()
    shard = min(out.glob("data/synthetic/*.tar"))
    with pytest.raises(BuildError, match=rf"{shard.name}: is not there any more as it was made"):
        build(recipe, out, cache=built[1].parent / "cache", progress=_AtTheEnd("mix", shard.unlink))
    assert not (out / "manifest.json").exists()

    build(recipe, out, cache=built[1].parent / "cache")

    assert hashes(out) == hashes(built[1])


class _AtTheEnd(Quiet):
    """Does something when a stage ends."""

    def __init__(self, stage: str, act: Callable[[], object]) -> None:
        self._stage, self._act = stage, act

    @contextmanager
    def stage(self, name: str, *, total: int | None, unit: str) -> Iterator[Advance]:
        with super().stage(name, total=total, unit=unit) as advance:
            yield advance
        if name == self._stage:
            self._act()


def test_another_ratio_decodes_nothing_again(
    built: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    """Only the mix is made anew; the old mixed shards are moved aside."""
    recipe, out, _ = copied(built, tmp_path)
    before = hashes(out)
    recipe.write_text(SMALL_RECIPE.replace("synthetic: 0.3", "synthetic: 0.2"), encoding="utf-8")

    report = build(recipe, out, cache=built[1].parent / "cache")

    assert report.nominal_share == 0.2 and abs(report.realised_share - 0.2) < 0.01
    assert stages(out)[-1:] == ["mix"] and stages(out).count("decode") == 1
    after = hashes(out)
    assert {
        n: h for n, h in after.items() if "mixed" not in n and n != "manifest.json"
    }.items() <= before.items()
    assert {Path(name).name for name in before if "data/mixed" in name} == {
        p.name for p in out.glob("work/old/data/mixed/*.tar")
    }
    assert list(verify(out).problems) == []


def test_another_lambda_trains_nothing_again(
    built: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    """The expert comes from the cache; other tokens are drawn."""
    recipe, out, _ = copied(built, tmp_path)
    recipe.write_text(SMALL_RECIPE.replace("lambda: 1.0", "lambda: 0.5"), encoding="utf-8")

    report = build(recipe, out, cache=built[1].parent / "cache")

    assert stages(out).count("train expert") == 1 and stages(out).count("decode") == 2
    assert report.manifest_digest != built[2].manifest_digest
    assert list(verify(out).problems) == []


def test_a_second_build_in_the_folder_says_who_holds_it(built: tuple[Path, Path, Report]) -> None:
    """And stops, without touching anything."""
    recipe, out, _ = built
    before = hashes(out)

    with hold(out, "a test"), pytest.raises(BuildError, match=rf"process {os.getpid()}\b"):
        build(recipe, out)

    assert hashes(out) == before


def test_a_lost_shard_is_made_again_with_the_same_bytes(
    built: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    """The files are the truth: one that is missing or cut is not believed by its receipt."""
    recipe, out, _ = copied(built, tmp_path)
    before = hashes(out)
    lost = sorted(out.glob("data/synthetic/*.tar"))
    lost[0].unlink()
    lost[1].write_bytes(lost[1].read_bytes()[:1000])
    next(out.glob("data/mixed/*.tar")).unlink()

    build(recipe, out, cache=built[1].parent / "cache")

    assert hashes(out) == before


def test_too_few_prefixes_are_counted_before_any_training(
    small_recipe: Path, tmp_path: Path
) -> None:
    """The message says how many are missing and what to raise."""
    small_recipe.write_text(
        SMALL_RECIPE.replace("synthetic: 0.3", "synthetic: 0.9"), encoding="utf-8"
    )

    with pytest.raises(
        BuildError, match=r"about \d+ more prefixes are missing; raise text.splits.prefix"
    ):
        build(small_recipe, tmp_path / "out", cache=tmp_path / "cache")

    assert "train expert" not in stages(tmp_path / "out")
    seen = status(tmp_path / "out")
    assert seen.state == "failed" and "raise text.splits.prefix" in seen.why


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt(), ("interrupted", "")),
        (ZeroDivisionError("a bug\nof ours"), ("failed", "ZeroDivisionError: a bug of ours")),
    ],
)
def test_status_tells_an_interrupt_from_an_error(
    small_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    told: tuple[str, str],
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr("cdgen.builders.run.model_stage", stop)

    with pytest.raises(type(error)):
        build(small_recipe, tmp_path / "out", cache=tmp_path / "cache")

    seen = status(tmp_path / "out")
    assert (seen.state, seen.why) == told


def test_a_folder_that_is_no_corpus_is_left_alone(small_recipe: Path, tmp_path: Path) -> None:
    """Nothing is written beside somebody's files."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("dear", encoding="utf-8")

    with pytest.raises(
        UsageError,
        match="holds files that are not a cdgen corpus; choose another folder with --out",
    ):
        build(small_recipe, tmp_path / "home")

    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_a_folder_that_ray_deletes_after_a_job_is_refused(
    small_recipe: Path, tmp_path: Path
) -> None:
    """`test_ray_doors.py` has a real one."""
    out = tmp_path / "_ray_pkg_029f88d5/shards/small"

    with pytest.raises(UsageError, match="copy of a working directory that Ray made for a job"):
        build(small_recipe, out)

    assert not out.exists()


def test_another_numeric_class_stops_the_build(
    built: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    """Shards that another machine decoded are not mixed with this one's unless the user accepts it."""
    recipe, out, _ = copied(built, tmp_path)
    from cdgen.storage import Receipt, read_receipts, write_receipt

    receipts = [
        r for r in read_receipts(out / "work/receipts").values() if r.name.startswith("synthetic")
    ]
    first = receipts[0]
    fields = {name: getattr(first, name) for name in Receipt.__slots__}
    write_receipt(
        out / "work/receipts",
        Receipt(**{**fields, "numeric_class": {**first.numeric_class, "device": "abacus"}}),
    )
    (out / "manifest.json").unlink()

    with pytest.raises(
        BuildError, match=r"another numeric class .device abacus, here .*--accept-class"
    ):
        build(recipe, out, cache=built[1].parent / "cache")
    build(recipe, out, cache=built[1].parent / "cache", accept_class=True)

    assert {c["device"] for c in open_corpus(out).manifest.numeric_classes} > {"abacus"}


def test_provenance_says_where_every_sample_came_from(built: tuple[Path, Path, Report]) -> None:
    """Text is cut from its parent at the bytes named; a kept prefix is the beginning of the sample."""
    recipe, out, _ = built
    parents = {
        hashlib.sha256(f"tales\0{text}".encode()).hexdigest()[:24] + "-0": text.encode()
        for text in documents(recipe)
    }
    corpus = open_corpus(out)

    for sample in corpus.samples("real"):
        assert (
            parents[sample.meta.document][sample.meta.start : sample.meta.end].decode()
            == sample.text
        )
    firsts = [sample for sample in corpus.samples("synthetic") if sample.meta.part == 0]
    assert firsts
    for sample in firsts:
        prefix = parents[sample.meta.document][sample.meta.start : sample.meta.end].decode()
        assert sample.text.startswith(prefix) and sample.meta.prefix_tokens == 8


def documents(recipe: Path) -> list[str]:
    """The recipe's documents."""
    return recipe.with_name("tales.txt").read_text(encoding="utf-8").rstrip("\n").split("\n\n")


def test_the_completions_of_a_prefix_differ(built: tuple[Path, Path, Report]) -> None:
    """Their random keys differ too (the trap of seeding by prefix alone)."""
    first = [
        sample for sample in open_corpus(built[1]).samples("synthetic") if sample.meta.part == 0
    ]
    by_prefix: dict[str, list[bytes]] = {}
    for sample in first:
        by_prefix.setdefault(f"{sample.meta.document}:{sample.meta.start}", []).append(
            sample.ids.tobytes()
        )

    assert all(len(set(drawn)) == len(drawn) for drawn in by_prefix.values() if len(drawn) > 1)
    assert len({sample.meta.rng_key for sample in first}) == len(first)


def test_ids_are_what_a_trainer_consumes(built: tuple[Path, Path, Report]) -> None:
    """BOS first everywhere; EOS last if and only if the document ended."""
    corpus = open_corpus(built[1])
    for kind in ("real", "synthetic", "mixed"):
        for sample in corpus.samples(kind):
            ids = sample.ids.astype(np.int64)
            assert ids[0] == 0
            assert (ids[-1] == 1) == (not sample.meta.truncated)
            assert not (ids[:-1] == 1).any()


def test_mixed_shards_hold_the_share_at_every_prefix(built: tuple[Path, Path, Report]) -> None:
    """At every document boundary, within the bound of fair queueing."""
    samples = list(open_corpus(built[1]).samples("mixed"))
    tokens = np.array([sample.meta.num_tokens for sample in samples])
    synthetic = np.array([sample.meta.source == "synthetic" for sample in samples])
    error = np.cumsum(tokens * synthetic) - 0.3 * np.cumsum(tokens)

    assert error.max() <= 0.7 * tokens[synthetic].max()
    assert error.min() >= -0.3 * tokens[~synthetic].max()
