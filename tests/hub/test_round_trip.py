"""A corpus goes to the Hub and comes back: everyone's tools read the same samples, and a stranger can check them."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
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
from cdgen.storage.cache import Cache
from cdgen.storage.remote import Retries

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's
QUICK = Retries(tries=4, sleep=lambda _: None)
REPO = "someone/tales"
ADDRESS = f"hf://datasets/{REPO}"

READER = """
import json, sys
sys.modules["cdgen"] = None  # as if it were not installed
loader, where, kind, out = sys.argv[1:]

def rows():
    if loader == "webdataset":
        import webdataset
        for row in webdataset.WebDataset(json.loads(where), shardshuffle=False, empty_check=False).decode():
            yield row["__key__"], row["txt"], row["json"], row["npy"].tolist()
    else:
        import datasets
        made = datasets.load_dataset(where, kind, split="train", streaming=loader == "streaming")
        for row in made:
            yield row["__key__"], row["txt"], row["json"], list(map(int, row["npy"]))

with open(out, "w") as file:
    json.dump(list(rows()), file)
"""


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


def rows(folder: Path, kind: str) -> list[list[object]]:
    """What a reader must find, in order."""
    return [
        [sample.key, sample.text, json.loads(sample.meta.to_json()), sample.ids.tolist()]
        for sample in open_corpus(folder).samples(kind)
    ]


@pytest.mark.parametrize(
    ("api", "loader"),
    [("lfs", "webdataset"), ("xet", "streaming"), ("lfs", "whole")],
    indirect=["api"],
)
def test_other_peoples_tools_read_every_field_of_every_sample(
    published: Path, server: HubServer, tmp_path: Path, loader: str
) -> None:
    kind = "synthetic" if loader == "streaming" else "mixed"
    where = REPO
    if loader == "webdataset":
        names = [entry.name for entry in open_corpus(published).shards(kind)]
        at = f"{server.address}/datasets/{REPO}/resolve/main/data/{kind}"
        where = json.dumps([f"pipe:curl -sfL {at}/{name}" for name in names])
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": server.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_dummy",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", READER, loader, where, kind, str(tmp_path / "rows")]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert json.loads((tmp_path / "rows").read_text()) == rows(published, kind)


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
    (corpus / "manifest.json").unlink()
    with pytest.raises(BuildError, match="ended without a corpus; nothing is visible"):
        publish(corpus, ADDRESS, follow=True, api=api, retries=QUICK)
    assert set(server.visible(REPO)) == {".gitattributes"}
    with pytest.raises(UsageError, match="no build was begun here"):
        publish(home / "nothing", ADDRESS, follow=True, api=api, retries=QUICK)


KILLED = """
import os, sys
from pathlib import Path
from huggingface_hub import HfApi
from cdgen.hub.publish import publish
publish(Path(sys.argv[1]), sys.argv[2], api=HfApi(endpoint=sys.argv[3], token="hf_dummy"))
"""


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
@pytest.mark.parametrize("part", ["PUT put/", "/commit/main"])
def test_a_killed_publication_leaves_main_and_is_finished_later(
    corpus: Path, server: HubServer, api: HfApi, part: str
) -> None:
    """SIGKILL from inside, at a first upload and at the commit."""
    running: list[subprocess.Popen[bytes]] = []

    def kill(line: str) -> None:
        if part in line and running:
            running.pop().kill()

    server.faults = kill
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", KILLED, str(corpus), ADDRESS, server.address]
    with subprocess.Popen(command, env=environment) as process:
        running.append(process)
        assert process.wait() == -9
    server.faults = lambda _: None
    files = {str(p.relative_to(corpus)) for p in corpus.rglob("*") if p.is_file()}
    wanted = {name for name in files if not name.startswith("work/")}
    assert set(server.visible(REPO)) - {".gitattributes"} in (set(), wanted), "all or nothing"
    publish(corpus, ADDRESS, api=api, retries=QUICK)
    assert set(server.visible(REPO)) - {".gitattributes"} == wanted
    assert constants.HF_HUB_DISABLE_XET
