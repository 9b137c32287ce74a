"""Publishing to folders and object stores: the manifest comes last, faults pass, nobody's files are mixed in."""

import shutil
from pathlib import Path

import pytest
from faulty_proxy import Plan
from stores import s3_store

from cdgen import open_corpus
from cdgen.errors import BuildError, UsageError
from cdgen.hub.publish import publish
from cdgen.storage.remote import Retries

QUICK = Retries(tries=5, sleep=lambda _: None)


def local(folder: Path) -> set[str]:
    """What a published corpus holds."""
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return {name for name in names if not name.startswith("work/")}


def empty(tmp_path: Path) -> Path:
    """A folder for a bucket that holds nothing yet."""
    (tmp_path / "nothing").mkdir()
    return tmp_path / "nothing"


def first(part: str, fault: str, times: int = 1) -> Plan:
    """The first requests for what has `part` in its name meet a fault."""
    return lambda path, before: fault if part in path and before < times else None


@pytest.mark.parametrize("fault", ["", "503", "429", "reset"])
def test_a_corpus_in_a_bucket_reads_as_the_local_one_and_is_sent_once(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    with s3_store(empty(tmp_path), first("synthetic-train", fault) if fault else None) as (
        address,
        proxy,
    ):
        report = publish(corpus, address, retries=QUICK)
        assert report.num_sent_files == report.num_files == len(local(corpus))
        assert not fault or proxy.injected[fault]
        there, here = open_corpus(address), open_corpus(corpus)
        assert list(there.samples()) == list(here.samples())
        again = publish(corpus, address, retries=QUICK)
        assert again.num_sent_files == 0
        dry = publish(corpus, f"{address}-2", dry_run=True, retries=QUICK)
        assert dry.num_sent_files == dry.num_files
        with pytest.raises(UsageError, match="no finished corpus"):
            open_corpus(f"{address}-2")


def test_a_publication_that_fails_has_no_manifest_and_goes_on(corpus: Path, tmp_path: Path) -> None:
    broken = {"now": True}

    def plan(path: str, before: int) -> str | None:
        return "403" if broken["now"] and "mixed-train" in path and path.endswith(".tar") else None

    with s3_store(empty(tmp_path), plan) as (address, _):
        with pytest.raises((BuildError, UsageError)):
            publish(corpus, address, retries=QUICK)
        with pytest.raises(UsageError, match="no finished corpus"):
            open_corpus(address)
        broken["now"] = False
        report = publish(corpus, address, retries=QUICK)
        assert 0 < report.num_sent_files < report.num_files
        assert open_corpus(address).manifest.digest == open_corpus(corpus).manifest.digest


def test_a_bucket_with_other_files_is_refused(corpus: Path, tmp_path: Path) -> None:
    place = empty(tmp_path)
    (place / "notes.txt").write_text("mine")
    with (
        s3_store(place) as (address, _),
        pytest.raises(
            UsageError, match=r"holds 1 files that are not of this corpus, first notes\.txt"
        ),
    ):
        publish(corpus, address, retries=QUICK)


def test_a_folder_gets_a_copy_that_is_the_corpus(corpus: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    publish(corpus, str(target))
    assert local(target) == local(corpus) and not (target / "work").exists()
    assert list(open_corpus(target).samples()) == list(open_corpus(corpus).samples())
    assert publish(corpus, str(target)).num_sent_files == 0
    shard = next(target.glob("data/real/*.tar"))
    shard.write_bytes(b"x" * shard.stat().st_size)
    assert publish(corpus, str(target)).num_sent_files == 2, "the shard, and the manifest after it"
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not of this corpus"):
        publish(corpus, str(target))
    shutil.rmtree(target)
    target.write_text("")
    with pytest.raises(UsageError, match="is a file"):
        publish(corpus, str(target))
