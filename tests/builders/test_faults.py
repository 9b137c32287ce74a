"""Everything that can go wrong on one machine: each ends in the same bytes, or in one clear error with nothing lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpora import copied, hashes
from small import SMALL_RECIPE

from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.builders.status import status
from cdgen.errors import BuildError, UsageError
from cdgen.shards.verify import verify

Built = tuple[Path, Path, Report]


def kill_at_random_moments(built: Built, folder: Path, kills: int, seed: int) -> None:
    """kill -9 while a build runs, again and again; then let it finish, and compare."""
    recipe, out, _ = built
    command = [sys.executable, "-m", "cdgen", "build", str(recipe), "--out", str(folder / "out")]
    environment = {**os.environ, "CDGEN_CACHE": str(folder / "cache")}
    moments = random.Random(seed)
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.3, 6.0))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()

    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr
    assert killed > 0
    assert hashes(folder / "out") == hashes(out)
    assert list(verify(folder / "out").problems) == []
    assert not list((folder / "out").rglob(".tmp-*"))


def test_a_build_killed_at_10_moments_ends_in_the_same_bytes(built: Built, tmp_path: Path) -> None:
    """Wherever it was: reading, training, decoding, mixing."""
    kill_at_random_moments(built, tmp_path, kills=10, seed=5)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_builds_killed_at_50_moments_end_in_the_same_bytes(built: Built, tmp_path: Path) -> None:
    """Five builds of ten kills, so that every stage is met."""
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        kill_at_random_moments(built, tmp_path / str(number), kills=10, seed=100 + number)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB: too small for the corpus, large enough to begin."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_noticed_before_the_work(
    built: Built, small_disk: Path
) -> None:
    """One line with both numbers; no model was trained."""
    with pytest.raises(BuildError, match=r"needs about .*B, .*B are free; free some space"):
        build(built[0], small_disk / "out", cache=small_disk / "cache")

    assert not (small_disk / "cache/models").exists()


def test_a_disk_that_fills_up_is_one_line_and_the_build_goes_on_later(
    built: Built, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else fills it after the preflight; with room again, the same bytes."""
    out, cache = small_disk / "out", built[1].parent / "cache"
    monkeypatch.setattr("cdgen.builders.run.check_space", lambda *_: None)
    with pytest.raises(BuildError, match="No space left on device"):
        build(built[0], out, cache=cache)
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)

    build(built[0], out, cache=cache)

    assert hashes(out) == hashes(built[1])


def test_a_read_only_folder_is_one_line(built: Built, tmp_path: Path) -> None:
    """A mounted file system, since root may write anywhere else."""
    out = tmp_path / "out"
    out.mkdir()
    bound = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(out)], capture_output=True, check=False
    )
    if bound.returncode:
        pytest.skip("a read-only file system cannot be mounted here")
    try:
        with pytest.raises(BuildError, match="Read-only file system"):
            build(built[0], out)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)


def test_a_flipped_byte_is_found_by_verify_and_named(built: Built, tmp_path: Path) -> None:
    """A resume trusts sizes; verify trusts nothing. Removing the shard makes it anew."""
    recipe, out, _ = copied(built, tmp_path)
    before = hashes(out)
    shard = min(out.glob("data/synthetic/*.tar"))
    raw = bytearray(shard.read_bytes())
    raw[1500] ^= 1
    shard.write_bytes(raw)

    problems = [str(problem) for problem in verify(out).problems]
    assert any(shard.name in problem for problem in problems)

    shard.unlink()
    build(recipe, out, cache=built[1].parent / "cache")
    assert hashes(out) == before


@pytest.mark.parametrize("kind", ["real", "synthetic", "mixed"])
def test_a_lost_receipt_costs_its_shard_and_nothing_else(
    built: Built, tmp_path: Path, kind: str
) -> None:
    """What cannot be proved is made again, with the same bytes."""
    recipe, out, _ = copied(built, tmp_path)
    before = hashes(out)
    min((out / "work/receipts").glob(f"{kind}-train-*")).unlink()

    build(recipe, out, cache=built[1].parent / "cache")

    assert hashes(out) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}'])
def test_a_damaged_receipt_counts_as_lost(built: Built, tmp_path: Path, content: bytes) -> None:
    recipe, out, _ = copied(built, tmp_path)
    before = hashes(out)
    min((out / "work/receipts").glob("synthetic-*")).write_bytes(content)

    build(recipe, out, cache=built[1].parent / "cache")

    assert hashes(out) == before


def test_a_changed_source_makes_another_corpus_and_keeps_the_old_one(
    built: Built, tmp_path: Path
) -> None:
    """Its shards are moved to work/old; changing the file back gives the first bytes again."""
    recipe, out, _ = copied(built, tmp_path)
    before = hashes(out)
    tales = recipe.with_name("tales.txt")
    original = tales.read_bytes()
    tales.write_bytes(original + b"\nOne more tale. It is short.\n")

    build(recipe, out, cache=tmp_path / "cache")

    changed = hashes(out)
    assert not set(changed.values()) & {h for name, h in before.items() if name.startswith("data")}
    assert list(verify(out).problems) == []
    assert {p.name for p in out.glob("work/old/data/*/*.tar")} == {
        Path(name).name for name in before if name.startswith("data")
    }

    tales.write_bytes(original)
    build(recipe, out, cache=tmp_path / "cache")
    assert hashes(out) == before


def test_a_missing_source_is_one_line_with_its_place(built: Built, tmp_path: Path) -> None:
    recipe, out, _ = copied(built, tmp_path)
    before = hashes(out)
    recipe.with_name("tales.txt").unlink()

    with pytest.raises(
        UsageError, match=r"small.yaml:6:27: text.sources\[0\].path: no file .*tales.txt"
    ):
        build(recipe, out)

    assert hashes(out) == before


def test_a_clock_that_jumps_changes_nothing(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the bytes nor the status depend on the time of day."""
    jumps = iter(random.Random(3).choices([0.0, -1e6, 1e9, 17.0], k=100_000))
    monkeypatch.setattr("cdgen.builders.events.time.time", lambda: 1.7e9 + next(jumps))

    build(built[0], tmp_path / "out", cache=tmp_path / "cache")

    assert hashes(tmp_path / "out") == hashes(built[1])
    assert status(tmp_path / "out").state == "complete"


def test_pickled_weights_are_refused_with_advice(built: Built, tmp_path: Path) -> None:
    """Before anything is read from them."""
    recipe, out, _ = copied(built, tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    shutil.copy(out / "tokenizer/tokenizer.json", model)
    given = SMALL_RECIPE.replace(
        SMALL_RECIPE[SMALL_RECIPE.index("expert:") : SMALL_RECIPE.index("decode:")],
        "expert: {path: model}\namateur: {kind: none}\n",
    )
    recipe.write_text(given.replace("method: contrastive", "method: sample"), encoding="utf-8")

    with pytest.raises(UsageError, match=r"expert.path: no safetensors weights in .*; pickled"):
        build(recipe, tmp_path / "new")

    assert not (tmp_path / "owned").exists()
