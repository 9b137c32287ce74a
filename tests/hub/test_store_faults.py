"""Publishing into a bucket through the faults of a network: the corpus arrives whole, or a reader sees none."""

import random
from pathlib import Path
from threading import Event

import pytest
from faulty_proxy import FAULTS
from stores import s3_store

from cdgen import open_corpus
from cdgen.errors import BuildError, UsageError
from cdgen.hub import stores as hub_stores
from cdgen.hub.publish import publish
from cdgen.storage.conditional import Objects
from cdgen.storage.remote import Retries

QUICK = Retries(tries=8, sleep=lambda _: None)
UPLOADS = ("503", "reset", "lost")


def empty(tmp_path: Path) -> Path:
    (tmp_path / "nothing").mkdir()
    return tmp_path / "nothing"


@pytest.mark.parametrize("fault", UPLOADS)
def test_a_corpus_arrives_whole_whatever_happens_to_a_third_of_its_uploads(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Refused, cut in the middle, or done without an answer."""
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    draws = random.Random(3)

    def plan(path: str, before: int) -> str | None:
        return fault if path.startswith("PUT") and draws.random() < 0.33 else None

    with s3_store(empty(tmp_path), plan) as (address, proxy):
        report = publish(corpus, address, retries=QUICK)
        assert proxy.injected[fault] >= 5
        assert report.num_sent_files == report.num_files
        there, here = open_corpus(address), open_corpus(corpus)
        assert list(there.samples()) == list(here.samples())
        assert publish(corpus, address, retries=QUICK).num_sent_files == 0


@pytest.mark.parametrize("nth", [1, 7, 20])
def test_a_publication_that_is_given_up_shows_no_corpus_and_goes_on_later(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """From some upload on the store refuses everything; later it is there again."""
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    down, seen = [True], [0]

    def plan(path: str, before: int) -> str | None:
        seen[0] += path.startswith("PUT")
        return "503" if down[0] and seen[0] >= nth and path.startswith("PUT") else None

    with s3_store(empty(tmp_path), plan) as (address, _):
        with pytest.raises(BuildError, match=r"the store does not answer \(.*; try again later"):
            publish(corpus, address, retries=Retries(tries=2, sleep=lambda _: None))
        with pytest.raises(UsageError, match=r"no manifest.json, so no finished corpus"):
            open_corpus(address)
        down[0] = False
        report = publish(corpus, address, retries=QUICK)
        assert report.num_sent_files == report.num_files - (nth - 1), "what had arrived stays"
        assert open_corpus(address).manifest.digest == report.manifest_digest


def test_a_store_that_takes_an_upload_and_says_nothing_is_asked_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {False: 1.0, True: 600.0}
    silent, go_on, waited = Event(), Event(), list[bool]()
    monkeypatch.setattr(hub_stores, "limit_s", lambda _: limits[silent.is_set()])

    def plan(path: str, before: int) -> str | None:
        if silent.is_set() or not path.startswith("PUT"):
            return None
        silent.set()
        waited.append(go_on.wait(60))
        return "reset"

    with s3_store(empty(tmp_path), plan) as (address, _):
        report = publish(corpus, address, retries=QUICK)
        go_on.set()
        assert report.num_sent_files == report.num_files
    assert waited in ([], [True])


@pytest.mark.parametrize("name", ["data/real/theirs.tar", "manifest.json"])
def test_who_publishes_while_somebody_else_does_is_told(
    corpus: Path, tmp_path: Path, name: str
) -> None:
    """The place was empty for both of them. The other's manifest is as long as ours."""
    theirs = (corpus / "manifest.json").read_bytes().replace(b"a", b"b")

    with s3_store(empty(tmp_path), None) as (address, proxy):
        objects, put = Objects(address), list[str]()

        def meanwhile(path: str, before: int) -> None:
            """After the last file of ours, before it is looked at what arrived."""
            if path.startswith("PUT") and path.endswith("manifest.json"):
                put.append(path)
            elif put and not path.startswith("PUT") and put[-1] != "done":
                put.append("done")
                objects.put(name, theirs)

        proxy.plan = meanwhile
        with pytest.raises(BuildError, match=f"somebody else published there .*{name}"):
            publish(corpus, address, retries=QUICK)


def test_a_bucket_that_may_only_be_read_is_one_line(corpus: Path, tmp_path: Path) -> None:
    def plan(path: str, before: int) -> str | None:
        return "403" if path.startswith("PUT") else None

    with s3_store(empty(tmp_path), plan) as (address, _):
        with pytest.raises(BuildError, match="access is refused; check your credentials") as caught:
            publish(corpus, address, retries=QUICK)
        assert "\n" not in str(caught.value) and "s3cr3t" not in str(caught.value)
        assert Objects(address).listed() == {}


def test_these_are_faults_of_the_proxy() -> None:
    assert set(UPLOADS) <= set(FAULTS)
