"""A corpus goes to the Hub and comes back: everyone's tools read the same samples, and a stranger can check them."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_readers import READER, rows, run_reader
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from small import SMALL_RECIPE

import cdgen
from cdgen import open_corpus
from cdgen.builders.checking import verify_anywhere
from cdgen.builders.run import build
from cdgen.builders.trace import replay
from cdgen.errors import BuildError, UsageError
from cdgen.hub.publish import publish
from cdgen.shards.manifest import read_manifest
from cdgen.shards.reader import samples
from cdgen.storage.cache import Cache
from cdgen.storage.remote import Retries

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's
QUICK = Retries(tries=4, sleep=lambda _: None)
REPO = "someone/tales"
ADDRESS = f"hf://datasets/{REPO}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, small_text: str) -> Path:
    """A folder with a small recipe, its cache and the corpus it builds, out."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tales.txt").write_text(small_text, encoding="utf-8")
    (folder / "small.yaml").write_text(SMALL_RECIPE, encoding="utf-8")
    build(folder / "small.yaml", folder / "out", cache=folder / "cache")
    return folder


@pytest.fixture
def corpus(home: Path, tmp_path: Path) -> Path:
    """The corpus, as the fixture `api` wants it."""
    shutil.copytree(home / "out", tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def published(corpus: Path, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The corpus, which is on the Hub too; what is read of that comes through an empty cache."""
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "read-cache"))
    publish(corpus, ADDRESS, api=api, retries=QUICK)
    return corpus


@pytest.mark.parametrize(
    ("api", "loader"),
    [("lfs", "webdataset"), ("xet", "curl"), ("xet", "streaming"), ("lfs", "whole")],
    indirect=["api"],
)
def test_other_peoples_tools_read_every_field_of_every_sample(
    published: Path, server: HubServer, tmp_path: Path, loader: str
) -> None:
    kind = "synthetic" if loader == "streaming" else "mixed"
    where = REPO
    if loader in ("webdataset", "curl"):
        at = f"hf://datasets/{REPO}/data/{kind}"
        if loader == "curl":
            at = f"pipe:curl -sfL {server.address}/datasets/{REPO}/resolve/main/data/{kind}"
        names = [entry.name for entry in open_corpus(published).shards(kind)]
        where = json.dumps([f"{at}/{name}" for name in names])
    ran = run_reader(READER, [loader, where, kind, str(tmp_path / "rows")], server, tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert json.loads((tmp_path / "rows").read_text()) == rows(published, kind)


# ---- the Parquet mirror ----

MIRROR_READER = """
import json, sys
sys.modules["cdgen"] = None
import datasets, pyarrow.parquet
repo, out = sys.argv[1:]
read = {"module": datasets.load_dataset_builder(repo).__module__, "rows": {}, "types": {}}
for kind in ("mixed", "synthetic", "real"):
    for streaming in (True, False):
        made = datasets.load_dataset(repo, kind, streaming=streaming)
        for split, rows in made.items():
            read["rows"][f"{kind} {split} {streaming}"] = list(rows)
            read["types"][f"{kind} {split} {streaming}"] = {n: str(f) for n, f in rows.features.items()}
json.dump(read, open(out, "w"))
"""


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
def test_the_parquet_mirror_has_the_rows_of_the_shards_and_takes_their_place_in_the_card(
    corpus: Path, api: HfApi, server: HubServer, tmp_path: Path
) -> None:
    """Every configuration and split, streamed and not, with the pinned features."""
    report = publish(corpus, ADDRESS, parquet=True, api=api, retries=QUICK)
    shards = read_manifest(corpus).shards
    mirror = {name for name in server.visible(REPO) if name.startswith("parquet/")}
    assert mirror == {f"parquet/{s.kind}/{s.name.removesuffix('.tar')}.parquet" for s in shards}
    assert report.num_files == len(set(server.visible(REPO)) - {".gitattributes"})

    ran = run_reader(MIRROR_READER, [REPO, str(tmp_path / "read")], server, tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    read = json.loads((tmp_path / "read").read_text())
    assert "parquet" in read["module"]
    opened = open_corpus(corpus)
    for place, found in read["rows"].items():
        kind, split, _ = place.split()
        ours = "eval" if split == "validation" else "train"
        assert found == [
            {
                "txt": sample.text,
                "json": json.loads(sample.meta.to_json()),
                "npy": sample.ids.tolist(),
                "__key__": sample.key,
                "__url__": f"data/{kind}/{entry.name}",
            }
            for entry in opened.shards(kind, ours)
            for sample in samples(opened.files.shard(entry))
        ]
    assert len(read["rows"]) == 8, "three kinds, one with an eval split, twice"
    assert {str(types) for types in read["types"].values()} == {
        str(read["types"]["mixed train True"])
    }
    assert "uint16" in read["types"]["mixed train True"]["npy"]


@pytest.mark.parametrize("api", ["xet", "lfs"], indirect=True)
def test_a_mirror_comes_and_goes_with_the_option(
    corpus: Path, api: HfApi, server: HubServer, tmp_path: Path
) -> None:
    publish(corpus, str(tmp_path / "copy"), parquet=True)  # as a folder, and makes the files
    if not constants.HF_HUB_DISABLE_XET:
        server.knows(corpus)
    plain = publish(corpus, ADDRESS, api=api, retries=QUICK)
    card = server.content(server.visible(REPO)["README.md"])
    both = publish(corpus, ADDRESS, parquet=True, api=api, retries=QUICK)
    num_shards = len(read_manifest(corpus).shards)
    assert both.num_sent_files == num_shards + 1, "the mirror, and the card"
    assert publish(corpus, ADDRESS, parquet=True, api=api, retries=QUICK).num_sent_files == 0
    assert both.manifest_digest == plain.manifest_digest and both.tag == plain.tag
    assert server.repos[REPO].tags[both.tag] in server.repos[REPO].commits
    for where in (tmp_path / "copy", ADDRESS):
        assert verify_anywhere(where)[1].problems == ()

    again = publish(corpus, ADDRESS, api=api, retries=QUICK)
    assert len(again.deleted) == num_shards and again.num_sent_files == 1
    assert server.content(server.visible(REPO)["README.md"]) == card


def test_a_mirror_of_a_damaged_shard_or_for_a_card_of_ones_own_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    card = (corpus / "README.md").read_text()
    for own in ("# Mine\n", "---\nlicense: mit\n---\n# Mine\n"):
        (corpus / "README.md").write_text(own)
        with pytest.raises(UsageError, match=r"README\.md: cannot name a Parquet mirror"):
            publish(corpus, str(tmp_path / "copy"), parquet=True)
    (corpus / "README.md").write_text(card)
    shutil.rmtree(corpus / "work/parquet")
    path = open_corpus(corpus).files.shard(open_corpus(corpus).shards("synthetic")[0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BuildError, match=rf"{path.name}: is damaged"):
        publish(corpus, str(tmp_path / "copy"), parquet=True)
    assert not (tmp_path / "copy").exists()


# ---- cdgen's own ways ----


def test_a_stream_from_the_hub_is_the_local_one(published: Path) -> None:
    here, there = (
        [block["input_ids"].tolist() for block in cdgen.stream(open_corpus(one), block=64, seed=3)]
        for one in (published, f"{ADDRESS}@main")
    )
    assert here and here == there


@pytest.mark.parametrize("api", ["xet"], indirect=True)
def test_a_published_copy_is_verified_and_replayed_by_a_stranger(
    published: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the models of the same training finds them by their digest; others are told what to build."""
    where, report = verify_anywhere(ADDRESS)
    assert report.problems == () and "cannot be told from here" in report.unchecked
    assert where.startswith(f"{ADDRESS}@"), "the commit that was checked"
    assert dict(report.counts) == verify_anywhere(published)[1].counts

    with pytest.raises(
        BuildError, match=r"expert \(trained to step \d+, .*\) is not in .*build its recipe"
    ):
        replay(ADDRESS, 4)
    shutil.copytree(home / "cache/models", tmp_path / "read-cache/models")
    again = replay(ADDRESS, 4)
    assert again.num_tokens > 0 and again.differences == ()


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
def test_a_shard_at_a_time_is_enough_to_verify(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache holds less than the corpus: what was checked is let go."""
    entries = read_manifest(published).shards
    whole = sum(entry.num_bytes + entry.index.num_bytes for entry in entries)
    largest = max(entry.num_bytes + entry.index.num_bytes for entry in entries)
    limit = 2 * largest
    assert limit < whole
    monkeypatch.setenv("CDGEN_CACHE_LIMIT", str(limit))
    assert verify_anywhere(ADDRESS)[1].problems == ()
    kept = Cache.default().folder
    assert sum(p.stat().st_size for p in kept.rglob("*") if p.is_file()) <= limit


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
def test_a_damaged_published_shard_is_a_problem_that_names_it(
    published: Path, server: HubServer
) -> None:
    entry = open_corpus(published).shards("synthetic")[0]
    server.faults = lambda line: (404, "gone") if entry.name in line and "resolve" in line else None
    found = verify_anywhere(ADDRESS)[1].problems
    assert any(entry.name in str(problem) for problem in found)


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
def test_a_corpus_is_published_while_another_process_builds_it(
    home: Path, corpus: Path, server: HubServer, api: HfApi, tmp_path: Path
) -> None:
    """Shards are sent as they come; nothing is visible before the end."""
    out = tmp_path / "growing"
    script = (
        "import sys, time; from pathlib import Path; from cdgen.builders.run import build\n"
        "build(Path(sys.argv[1]), Path(sys.argv[2]), cache=Path(sys.argv[3]))"
    )
    shutil.rmtree(corpus)
    command = [
        sys.executable,
        "-c",
        script,
        str(home / "small.yaml"),
        str(out),
        str(home / "cache"),
    ]
    with subprocess.Popen(command, cwd=tmp_path) as builder:
        while not list(out.glob("work/receipts/*.json")) and builder.poll() is None:
            time.sleep(0.02)
        seen: list[set[str]] = []

        def wait(_: float) -> None:
            seen.append(set(server.visible(REPO)))
            time.sleep(0.05)

        report = publish(out, ADDRESS, follow=True, api=api, retries=QUICK, sleep=wait)
        assert builder.wait() == 0
    assert all(names == {".gitattributes"} for names in seen)
    assert report.num_files == len(set(server.visible(REPO)) - {".gitattributes"})
    assert read_manifest(out).digest == read_manifest(home / "out").digest


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
def test_a_build_that_dies_leaves_nothing_visible(
    home: Path, corpus: Path, server: HubServer, api: HfApi
) -> None:
    """Also where an earlier corpus is still whole in its folder: that is not what was followed."""
    events = (corpus / "work/events.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(events[-1])["event"] == "built"
    (corpus / "work/events.jsonl").write_text("".join(events[:-1]))
    for _ in range(2):
        with pytest.raises(BuildError, match="ended without a corpus; nothing is visible"):
            publish(corpus, ADDRESS, follow=True, api=api, retries=QUICK)
        assert set(server.visible(REPO)) == {".gitattributes"}
        (corpus / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(UsageError, match="no build was begun here"):
        publish(home / "nothing", ADDRESS, follow=True, api=api, retries=QUICK)

    sent = set(server.uploaded)
    build(home / "small.yaml", corpus, cache=home / "cache")
    publish(corpus, ADDRESS, follow=True, api=api, retries=QUICK)
    assert wanted_of(corpus) == set(server.visible(REPO)) - {".gitattributes"}
    assert sent and len(server.uploaded) == len(set(server.uploaded)), "no shard went twice"


KILLED = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from cdgen.hub import publish
publish.MOST_FILES = int(sys.argv[4])
publish.PART_FILES = 7
publish.publish(Path(sys.argv[1]), sys.argv[2], api=HfApi(endpoint=sys.argv[3], token="hf_dummy"))
"""
VISIBLE_BY = {
    "a commit": (200, ["repos/create", "PUT put/", "datasets/someone/tales/commit/main", "/tag/"]),
    "a merge": (8, ["/preupload/", "/discussions", "/commit/refs/pr/1", "/status", "/merge"]),
}


def wanted_of(corpus: Path) -> set[str]:
    """What a published corpus holds."""
    files = {str(p.relative_to(corpus)) for p in corpus.rglob("*") if p.is_file()}
    return {name for name in files if not name.startswith("work/")}


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
@pytest.mark.parametrize("way", VISIBLE_BY)
def test_a_publication_that_is_killed_at_every_step_shows_all_or_nothing_and_is_finished(
    corpus: Path, server: HubServer, api: HfApi, way: str
) -> None:
    """SIGKILL in the middle of one step after the other; each run goes on from where the last one was killed."""
    most_files, steps = VISIBLE_BY[way]
    running: list[subprocess.Popen[bytes]] = []
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", KILLED, str(corpus), ADDRESS, server.address, str(most_files)]
    seen = []
    for step in steps:

        def kill(line: str, step: str = step) -> None:
            if step in line and running:
                running.pop().kill()

        server.faults = kill
        with subprocess.Popen(command, env=environment) as process:
            running.append(process)
            assert process.wait() == -9, f"{step} was not asked for"
        with server.lock:  # the deed that it was killed in is done, or not, as a whole
            seen.append(set(server.visible(REPO)) - {".gitattributes"})
    assert all(names in (set(), wanted_of(corpus)) for names in seen)
    assert seen[0] == set() and seen[-1] == wanted_of(corpus), "the deed of the last step was done"
    server.faults = lambda _: None
    report = publish(corpus, ADDRESS, api=api, retries=QUICK)
    assert report.num_sent_files == 0 and server.repos[REPO].tags == {report.tag: report.commit}
    assert len(server.uploaded) <= len(set(server.uploaded)) + 1, "only what was on its way, again"
