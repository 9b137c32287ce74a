"""Publishing to the Hub: all of it or nothing becomes visible, whatever goes wrong on the way."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi, constants

from cdgen.errors import BuildError, UsageError
from cdgen.hub import publish as publishing
from cdgen.hub import repository
from cdgen.hub.publish import Published, publish
from cdgen.shards.layout import index_name
from cdgen.shards.manifest import read_manifest, write_manifest
from cdgen.storage.remote import Retries

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's
QUICK = Retries(tries=4, sleep=lambda _: None)
REPO = "someone/tales"
ADDRESS = f"hf://datasets/{REPO}"


def send(corpus: Path, api: HfApi, **options: object) -> Published:
    """Publish without waiting."""
    return publish(corpus, ADDRESS, api=api, retries=QUICK, **options)  # type: ignore[arg-type]


def local(corpus: Path) -> set[str]:
    """What a published corpus holds."""
    files = {str(p.relative_to(corpus)) for p in corpus.rglob("*") if p.is_file()}
    return {name for name in files if not name.startswith("work/")}


def test_the_whole_corpus_becomes_visible_in_one_commit(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    report = send(corpus, api)
    repo = server.repos[REPO]

    assert set(server.visible(REPO)) - {".gitattributes"} == local(corpus)
    assert len(repo.commits) == 2, "the repository's own first commit, and ours"
    assert repo.tags == {f"cdgen-{read_manifest(corpus).digest[:16]}": report.commit}
    assert report.num_sent_files == report.num_files == len(local(corpus))


def test_doing_it_again_sends_and_commits_nothing(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    first = send(corpus, api)
    asked = len(server.asked)
    again = send(corpus, api)

    assert (again.commit, again.num_sent_files) == (first.commit, 0)
    assert len(server.repos[REPO].commits) == 2
    assert not [line for line in server.asked[asked:] if "commit" in line or "lfs" in line]


def test_a_dry_run_touches_nothing(corpus: Path, server: HubServer, api: HfApi) -> None:
    report = send(corpus, api, dry_run=True)

    assert report.dry_run and report.num_sent_files == report.num_files
    assert server.repos == {}


def test_the_recipe_names_no_path_of_this_machine(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    path = corpus / "recipe.yaml"
    path.write_text(path.read_text().replace("path: tales.txt", "path: /home/me/secret/tales.txt"))
    send(corpus, api)

    published = server.content(server.visible(REPO)["recipe.yaml"]).decode()
    assert "/home/me" in path.read_text() and "/home/me" not in published
    assert "#" in published, "its comments stay"


def test_private_and_another_branch(corpus: Path, server: HubServer, api: HfApi) -> None:
    publish(corpus, f"{ADDRESS}@next", private=True, api=api, retries=QUICK)

    assert server.repos[REPO].visibility == "private"
    assert set(server.visible(REPO)) == {".gitattributes"}
    assert "manifest.json" in server.visible(REPO, "next")


# ---- another version ----


def test_files_of_an_earlier_version_vanish_with_the_new_one(
    corpus: Path, server: HubServer, api: HfApi, tmp_path: Path
) -> None:
    """In the same commit; files of other people's making stay."""
    from cdgen import mix

    send(corpus, api)
    repo = server.repos[REPO]
    old = set(server.visible(REPO))
    repo.add("main", {**server.visible(REPO), "notes.md": server.visible(REPO)["README.md"]}, "x")
    mix(corpus, tmp_path / "other", synthetic=0.1)
    if not constants.HF_HUB_DISABLE_XET:
        server.knows(tmp_path / "other")
    report = publish(tmp_path / "other", ADDRESS, api=api, retries=QUICK)

    assert set(report.deleted) == {p for p in old if "/mixed-" in p or "/verdicts-" in p}
    assert set(server.visible(REPO)) == local(tmp_path / "other") | {".gitattributes", "notes.md"}
    assert len(repo.tags) == 2


# ---- faults ----


def once(server: HubServer, part: str, status: int, message: str = "busy") -> list[str]:
    """Have the first request that holds `part` fail; returns the list that will name it."""
    hit: list[str] = []

    def fault(line: str) -> tuple[int, str] | None:
        if part in line and not hit:
            hit.append(line)
            return status, message
        return None

    server.faults = fault
    return hit


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
@pytest.mark.parametrize("status", [503, 0])
@pytest.mark.parametrize(
    "part",
    [
        *("repos/create", "/revision/", "/tree/", "/preupload/", "objects/batch", "PUT put/"),
        *("POST verify/", "/commit/main", "/tag/"),
    ],
)
def test_a_passing_fault_of_any_step_is_survived(
    corpus: Path, server: HubServer, api: HfApi, part: str, status: int
) -> None:
    """Status 0: the deed was done and its answer lost."""
    hit = once(server, part, status)
    report = send(corpus, api)

    assert hit
    assert set(server.visible(REPO)) - {".gitattributes"} == local(corpus)
    assert len(server.repos[REPO].commits) == 2
    assert server.repos[REPO].tags == {report.tag: report.commit}


def test_a_refused_commit_leaves_what_was_visible(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    server.faults = lambda line: (403, "storage limit reached") if "/commit/" in line else None

    with pytest.raises(UsageError, match=r"refused .*storage limit reached"):
        send(corpus, api)
    assert set(server.visible(REPO)) == {".gitattributes"}


def test_a_hub_that_is_down_is_said_in_one_line(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    server.faults = lambda _: (503, "down")

    with pytest.raises(BuildError, match=r"hf://datasets/someone/tales: answered 503, 4 times"):
        send(corpus, api)


def test_a_tag_that_cannot_be_made_is_said_and_made_later(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    server.faults = lambda line: (500, "down") if "/tag/" in line else None
    with pytest.raises(BuildError, match=r"answered 500, 4 times.* visible, but not tagged: run"):
        send(corpus, api)
    assert set(server.visible(REPO)) - {".gitattributes"} == local(corpus)

    server.faults = lambda _: None
    report = send(corpus, api)
    assert report.num_sent_files == 0 and server.repos[REPO].tags == {report.tag: report.commit}


def test_a_wrong_token_is_refused_before_anything_is_sent(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    server.faults = lambda _: (401, "Invalid credentials in Authorization header")

    for dry_run in (False, True):
        with pytest.raises(UsageError, match=r"refused \(401: Invalid credentials.*HF_TOKEN"):
            send(corpus, api, dry_run=dry_run)
    assert server.repos == {} and not [line for line in server.asked if "preupload" in line]


@pytest.mark.parametrize("api", ["lfs"], indirect=True)
def test_somebody_elses_repository_is_left_alone(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    """It is readable, so nothing is made; the first upload is refused."""
    api.create_repo(REPO, repo_type="dataset")
    why = "You don't have the rights to write here"
    server.faults = lambda line: (403, why) if line.startswith(("POST", "PUT")) else None
    before = len(server.repos[REPO].commits)

    with pytest.raises(UsageError, match=r"refused \(403: You don't have the rights.*may write"):
        send(corpus, api)
    assert len(server.repos[REPO].commits) == before and server.uploaded == []


@pytest.mark.parametrize("api", ["xet"], indirect=True)
def test_a_hub_without_xet_is_named_with_the_way_around_it(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    """The client does not turn to LFS by itself."""
    server.faults = lambda line: (404, "no such route") if "xet-write-token" in line else None

    with pytest.raises(UsageError, match="HF_HUB_DISABLE_XET=1"):
        send(corpus, api)
    assert set(server.visible(REPO)) == {".gitattributes"}


def test_no_right_to_write_is_said_before_anything_is_sent(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    server.faults = lambda line: (403, "you may not") if "repos/create" in line else None

    with pytest.raises(UsageError, match="log in with `hf auth login`"):
        send(corpus, api)
    assert not [line for line in server.asked if "preupload" in line]


def test_somebody_elses_commit_at_the_same_time_is_not_overwritten(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    def race(line: str) -> None:
        if "/commit/main" in line and len(server.repos[REPO].commits) == 1:
            tree = {**server.visible(REPO), "theirs.txt": server.visible(REPO)[".gitattributes"]}
            server.repos[REPO].add("main", tree, "theirs")

    server.faults = race
    with pytest.raises(BuildError, match="somebody else committed at the same time"):
        send(corpus, api)
    assert set(server.visible(REPO)) == {".gitattributes", "theirs.txt"}

    send(corpus, api)
    assert set(server.visible(REPO)) == {".gitattributes", "theirs.txt"} | local(corpus)


def test_a_killed_publication_goes_on_without_sending_again(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    """Between the uploads and the commit."""
    server.faults = lambda line: (403, "killed") if "/commit/" in line else None
    with pytest.raises(UsageError):
        send(corpus, api)
    sent = list(server.uploaded)
    server.faults = lambda _: None
    send(corpus, api)

    assert set(server.visible(REPO)) - {".gitattributes"} == local(corpus)
    if constants.HF_HUB_DISABLE_XET:
        assert server.uploaded == sent, "big files were there already"


def test_a_damaged_shard_is_not_published(corpus: Path, server: HubServer, api: HfApi) -> None:
    path = next(corpus.glob("data/synthetic/*.tar"))
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)

    with pytest.raises(BuildError, match="is damaged"):
        send(corpus, api)
    assert set(server.visible(REPO)) == {".gitattributes"}


def test_a_missing_file_is_named_before_anything_is_sent(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    next(corpus.glob("index/mixed-*.parquet")).unlink()

    with pytest.raises(BuildError, match=r"cannot read .*mixed-train-"):
        send(corpus, api)
    assert server.repos == {}


def test_an_upload_that_arrives_changed_is_refused_by_the_hub(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    if not constants.HF_HUB_DISABLE_XET:
        pytest.skip("xet checks its own chunks")
    hit = once(server, "PUT put/", 400, "the content is not what its name says")

    with pytest.raises(BuildError, match="not what its name says"):
        send(corpus, api)
    assert hit and set(server.visible(REPO)) == {".gitattributes"}


@pytest.mark.parametrize("api", ["xet", "lfs"], indirect=True)
def test_both_ways_of_uploading_give_the_same_tree(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    """Big files by the manifest's SHA-256, small ones by git's SHA-1: nothing of it is the way's."""
    send(corpus, api)
    visible = server.visible(REPO)
    shards = read_manifest(corpus).shards
    oids = {f"data/{s.kind}/{s.name}": s.sha256 for s in shards} | {
        f"index/{index_name(s.name)}": s.index.sha256 for s in shards
    }
    assert {path: visible[path].oid for path in oids} == oids
    for path in set(visible) - set(oids) - {".gitattributes"}:
        if path.endswith(".parquet"):
            assert visible[path].oid == hashlib.sha256((corpus / path).read_bytes()).hexdigest()
        else:
            content = server.content(visible[path])
            blob = b"blob %d\0" % len(content) + content
            assert visible[path].oid == hashlib.sha1(blob).hexdigest()


@pytest.mark.parametrize("option", ["follow", "private"])
def test_options_of_the_hub_are_refused_elsewhere(
    corpus: Path, tmp_path: Path, option: str
) -> None:
    with pytest.raises(UsageError, match=f"--{option} needs an address on the Hub"):
        publish(corpus, str(tmp_path / "copy"), **{option: True})  # type: ignore[arg-type]
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "address", ["hf://tales", "hf://models/a/b", "hf://datasets/a", "https://x/y"]
)
def test_a_wrong_address_is_refused(corpus: Path, address: str) -> None:
    with pytest.raises(UsageError, match="is expected"):
        publish(corpus, address)


def test_an_unfinished_corpus_is_refused(corpus: Path) -> None:
    (corpus / "manifest.json").unlink()

    with pytest.raises(UsageError, match="no finished corpus"):
        publish(corpus, ADDRESS, dry_run=True)


# ---- many files ----


@pytest.fixture
def few_per_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the corpus had hundreds of files."""
    monkeypatch.setattr(publishing, "MOST_FILES", 8)
    monkeypatch.setattr(publishing, "PART_FILES", 7)


@pytest.mark.usefixtures("few_per_commit")
def test_many_files_become_visible_by_one_merge(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    report = send(corpus, api)
    repo = server.repos[REPO]

    assert set(server.visible(REPO)) - {".gitattributes"} == local(corpus)
    assert repo.refs["main"] == report.commit and repo.proposals[0]["status"] == "merged"
    assert (
        len([line for line in server.asked if "POST" in line and "/commit/refs/pr/1" in line]) > 2
    )
    assert send(corpus, api).num_sent_files == 0


@pytest.mark.usefixtures("few_per_commit")
@pytest.mark.parametrize("api", ["lfs"], indirect=True)
def test_many_files_for_a_branch_are_refused_before_anything_is_sent(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="pull request, which only main can have"):
            publish(corpus, f"{ADDRESS}@next", api=api, retries=QUICK, dry_run=dry_run)
    assert server.repos == {} and server.uploaded == []


@pytest.mark.usefixtures("few_per_commit")
def test_a_refused_part_leaves_main_as_it_was_and_is_taken_up_again(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    parts = 0

    def second(line: str) -> tuple[int, str] | None:
        nonlocal parts
        parts += "POST" in line and "/commit/refs/pr/1" in line
        return (403, "limit") if parts == 2 and "/commit/refs/pr/1" in line else None

    server.faults = second
    with pytest.raises(UsageError, match="limit"):
        send(corpus, api)
    assert set(server.visible(REPO)) == {".gitattributes"}
    staged = set(server.visible(REPO, "refs/pr/1"))
    assert len(staged) == 8

    server.faults = lambda _: None
    send(corpus, api)
    assert set(server.visible(REPO)) - {".gitattributes"} == local(corpus)
    assert len(server.repos[REPO].proposals) == 1, "the same pull request"


@pytest.mark.usefixtures("few_per_commit")
@pytest.mark.parametrize("api", ["xet"], indirect=True)
@pytest.mark.parametrize("status", [503, 0])
@pytest.mark.parametrize(
    "part",
    ["/commit/refs/pr/1", "/merge", "POST api/datasets/someone/tales/discussions", "/status"],
)
def test_a_passing_fault_on_the_way_of_many_files_is_survived(
    corpus: Path, server: HubServer, api: HfApi, part: str, status: int
) -> None:
    hit = once(server, part, status)
    send(corpus, api)

    assert hit and set(server.visible(REPO)) - {".gitattributes"} == local(corpus)


# ---- readers ----


def test_a_published_corpus_reads_as_the_local_one(
    corpus: Path, server: HubServer, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same samples, in the same order."""
    from cdgen import open_corpus

    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    send(corpus, api)
    shutil.copytree(corpus, tmp_path / "copy")
    remote = open_corpus(f"{ADDRESS}@cdgen-{read_manifest(corpus).digest[:16]}")

    for kind in ("mixed", "real", "synthetic"):
        assert list(remote.samples(kind)) == list(open_corpus(corpus).samples(kind))


def test_repository_module_limits_are_what_the_hub_asks() -> None:
    assert repository.MOST_FILES == 200 and publishing.PART_FILES == 100


# ---- the licence ----


def say(corpus: Path, **values: object) -> None:
    """Change what the manifest says of the licence."""
    write_manifest(corpus, replace(read_manifest(corpus), **values))  # type: ignore[arg-type]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("where", [ADDRESS, "copy"])
def test_a_corpus_whose_licence_cannot_be_told_is_not_published(
    corpus: Path, server: HubServer, api: HfApi, where: str, dry_run: bool
) -> None:
    """Neither to the Hub nor into a folder."""
    say(corpus, license_problems=("the expert has no licence", "the amateur has no licence"))
    address = where if where == ADDRESS else str(corpus.with_name(where))

    with pytest.raises(UsageError, match=r"the expert has no licence \(and 1 more\); .*`license:`"):
        publish(corpus, address, api=api, retries=QUICK, dry_run=dry_run)
    assert server.repos == {} and not corpus.with_name("copy").exists()


def test_a_licence_that_the_recipe_decides_is_published(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    why = ("the expert has no licence",)
    say(corpus, license="CC-BY-4.0", license_override=True, license_problems=why)
    send(corpus, api)

    published = json.loads(server.content(server.visible(REPO)["manifest.json"]))
    assert published["license"] == "CC-BY-4.0" and published["license_override"]
    assert published["license_problems"] == list(why)


def test_an_older_corpus_is_judged_by_its_recipe(
    corpus: Path, server: HubServer, api: HfApi
) -> None:
    """Its manifest tells no licence."""
    recipe = corpus / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("license: Apache-2.0", "license: CC-BY-ND-4.0"))

    with pytest.raises(UsageError, match=r"the source tales is under CC-BY-ND-4\.0"):
        send(corpus, api)
