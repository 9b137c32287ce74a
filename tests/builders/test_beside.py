"""Looking at shards and writing mixed ones in processes beside a build: the same bytes, whatever happens to them."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from kitchen import Kitchen, changed, tree

from cdgen import open_corpus
from cdgen.builders import mixing
from cdgen.builders.beside import MOST_PROCESSES, SMALL_TOKENS, Beside, num_processes
from cdgen.builders.profile import Profile
from cdgen.builders.run import build
from cdgen.errors import BuildError
from cdgen.mixing.traits import EvaluationFiles, Wanted, traits
from cdgen.processes import Processes, processors
from cdgen.shards.reader import MappedShard
from cdgen.shards.similarity import words
from cdgen.storage import Receipt

T = TypeVar("T")

ALL = (
    "filters: {min_tokens: 12, near_dedup: 0.6, contamination: {against: [items.jsonl], ngram: 5}}\n"
    "mix: {synthetic: 0.2, seed: 42}"
)


@pytest.fixture(scope="module")
def calm(kitchen: Kitchen) -> Path:
    """A build with every filter, all of it in its own process."""
    texts = [words(sample.text) for sample in open_corpus(kitchen.cd).samples("synthetic")]
    item = " ".join(max(texts, key=len)[2:8])
    (kitchen.home / "items.jsonl").write_text(json.dumps({"text": item}), encoding="utf-8")
    return kitchen.build("calm", changed(ALL))[0]


def local(processes: int) -> Profile:
    """The default builder with so many processes."""
    return Profile(version=1, name="here", engine="local", processes=processes)


def described(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus that a user gets; work/ has times in it."""
    return {name: data for name, data in tree(folder).items() if not name.startswith("work/")}


def test_a_build_with_processes_has_the_same_bytes(kitchen: Kitchen, calm: Path) -> None:
    """Shards, verdicts, findings, manifest: all files, whether it decodes or finds the decoding done."""
    recipe = kitchen.home / "calm.yaml"
    build(recipe, kitchen.home / "beside", cache=kitchen.home / "cache", profile=local(2))
    assert described(kitchen.home / "beside") == described(calm)

    resumed = kitchen.with_decoded("beside-resumed")
    build(recipe, resumed, cache=kitchen.home / "cache", profile=local(1))
    assert described(resumed) == described(calm)


def test_processes_that_are_killed_cost_nothing_but_time(
    kitchen: Kitchen, calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, again and again, at whatever it does."""
    taken: list[int] = []

    class Killed(Processes):
        def submit(self, job: Callable[..., T], *arguments: Any) -> "Future[T]":
            for child in self._children[-1:]:
                child._process.kill()
                taken.append(child._process.pid)
            return super().submit(job, *arguments)

    monkeypatch.setattr(mixing, "Processes", Killed)
    out = kitchen.home / "killed"
    build(kitchen.home / "calm.yaml", out, cache=kitchen.home / "cache", profile=local(1))

    assert taken and described(out) == described(calm)


def test_the_looks_begin_while_it_decodes(
    kitchen: Kitchen, calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At real text before the first token is drawn, at every shard when it is delivered."""
    begun: list[str] = []
    begin = Beside.begin

    def noted(self: Beside, *receipts: Receipt) -> None:
        begun.extend(receipt.name for receipt in receipts)
        begin(self, *receipts)

    monkeypatch.setattr(Beside, "begin", noted)
    out = kitchen.home / "early"
    build(kitchen.home / "calm.yaml", out, cache=kitchen.home / "cache", profile=local(1))
    shards = sorted(path.name for path in out.glob("data/synthetic/*.tar"))
    real = sorted(path.name for path in out.glob("data/real/real-train-*.tar"))

    # At the end all once more: those that came from an object store are there only then.
    assert begun == [*real, *shards, *shards] and len(shards) > 1


def test_a_damaged_shard_stops_the_build_with_one_line(
    kitchen: Kitchen, calm: Path, tmp_path: Path
) -> None:
    """Found by another process, told by this one; nothing is mixed."""
    recipe, out = kitchen.home / "calm.yaml", tmp_path / "damaged"
    build(recipe, out, cache=kitchen.home / "cache")
    shutil.rmtree(out / "data/mixed")
    for path in (out / "index").glob("[vc]*.parquet"):  # verdicts and findings
        path.unlink()
    (out / "manifest.json").unlink()
    shard = min(out.glob("data/synthetic/*.tar"))
    data = bytearray(shard.read_bytes())
    data[512 + 2] = 0xFF  # after a tar header; no UTF-8
    shard.write_bytes(data)

    with pytest.raises(BuildError, match=f"{shard.name}: row 0: the text is not UTF-8"):
        build(recipe, out, cache=kitchen.home / "cache", profile=local(1))
    assert not list(out.glob("data/mixed/*.tar"))


def test_a_look_is_the_same_in_another_process(kitchen: Kitchen, calm: Path) -> None:
    wanted = Wanted(
        signatures=True,
        evaluation=EvaluationFiles((("items", kitchen.home / "items.jsonl", None),), 5),
    )
    paths = sorted(calm.glob("data/synthetic/*.tar")) + sorted(calm.glob("data/real/*.tar"))
    with Processes(2) as processes:
        others = Beside(processes, wanted, calm)
        for path in paths:
            here, there = traits(MappedShard(path), wanted), others.traits(MappedShard(path))
            assert here.repetition_S.tolist() == there.repetition_S.tolist()
            assert here.signatures_SK.tolist() == there.signatures_SK.tolist()
            assert isinstance(there.findings, pa.Table) and here.findings.equals(there.findings)


def test_small_corpora_begin_no_process_and_large_ones_what_the_machine_allows() -> None:
    """A profile's word goes first; many samples take memory in each process."""

    def number(profile: Profile | None, tokens: int, samples: int) -> int:
        return num_processes(profile, num_tokens=tokens, num_samples=samples)

    assert number(None, SMALL_TOKENS - 1, 10) == 0
    assert number(None, SMALL_TOKENS, 10) == min(processors(), MOST_PROCESSES)
    assert number(local(0), SMALL_TOKENS, 10) == 0
    assert number(local(3), 1, 10) == 3
    assert number(None, 10**12, 3 * 10**9) == 1
