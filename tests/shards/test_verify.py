import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import web_store
from typer.testing import CliRunner

from cdgen.builders import checking
from cdgen.cli import app
from cdgen.corpus import open_corpus
from cdgen.errors import UsageError
from cdgen.shards.index import read_index, write_index
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.manifest import read_manifest, write_manifest
from cdgen.shards.sample import Sample, real_key, synthetic_key
from cdgen.shards.verify import Report, verify
from shards.corpus_maker import (
    DIGESTS,
    document_of,
    program,
    real_sample,
    remake,
    synthetic_sample,
)

REAL = shard_name("real", "train", DIGESTS["text"], 0)
REAL_1 = shard_name("real", "train", DIGESTS["text"], 1)
EVAL = shard_name("real", "eval", DIGESTS["text"], 0)
SYNTHETIC = shard_name("synthetic", "train", DIGESTS["decode"], 0)
SYNTHETIC_1 = shard_name("synthetic", "train", DIGESTS["decode"], 1)
MIXED = shard_name("mixed", "train", DIGESTS["mix"], 0)


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in verify(folder).problems]


def assert_only(folder: Path, *wanted: str) -> None:
    """Every problem is one of `wanted`, and all of them are there."""
    found = problems(folder)
    assert all("\n" not in line for line in found)
    for text in wanted:
        assert any(text in line for line in found), (text, found)
    odd = [line for line in found if not any(text in line for text in wanted)]
    assert odd == []


def test_a_whole_corpus_has_no_problems_and_is_counted(corpus: Path) -> None:
    seen: list[int] = []
    report = verify(corpus, progress=seen.append)
    assert report.problems == ()
    assert report.ok
    manifest = read_manifest(corpus)
    assert report.counts["num_shards"] == len(manifest.shards) == len(seen)
    assert report.counts["num_bytes"] == sum(seen) == sum(s.num_bytes for s in manifest.shards)
    assert report.counts["num_tokens"] == sum(s.num_tokens for s in manifest.shards)
    assert report.counts["mixed_train_samples"] == manifest.totals["mixed-train"]["num_samples"]


def edit(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = shard_path(folder, name)
    path.write_bytes(change(path.read_bytes()))


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_every_flipped_byte_is_found(broken: Path) -> None:
    """One bit anywhere in a sample: header, text, JSON, ids, padding, end mark."""
    good = shard_path(broken, SYNTHETIC).read_bytes()
    row = read_index(index_path(broken, SYNTHETIC)).to_pylist()[0]
    places = [0, 130, 511, row["txt_offset"], row["json_offset"] + 30, row["npy_offset"] + 3]
    places += [row["npy_offset"] + 131, row["length"] - 1, len(good) - 1]
    for place in places:
        edit(broken, SYNTHETIC, flip(place))
        found = problems(broken)
        assert any("SHA-256" in line for line in found), place
        assert any(line.startswith(SYNTHETIC.split(".")[0]) for line in found)
        shard_path(broken, SYNTHETIC).write_bytes(good)
    assert problems(broken) == []


def test_a_damaged_sample_does_not_hide_the_ones_after_it(broken: Path) -> None:
    rows = read_index(index_path(broken, REAL)).to_pylist()
    edit(broken, REAL, flip(rows[1]["offset"] + 3))  # the name in a header: nothing can be read
    edit(broken, REAL, flip(rows[3]["json_offset"] + 2))
    edit(broken, REAL, flip(rows[5]["npy_offset"]))
    found = problems(broken)
    assert any(f"at byte {rows[1]['offset']}: the header's check sum" in line for line in found)
    assert any(f"{rows[3]['key']}: fields missing, unknown" in line for line in found)
    assert any(f"{rows[5]['key']}: a .npy member" in line for line in found)
    assert any("num_samples is 3, 6 in the manifest" in line for line in found)
    for number in (0, 2, 4):
        assert not any(line.startswith(REAL) and rows[number]["key"] in line for line in found)


@pytest.mark.parametrize("where", ["member", "sample", "inside", "empty"])
def test_a_cut_shard(broken: Path, where: str) -> None:
    rows = read_index(index_path(broken, REAL)).to_pylist()
    size = {
        "member": rows[4]["json_offset"] - 512,
        "sample": rows[4]["offset"],
        "inside": rows[4]["txt_offset"] + 5,
        "empty": 0,
    }[where]
    edit(broken, REAL, lambda data: data[:size])
    found = problems(broken)
    assert any(line.startswith(f"{REAL}: at byte ") and "cut" in line for line in found)
    assert any("num_bytes is" in line for line in found)
    assert any(f"{rows[5]['key']}: is in the index, but cannot be read" in line for line in found)


def test_swapped_shards(broken: Path) -> None:
    one, two = shard_path(broken, REAL), shard_path(broken, REAL_1)
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    two.write_bytes(data[0])
    found = problems(broken)
    for name in (REAL, REAL_1):
        assert any(line.startswith(f"{name}: its SHA-256") for line in found)


def test_missing_and_extra_files(broken: Path) -> None:
    index_path(broken, REAL).unlink()
    (broken / "index/extra.parquet").write_bytes(b"")
    (broken / "index/verdicts-0123abcd.parquet").write_bytes(b"")
    (broken / "data/real/.tmp-x").write_bytes(b"")
    (broken / "data/link").symlink_to(broken)
    os.mkfifo(broken / "data/fifo")
    assert_only(
        broken,
        f"{index_path(broken, REAL).name}: the index is missing",
        "index/extra.parquet: is not in the manifest",
        "index/verdicts-0123abcd.parquet: is not in the manifest",
        "data/real/.tmp-x: is not in the manifest",
        "data/link: is not in the manifest",
        "data/fifo: is not in the manifest",
    )


def test_a_missing_shard(broken: Path) -> None:
    shard_path(broken, EVAL).unlink()
    found = problems(broken)
    assert any(f"{EVAL}: cannot read" in line for line in found)
    assert all("eval" in line for line in found)


def test_a_fifo_in_place_of_a_shard_does_not_hang(broken: Path) -> None:
    shard_path(broken, EVAL).unlink()
    os.mkfifo(shard_path(broken, EVAL))
    assert any("there is no such file" in line for line in problems(broken))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ids_xxh64", 2**64 - 1),
        ("text_xxh64", 1),
        ("npy_offset", 0),
        ("document", "x"),
        ("mean_head_size", 2.5),
        ("truncated", True),
    ],
)
def test_an_index_that_differs_from_its_shard(broken: Path, column: str, value: object) -> None:
    path = index_path(broken, SYNTHETIC)
    rows = read_index(path).to_pylist()
    rows[1][column] = value
    write_index(path, rows)
    assert_only(broken, f"{rows[1]['key']}: differs from its shard in {column}", "SHA-256")


def test_an_index_without_a_row_in_another_order_or_no_index(broken: Path) -> None:
    path = index_path(broken, SYNTHETIC)
    rows = read_index(path).to_pylist()
    write_index(path, rows[:1] + rows[2:])
    assert_only(broken, f"{rows[1]['key']}: is in the shard and not in the index", "SHA-256")
    write_index(path, rows[::-1])
    assert_only(broken, "not in the order of the shard", "SHA-256")
    path.write_bytes(b"junk")
    assert_only(broken, f"{path.name}: cannot read", "SHA-256")


def patch(sample: Sample, **change: Any) -> Sample:
    return replace(sample, meta=replace(sample.meta, **change))


REALS = [real_sample(n) for n in range(6)]
SYNTHETICS = [*(synthetic_sample(200, c) for c in range(3)), synthetic_sample(200, 2, 1)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "eval"}, "split is 'eval' in a shard of the train split"),
        ({"source": "synthetic"}, "source is 'synthetic' in a real shard"),
        ({"document": "x"}, "a document must be 24 hex digits"),
        ({"document": document_of(77)}, "the key does not fit"),
        ({"part": 1}, "the key does not fit"),
        ({"start": -1}, "are not a span"),
        ({"end": 2}, "are not a span"),
        ({"end": 9}, "not as long as start and end say"),
        ({"origin": "elsewhere"}, "origin 'elsewhere' is not a source"),
        ({"license": "MIT"}, "license is 'MIT', 'Apache-2.0' in the manifest"),
        ({"decode": "0123456789"}, "decode is '0123456789' in a real sample"),
        ({"completion": 0}, "completion is 0 in a real sample"),
        ({"prefix_tokens": 1}, "prefix_tokens is 1 in a real sample"),
        ({"mean_head_size": 1.0}, "mean_head_size is 1.0 in a real sample"),
    ],
)
def test_wrong_provenance_of_a_real_sample(
    broken: Path, change: dict[str, object], said: str
) -> None:
    remake(broken, REAL, patch(REALS[0], **change), *REALS[1:])
    found = problems(broken)
    assert any(f"{REALS[0].key}: {said}" in line or said in line for line in found), found
    assert any("is not, byte for byte, a sample of" in line for line in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"expert": "f" * 16}, "expert is 'ffffffffffffffff'"),
        ({"decode": ""}, "decode is ''"),
        ({"amateur": DIGESTS["amateur"][:4]}, "amateur is '"),
        ({"rng_key": ""}, "rng_key is '', not hex"),
        ({"rng_key": "XY"}, "rng_key is 'XY', not hex"),
        ({"rng_key": f"{200_002:032x}"}, "another completion has this rng_key"),
        ({"completion": -1}, "is negative"),
        ({"prefix_tokens": 99}, "prefix_tokens is 99 of 9 tokens"),
        ({"head_of_one_share": 1.5}, "measures are out of range"),
        ({"split": "eval"}, "split is 'eval'"),
        ({"source": "real"}, "source is 'real' in a synthetic shard"),
    ],
)
def test_wrong_provenance_of_a_synthetic_sample(
    broken: Path, change: dict[str, object], said: str
) -> None:
    remake(broken, SYNTHETIC, patch(SYNTHETICS[0], **change), *SYNTHETICS[1:])
    assert any(said in line for line in problems(broken))


def test_parts_of_one_completion_share_its_rng_key_and_have_no_prefix(broken: Path) -> None:
    wrong = patch(SYNTHETICS[3], rng_key="ab", prefix_tokens=2)
    remake(broken, SYNTHETIC, *SYNTHETICS[:3], wrong)
    found = problems(broken)
    assert any("another part of this completion has another rng_key" in line for line in found)
    assert any("prefix_tokens is 2 in a later part" in line for line in found)


def reparented(sample: Sample, document: str) -> Sample:
    key = (
        real_key(document, 0)
        if sample.meta.source == "real"
        else synthetic_key(document, 2, sample.meta.completion, sample.meta.part)
    )
    return replace(sample, key=key, meta=replace(sample.meta, document=document))


def test_one_parent_in_two_splits_is_found_even_as_another_copy(broken: Path) -> None:
    copy = document_of(1)[:-1] + "7"
    remake(broken, EVAL, reparented(real_sample(90, "eval"), copy))
    assert any(f"{REALS[1].key}: its parent document" in p for p in problems(broken))


def test_a_prefix_from_the_real_text_is_found(broken: Path) -> None:
    stolen = [reparented(sample, document_of(90)) for sample in SYNTHETICS]
    remake(broken, SYNTHETIC, *stolen)
    found = problems(broken)
    assert sum("is also in real-eval" in line for line in found) == len(stolen)


def test_one_text_in_train_and_eval_is_found(broken: Path) -> None:
    # Real shards are read in the order of their names: eval before train.
    remake(broken, EVAL, real_sample(90, "eval", text=REALS[2].text))
    assert any(f"{REALS[2].key}: its text is also in real-eval" in p for p in problems(broken))


def test_a_key_twice_in_two_shards_is_found(broken: Path) -> None:
    remake(broken, REAL_1, REALS[4], *(real_sample(n) for n in range(7, 12)))
    found = problems(broken)
    assert any(f"{REALS[4].key}: a second real sample has this key" in line for line in found)


def test_a_mixed_sample_that_is_no_ones_copy_is_found(broken: Path) -> None:
    ids = REALS[0].ids.copy()
    ids[2] += 1
    remake(broken, MIXED, replace(REALS[0], ids=ids), real_sample(90, "eval"), REALS[1])
    found = problems(broken)
    said = "is not, byte for byte, a sample of the real or synthetic train shards"
    held_out = [line for line in found if real_sample(90).key in line]
    assert any(f"{REALS[0].key}: {said}" in line for line in found)
    assert any("split is 'eval'" in line for line in held_out)
    assert not any(REALS[1].key in line for line in found)
    assert any("the realised share is" in line for line in found)
    assert any("the mixed shards hold" in line for line in found)


@pytest.mark.parametrize("name", [REAL, REAL_1])
def test_ids_of_two_types_in_one_corpus_or_one_shard(broken: Path, name: str) -> None:
    wide = [replace(sample, ids=sample.ids.astype(np.uint32)) for sample in REALS[2:4]]
    data = shard_path(broken, name).read_bytes()
    remake(broken, name, *wide)
    said = f"{name}: has ids of uint32, where the corpus has uint16"
    assert said in problems(broken)
    edit(broken, name, lambda other: data[:-1024] + other)
    assert said in problems(broken)


def manifest_edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "manifest.json"
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(digest="0"), ["its digest is not"]),
        (lambda m: m["totals"]["real-train"].update(num_tokens=1), ["its totals are not"]),
        (lambda m: m["mix"].update(realised=0.5), ["the realised share is", "0.5 in the"]),
        (lambda m: m["mix"].update(num_real_tokens=1), ["real tokens, not 1"]),
        (lambda m: m.update(mix=None), ["the manifest has no mix"]),
        (lambda m: m["digests"].update(mix="f" * 64), ["does not belong to the mix digest"]),
        (
            lambda m: m["shards"][-1].update(num_text_bytes=1),
            ["its digest", "its totals", "num_text_bytes is"],
        ),
        (
            lambda m: m["shards"][-1]["index"].update(sha256="f" * 64),
            ["parquet: its SHA-256 is"],
        ),
    ],
)
def test_a_manifest_that_is_not_true(
    broken: Path, change: Callable[[dict[str, object]], object], said: list[str]
) -> None:
    manifest_edit(broken, change)
    assert_only(broken, *said)


def test_a_gap_in_the_numbers_is_found(broken: Path) -> None:
    manifest = read_manifest(broken)
    shards = tuple(shard for shard in manifest.shards if shard.name != SYNTHETIC)
    write_manifest(broken, replace(manifest, shards=shards, digest="", totals={}))
    found = problems(broken)
    assert any("the synthetic train shards are not numbered 0 to 0" in line for line in found)
    assert any(f"data/synthetic/{SYNTHETIC}: is not in the manifest" in line for line in found)


def test_without_a_manifest_the_shards_are_still_checked(broken: Path) -> None:
    (broken / "manifest.json").write_bytes(b"{")
    edit(broken, REAL, flip(600))
    report = verify(broken)
    found = [str(problem) for problem in report.problems]
    assert any("manifest.json: not valid JSON" in line for line in found)
    assert any(line.startswith(REAL) or "differs from its shard" in line for line in found)
    assert report.counts["num_shards"] == 7


def spoil(folder: Path) -> None:
    """Every kind of fault at once: in files, in samples, between samples of one shard and of several."""
    edit(folder, EVAL, flip(600))
    edit(folder, REAL, lambda data: data[:-700])
    remake(folder, REAL_1, REALS[0], patch(REALS[4], license="MIT"), real_sample(90))
    remake(folder, SYNTHETIC, SYNTHETICS[0], patch(SYNTHETICS[1], rng_key="ab"), *SYNTHETICS[2:])
    remake(
        folder, SYNTHETIC_1, SYNTHETICS[0], patch(SYNTHETICS[1], rng_key="cd"), synthetic_sample(90)
    )
    edit(folder, MIXED, lambda data: data[:-1024] + data)
    index_path(folder, EVAL).write_bytes(b"junk")
    manifest_edit(folder, lambda value: value.update(totals={}))


def test_several_processes_find_what_one_finds(broken: Path) -> None:
    """The same problems in the same order, the same counts; progress is told shard by shard."""
    spoil(broken)
    alone, beside = list[int](), list[int]()
    one = verify(broken, progress=alone.append)
    two = verify(broken, progress=beside.append, workers=2)
    assert one == two and len(one.problems) > 30
    assert alone == beside
    for said in (
        "is also in",
        "a second real",
        "another part of this completion",
        "in the manifest",
        "byte for byte",
    ):
        assert any(said in problem.what for problem in one.problems), said


def verified_afar(address: str, cache: Path, workers: int) -> tuple[Report, list[int]]:
    """What is found by somebody who has nothing of it yet, and what progress was told."""
    told: list[int] = []
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CDGEN_CACHE", str(cache))
        report = checking.verify_anywhere(address, progress=told.append, workers=workers)[1]
    return report, told


def test_several_processes_find_from_afar_what_one_finds(broken: Path, tmp_path: Path) -> None:
    """Shards that are wrong inside, one damaged on the server, one that is not there: in the same order."""
    remake(broken, REAL_1, REALS[0], patch(REALS[4], license="MIT"), real_sample(90))
    remake(broken, SYNTHETIC, SYNTHETICS[0], patch(SYNTHETICS[1], rng_key="ab"), *SYNTHETICS[2:])
    remake(broken, SYNTHETIC_1, SYNTHETICS[0], synthetic_sample(90))
    edit(broken, EVAL, flip(600))
    shard_path(broken, MIXED).unlink()
    with web_store(broken) as (address, _):
        one = verified_afar(address, tmp_path / "one", 1)
        two = verified_afar(address, tmp_path / "two", 2)

    assert one == two and len(one[1]) == one[0].counts["num_shards"] == 5
    found = [(problem.file, problem.what) for problem in one[0].problems]
    for name, said in (
        (EVAL, "fetched twice"),
        (REAL_1, "license"),
        (SYNTHETIC_1, "is also in"),
        (SYNTHETIC_1, "a second synthetic"),
        (MIXED, "there is no"),
    ):
        assert any(name == file and said in what for file, what in found), "\n".join(
            map(str, found)
        )


def test_from_afar_there_are_no_more_processes_than_the_cache_has_room_for(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has one shard in it, with its index; the largest decides."""
    sizes = [one.num_bytes + one.index.num_bytes for one in read_manifest(corpus).shards]
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    with web_store(corpus) as (address, _):
        for room, wanted, workers in ((3, 8, 3), (0.5, 8, 1), (100, 8, 7), (100, None, 1)):
            monkeypatch.setenv("CDGEN_CACHE_LIMIT", str(int(room * max(sizes))))
            assert checking.affordable(open_corpus(address), wanted) == workers
        monkeypatch.setenv("CDGEN_CACHE_LIMIT", str(2 * max(sizes)))
        assert verified_afar(address, tmp_path / "small", 8)[0].problems == ()


def test_the_command_says_the_same_with_any_number_of_workers(broken: Path) -> None:
    spoil(broken)
    said = [verified(broken, "--workers", workers) for workers in ("1", "2")]
    assert said[0] == said[1] and said[0][0] == 1
    assert json.loads(said[0][1])["counts"]["num_shards"] == 7
    assert verified(broken, "--workers", "0")[0] == 2


def verified(folder: Path, *options: str) -> tuple[int, str]:
    """(exit code, what `cdgen verify` prints)."""
    done = CliRunner().invoke(app, ["verify", str(folder), "--json", *options])
    return done.exit_code, done.stdout


@pytest.mark.parametrize(
    ("mebibytes", "wanted"), [([], 1), ([63], 1), ([100, 92], 3), ([4000], 16)]
)
def test_a_small_corpus_is_checked_by_one_process(
    tmp_path: Path, mebibytes: list[int], wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB are worth a process."""
    monkeypatch.setattr(checking, "processors", lambda: 64)
    (tmp_path / "data/real").mkdir(parents=True)
    for number, size in enumerate(mebibytes):
        with (tmp_path / f"data/real/{number}.tar").open("wb") as file:
            file.truncate(size << 20)  # a hole: it takes no disk
    assert checking.default_workers(tmp_path) == wanted


def test_an_interrupt_ends_the_processes(corpus: Path, tmp_path: Path) -> None:
    """Nothing but what the program says is printed, and nothing is left in the temporary folder."""
    code = """
import sys, time
from pathlib import Path
from cdgen.shards.verify import verify
def told(size):
    print("begun", flush=True)
    time.sleep(60)
try:
    verify(Path(sys.argv[1]), progress=told, workers=2)
except KeyboardInterrupt:
    print("interrupted", *Path(sys.argv[2]).iterdir(), flush=True)
"""
    command, environment = program(code, corpus, tmp_path)
    environment["TMPDIR"] = str(tmp_path)
    with subprocess.Popen(
        command, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)


def test_a_folder_that_is_no_corpus(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=r"is not a corpus"):
            verify(folder)
