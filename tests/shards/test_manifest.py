import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import BuildError
from cdgen.shards.layout import index_name, index_path, parse_name, shard_name, shard_path
from cdgen.shards.manifest import (
    COUNTS,
    Manifest,
    ManifestShard,
    Mix,
    manifest_digest,
    manifest_digests,
    read_manifest,
    totals,
    write_manifest,
)
from cdgen.storage import FileStamp, canonical_json
from shards.corpus_maker import DIGESTS


def test_a_manifest_comes_back_and_its_bytes_are_stable(corpus: Path, tmp_path: Path) -> None:
    manifest = read_manifest(corpus)
    path = write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert path.read_bytes() == (corpus / "manifest.json").read_bytes()
    assert manifest.totals == totals(manifest.shards)
    assert manifest.totals["real-train"]["num_shards"] == 2
    assert manifest.totals["real-eval"]["num_samples"] == 2


def test_its_bytes_are_those_of_json(corpus: Path, tmp_path: Path) -> None:
    """Written a shard at a time, as if in one go; without shards too."""
    whole = read_manifest(corpus)
    for shards in (whole.shards, ()):
        text = write_manifest(tmp_path, replace(whole, shards=shards)).read_text("utf-8")
        value = json.loads(text)
        assert len(value["shards"]) == len(shards)
        assert text == json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_order_in_which_shards_were_made_leaves_no_trace(corpus: Path, tmp_path: Path) -> None:
    manifest = read_manifest(corpus)
    turned = replace(manifest, shards=manifest.shards[::-1])
    assert turned == manifest


def test_the_digest_covers_names_hashes_and_counts_only(corpus: Path) -> None:
    manifest = read_manifest(corpus)
    first, *rest = manifest.shards
    for change in ({"sha256": "0" * 64}, {"num_tokens": 1}, {"num_samples": 1}):
        assert manifest_digest([replace(first, **change), *rest]) != manifest.digest
    index = replace(first.index, sha256="0" * 64)
    assert manifest_digest([replace(first, index=index), *rest]) == manifest.digest
    other = Manifest(name="other", digests={}, engine="9", shards=manifest.shards)
    assert other.digest == manifest.digest


def test_the_digest_is_that_of_one_list_however_many_shards(corpus: Path) -> None:
    first = read_manifest(corpus).shards[0]
    shards = [
        replace(first, name=name, index=replace(first.index, name=index_name(name)))
        for name in (shard_name("mixed", "train", DIGESTS["mix"], n) for n in range(130))
    ]
    for count in (1, 63, 64, 65, 128, 130):
        rows = [
            [shard.name, shard.sha256, {name: getattr(shard, name) for name in COUNTS}]
            for shard in shards[:count]
        ]
        whole = hashlib.sha256(canonical_json(rows)).hexdigest()
        assert manifest_digest(shards[:count][::-1]) == whole


@given(st.text(max_size=20), st.integers(-(2**53), 2**53))
def test_the_digest_is_that_of_json_whatever_the_entry_says(sha256: str, count: int) -> None:
    """A hash that is none is escaped as JSON escapes it."""
    name = shard_name("mixed", "train", DIGESTS["mix"], 7)
    stamp = FileStamp(name=index_name(name), sha256="", num_bytes=0)
    counts = {each: count + number for number, each in enumerate(COUNTS)}
    shard = ManifestShard(
        name=name, kind="mixed", split="train", sha256=sha256, index=stamp, **counts
    )
    assert (
        manifest_digest([shard])
        == hashlib.sha256(canonical_json([[name, sha256, counts]])).hexdigest()
    )


def test_one_pass_gives_the_digest_of_every_series(corpus: Path) -> None:
    shards = read_manifest(corpus).shards
    whole, parts = manifest_digests(shards[::-1])
    assert whole == manifest_digest(shards) and len(parts) == 4
    for name, digest in parts.items():
        mine = [shard for shard in shards if shard.name.startswith(f"{name}-")]
        rows = [[s.name, s.sha256, {each: getattr(s, each) for each in COUNTS}] for s in mine]
        assert digest == hashlib.sha256(canonical_json(rows)).hexdigest()


def test_golden_digest() -> None:
    assert manifest_digest([]) == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"


def damaged(corpus: Path, folder: Path, **change: object) -> Path:
    value = json.loads((corpus / "manifest.json").read_text("utf-8")) | change
    (folder / "manifest.json").write_text(json.dumps(value), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2; this cdgen reads formats 1 to 1: upgrade cdgen"),
        ({"format": "1"}, "format: expected an integer, found a string"),
        ({"shards": {}}, "shards: expected a list, found an object"),
        ({"shards": [3]}, r"shards\[0\]: expected an object"),
        ({"name": None}, "name: expected a string, found null"),
        ({"digests": {"text": 3}}, "digests.text: expected a string"),
        ({"mix": {"nominal": "0.3"}}, "mix: the field 'realised' is missing"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_a_wrong_manifest_is_one_clear_line(
    corpus: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(BuildError, match=rf"manifest\.json: .*{said}") as caught:
        read_manifest(damaged(corpus, tmp_path, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../etc/passwd"},
        {"name": "real-train-982d9e3e-00000.tar"},
        {"kind": "real"},
        {"split": "eval"},
        {"index": {"name": "../x.parquet", "sha256": "", "num_bytes": 1}},
        {"index": {"name": "x.parquet", "sha256": "", "num_bytes": 1}},
    ],
)
def test_an_entry_that_names_other_files_is_refused(
    corpus: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    shards = json.loads((corpus / "manifest.json").read_text("utf-8"))["shards"]
    shards[0] |= change
    with pytest.raises(BuildError, match=r"manifest\.json"):
        read_manifest(damaged(corpus, tmp_path, shards=shards))


def test_two_shards_of_one_name_are_refused(corpus: Path, tmp_path: Path) -> None:
    shards = json.loads((corpus / "manifest.json").read_text("utf-8"))["shards"]
    with pytest.raises(BuildError, match="two shards have one name"):
        read_manifest(damaged(corpus, tmp_path, shards=[*shards, shards[0]]))


def test_no_manifest_is_no_finished_corpus(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is not a finished corpus"):
        read_manifest(tmp_path)


def test_a_mix_has_a_known_unit() -> None:
    with pytest.raises(ValueError, match="tokens or documents"):
        Mix(nominal=0, realised=0, unit="words", num_real_tokens=0, num_synthetic_tokens=0)


@given(st.sampled_from(["real", "synthetic", "mixed"]), st.sampled_from(["train", "eval"]),
       st.integers(0, 10**7))  # fmt: skip
def test_names_come_back(kind: str, split: str, number: int) -> None:
    name = shard_name(kind, split, DIGESTS["text"], number)
    assert parse_name(name) == (kind, split, DIGESTS["text"][:8], number)
    assert shard_path(Path("c"), name) == Path("c/data") / kind / name
    assert index_path(Path("c"), name) == Path("c/index") / index_name(name)


@pytest.mark.parametrize(
    "name", ["", "x.tar", "real-train-0123abcd-0.tar", "real-x-0123abcd-00000"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a shard's name"):
        parse_name(name)
    with pytest.raises(ValueError, match="not a shard's name"):
        shard_name("real", "test", "0123abcd", 0)


def test_an_entry_is_a_shards_info(corpus: Path) -> None:
    entry = read_manifest(corpus).shards[0]
    assert (entry.kind, entry.split) == ("mixed", "train")
    assert ManifestShard.__dataclass_fields__.keys() >= {"name", "sha256", "num_tokens", "index"}
