"""Publishing to folders and object stores: the manifest comes last, faults pass, nobody's files are mixed in."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import stores
from stores import BUCKETS

from cdgen import open_corpus
from cdgen.errors import UsageError
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


@contextmanager
def bucket(folder: Path, kind: str) -> Iterator[str]:
    """The address of a folder on a server that holds what is in `folder`; before the S3 server nothing stands."""
    with BUCKETS[kind](folder, None) as (address, _), pytest.MonkeyPatch.context() as environment:
        if kind == "s3":
            environment.setenv("AWS_ENDPOINT_URL", stores._s3_server())
            pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
        yield address


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_corpus_in_a_bucket_reads_as_the_local_one_and_is_sent_once(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    with bucket(empty(tmp_path), kind) as address:
        report = publish(corpus, address, retries=QUICK)
        assert report.num_sent_files == report.num_files == len(local(corpus))
        there, here = open_corpus(address), open_corpus(corpus)
        assert list(there.samples()) == list(here.samples())
        assert publish(corpus, address, retries=QUICK).num_sent_files == 0
        dry = publish(corpus, f"{address}-2", dry_run=True, retries=QUICK)
        assert dry.num_sent_files == dry.num_files
        with pytest.raises(UsageError, match="no finished corpus"):
            open_corpus(f"{address}-2")


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_bucket_with_other_files_is_refused(corpus: Path, tmp_path: Path, kind: str) -> None:
    (empty(tmp_path) / "notes.txt").write_text("mine")
    with (
        bucket(tmp_path / "nothing", kind) as address,
        pytest.raises(UsageError, match=r"holds 1 files that are not of this corpus, first notes"),
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
