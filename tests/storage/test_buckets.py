"""A bucket as the place of a build: what holds for a folder holds here, through every fault of a network."""

import hashlib
import os
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_proxy import Plan, Proxy, writes
from shard_maker import made, manifest_naming
from stores import BUCKETS, Store, s3_store

from cdgen.errors import BuildError, DeterminismError, UsageError
from cdgen.shards.layout import MANIFEST
from cdgen.storage import drivers
from cdgen.storage.buckets import BucketPlace
from cdgen.storage.conditional import Objects
from cdgen.storage.objects import filesystem
from cdgen.storage.places import ASIDE, Folder, Place
from cdgen.storage.remote import GivenUpError, Retries

NAME = "synthetic-train-0123abcd-00000.tar"
QUICK = Retries(tries=5, sleep=lambda _: None)

store: Store = s3_store


@pytest.fixture(autouse=True, params=BUCKETS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3 or gs: each test meets both, and gs is skipped where there is no server of its kind."""
    monkeypatch.setattr(f"{__name__}.store", BUCKETS[request.param])
    return str(request.param)


only_s3 = pytest.mark.parametrize("kind", ["s3"], indirect=True)


@contextmanager
def bucket(tmp_path: Path, plan: Plan | None = None) -> Iterator[tuple[BucketPlace, Proxy]]:
    """A place in an empty folder of a bucket, and the proxy before its server."""
    empty = tmp_path / "nothing"
    empty.mkdir()
    with store(empty, plan) as (address, proxy):
        yield BucketPlace(address, QUICK), proxy


def content(place: BucketPlace) -> dict[str, bytes]:
    """Every object, by name."""
    objects = place.objects
    return objects.read_many(objects.listed())


def test_a_delivered_shard_is_there_and_comes_back(tmp_path: Path, kind: str) -> None:
    with bucket(tmp_path) as (place, proxy):
        receipt = made(tmp_path / "mine", NAME, b"text")
        assert place.deliver(tmp_path / "mine", receipt)
        commands = {"PUT": 3, "HEAD": 2} if kind == "s3" else {"POST": 3, "GET": 2}
        assert proxy.commands == commands, "as docs/scaling.md counts on"
        assert set(content(place)) == {*receipt.paths, f"work/receipts/{NAME}.json"}
        (there,) = place.receipts().values()
        if kind == "s3":
            assert there.versions["shard"] == hashlib.md5(b"text").hexdigest(), "the etag"
        else:
            assert there.versions["shard"].isdigit(), "the generation"
        place.fetch(tmp_path / "back", there)
        place.fetch(tmp_path / "back", there)
        made_again = tmp_path / "back" / f"work/receipts/{NAME}.json"
        assert b"versions" not in made_again.read_bytes()
        assert (tmp_path / "back" / receipt.paths[0]).read_bytes() == b"text"


def test_a_late_copy_of_the_same_bytes_changes_nothing(tmp_path: Path) -> None:
    with bucket(tmp_path) as (place, _):
        receipt = made(tmp_path / "a", NAME, b"text")
        assert place.deliver(tmp_path / "a", receipt)
        before = content(place)
        assert not place.deliver(tmp_path / "a", receipt)
        assert content(place) == before


@pytest.mark.parametrize("with_receipt", [True, False], ids=["with receipt", "before its receipt"])
def test_a_late_copy_of_other_bytes_stops_the_build_and_both_are_kept_aside(
    tmp_path: Path, with_receipt: bool
) -> None:
    with bucket(tmp_path) as (place, _):
        place.deliver(tmp_path / "a", made(tmp_path / "a", NAME, b"text"))
        if not with_receipt:
            place.objects.delete([f"work/receipts/{NAME}.json"])
        second = made(tmp_path / "b", NAME, b"else")
        with pytest.raises(DeterminismError, match=rf"{NAME}: was made twice") as caught:
            place.deliver(tmp_path / "b", second)
        assert f"{place.where}/{ASIDE}" in str(caught.value)
        there = content(place)
        assert all(name.startswith(ASIDE) for name in there), "neither counts"
        assert {there[n] for n in there if n.endswith(".tar")} == {b"text", b"else"}
        assert len([n for n in there if n.endswith(".json")]) == 1 + with_receipt
        assert place.deliver(tmp_path / "b", second), "the shard is made anew"


def test_of_two_that_find_out_at_once_both_say_so(tmp_path: Path) -> None:
    """The one moves the first copy aside while the other one is about to."""
    with bucket(tmp_path) as (place, proxy):
        place.deliver(tmp_path / "a", made(tmp_path / "a", NAME, b"text"))
        others = {word: made(tmp_path / word, NAME, word.encode()) for word in ("else", "more")}
        said: list[BaseException] = []

        def fail(word: str) -> None:
            try:
                place.deliver(tmp_path / word, others[word])
            except BuildError as error:
                said.append(error)

        def between(path: str, before: int) -> None:
            if ASIDE in path and writes(path) and other.ident is None:
                other.start()
                other.join()

        other = threading.Thread(target=fail, args=("more",))
        proxy.plan = between
        fail("else")
        assert [type(error) for error in said] == [DeterminismError] * 2
        aside = content(place)
        assert {aside[n] for n in aside if n.endswith(".tar")} == {b"text", b"else", b"more"}


def test_a_worker_that_comes_after_the_end_takes_nothing_from_the_corpus(tmp_path: Path) -> None:
    """It was given up, its job done elsewhere, and the manifest written."""
    with bucket(tmp_path) as (place, _):
        receipt = made(tmp_path / "a", NAME, b"text")
        place.deliver(tmp_path / "a", receipt)
        place.objects.put(MANIFEST, manifest_naming(receipt))
        before = content(place)
        assert not place.deliver(tmp_path / "a", receipt)
        second = made(tmp_path / "b", NAME, b"else")
        for _ in range(2):
            with pytest.raises(DeterminismError, match="the first belongs to a finished corpus"):
                place.deliver(tmp_path / "b", second)
        after = content(place)
        assert before.items() <= after.items()
        assert all(name.startswith(ASIDE) for name in after.keys() - before.keys())
        assert b"else" in after.values()


def test_a_copy_that_was_brought_before_another_one_was_made_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    """Both kept aside, the shard made anew: it may be as long as the first one was."""
    with bucket(tmp_path) as (place, _):
        for word in ("text", "else"):
            place.deliver(tmp_path / word, made(tmp_path / word, NAME, word.encode(), index=b"i"))
            (there,) = place.receipts().values()
            place.fetch(tmp_path / "back", there)
            assert (tmp_path / "back" / there.paths[0]).read_bytes() == word.encode()
            assert Folder(tmp_path / "back").holds(there)
            place.objects.delete(place.objects.listed())


def test_what_is_given_up_is_not_tried_again(tmp_path: Path) -> None:
    stop = threading.Event()

    def away(path: str, before: int) -> str | None:
        if not writes(path):
            return None
        stop.set()
        return "503"

    with bucket(tmp_path, away) as (place, proxy):
        slow = BucketPlace(place.address, Retries(first_wait_s=600.0, longest_wait_s=600.0))
        with pytest.raises(GivenUpError):
            slow.until(stop).deliver(tmp_path / "a", made(tmp_path / "a", NAME, b"text"))
        assert proxy.injected["503"] == 1


def test_of_many_workers_at_once_one_is_first(tmp_path: Path) -> None:
    with bucket(tmp_path) as (place, _):
        receipt, barrier = made(tmp_path / "a", NAME, b"text"), threading.Barrier(6)

        def deliver(_: int) -> bool:
            barrier.wait()
            return place.deliver(tmp_path / "a", receipt)

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(deliver, range(6))) == [False] * 5 + [True]


def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, int]:
    """(content, parts) of a shard that goes in several parts, each as small as S3 allows."""
    monkeypatch.setattr(drivers, "PART_BYTES", 5 << 20)
    return os.urandom(13 << 20), 3


@only_s3
def test_a_big_shard_goes_in_parts_and_appears_at_the_end_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, parts = large(tmp_path, monkeypatch)
    receipt = made(tmp_path / "a", NAME, data)
    with bucket(tmp_path) as (place, proxy):
        assert place.deliver(tmp_path / "a", receipt)
        assert proxy.commands == {"POST": 2, "PUT": parts + 2, "HEAD": 2}
        assert sum("partNumber" in path for path in proxy.paths) == parts
        assert not place.deliver(tmp_path / "a", receipt), "the condition is on the last request"
        with pytest.raises(DeterminismError):
            place.deliver(tmp_path / "b", made(tmp_path / "b", NAME, os.urandom(13 << 20)))
        assert not _unfinished(place)


def _unfinished(place: BucketPlace) -> list[str]:
    """The keys of uploads that nobody has ended."""
    files = filesystem(place.address)
    name = place.objects.root.partition("/")[0]
    return [
        u["Key"] for u in files.call_s3("list_multipart_uploads", Bucket=name).get("Uploads", ())
    ]


class Nth:
    """A plan: a fault at the nth write whose "COMMAND path?query" holds a word; then none."""

    def __init__(self, fault: str, word: str, nth: int = 0, times: int = 1) -> None:
        self.fault, self.word, self.first, self.last, self.seen = fault, word, nth, nth + times, 0

    def __call__(self, path: str, before: int) -> str | None:
        if self.word not in path:
            return None
        self.seen += 1
        return self.fault if self.first < self.seen <= self.last else None


@pytest.mark.parametrize("fault", ["503", "409", "reset", "lost"])
@pytest.mark.parametrize(
    "word",
    ["data/synthetic/synth", "index/", "work/receipts", "/"],
    ids=["shard", "index", "receipt", "any request"],
)
def test_a_shard_arrives_once_whatever_is_refused_cut_or_not_answered(
    tmp_path: Path, fault: str, word: str
) -> None:
    """503; 409, as S3 answers two conditional writes at once; an upload that is cut; one that was done unheard."""
    receipt = made(tmp_path / "a", NAME, b"text" * 5000)
    with bucket(tmp_path) as (place, proxy):
        plan = Nth(fault, word, times=2)
        proxy.plan = lambda path, before: (
            plan(path, before) if word == "/" or writes(path) else None
        )
        assert place.deliver(tmp_path / "a", receipt)
        assert proxy.injected[fault] >= 1
        (there,) = place.receipts().values()
        place.fetch(tmp_path / "back", there)
        assert not place.deliver(tmp_path / "a", receipt)


@only_s3
def test_a_write_may_take_half_a_minute_and_a_second_for_each_64_kib(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(10 << 16))
    assert [drivers.limit_s(one) for one in (b"", bytes(1 << 16), file)] == [30.0, 31.0, 40.0]


@pytest.mark.parametrize("word", ["data/synthetic/synth", "work/receipts"])
def test_a_store_that_takes_a_write_and_says_nothing_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Not even whether it wants the body: the libraries' own limits have not begun then."""
    limits = {False: 1.0, True: 600.0}
    silent, go_on, waited = threading.Event(), threading.Event(), list[bool]()
    monkeypatch.setattr(drivers, "limit_s", lambda _: limits[silent.is_set()])

    def plan(path: str, before: int) -> str | None:
        if silent.is_set() or not writes(path) or word not in path:
            return None
        silent.set()
        waited.append(go_on.wait(60))
        return "reset"

    receipt = made(tmp_path / "a", NAME, b"text")
    with bucket(tmp_path, plan) as (place, _):
        assert place.deliver(tmp_path / "a", receipt)
        go_on.set()
        assert list(place.receipts()) == [NAME]
    assert waited in ([], [True])


@pytest.mark.parametrize("fault", ["lost", "503"])
def test_an_earlier_listing_hides_nothing_that_was_written_since(
    tmp_path: Path, fault: str
) -> None:
    """The libraries keep listings, and forget them only when a write of their own was answered."""
    receipt = made(tmp_path / "a", NAME, b"text")
    first = made(tmp_path / "a", NAME.replace("00000", "00001"), b"other")
    note = f"work/receipts/{NAME}.json"
    with bucket(tmp_path) as (place, proxy):
        place.deliver(tmp_path / "a", first)

        def listed_first(path: str, before: int) -> str | None:
            if not writes(path) or note not in path.replace("%2F", "/") or proxy.injected[fault]:
                return None
            listing.start()
            listing.join()
            return fault

        listing = threading.Thread(target=place.objects.listed, args=("work/receipts",))
        proxy.plan = listed_first
        assert place.deliver(tmp_path / "a", receipt)
        assert proxy.injected[fault] == 1
        assert place.objects.read(note) is not None
        assert note in place.objects.read_many([note])
        assert list(place.receipts()) == [NAME, first.name]


def test_small_objects_are_read_with_one_request_each_whatever_their_names(tmp_path: Path) -> None:
    with bucket(tmp_path) as (place, proxy):
        objects = Objects(f"{place.address}/[a-z]*?", QUICK)
        names = [f"work/receipts/[{number}].json" for number in range(3)]
        for name in names:
            objects.put(name, name.encode())
        proxy.commands.clear()
        assert objects.read_many([*names, "no such"]) == {name: name.encode() for name in names}
        assert objects.read(names[0]) == names[0].encode()
        assert objects.read("no such") is None
        assert proxy.commands == {"GET": 6}
        assert sorted(objects.listed()) == names


def test_of_many_small_objects_those_that_came_are_not_asked_for_again(tmp_path: Path) -> None:
    """Each one is refused once, each in another round, and there are more of them than tries."""
    with bucket(tmp_path) as (place, proxy):
        names = [f"work/receipts/{number}.json" for number in range(2 * QUICK.tries)]
        for name in names:
            place.objects.put(name, name.encode())
        asked: Counter[str] = Counter()

        def plan(path: str, before: int) -> str | None:
            name = next(name for name in names if path.endswith(name))
            asked[name] += 1
            return "503" if asked[name] == names.index(name) + 1 else None

        proxy.plan = plan
        assert place.objects.read_many(names) == {name: name.encode() for name in names}
        assert asked == {name: 2 if name == names[0] else 1 for name in names}


@only_s3
@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
@pytest.mark.parametrize(
    "word", ["?uploads", "partNumber=2", ".tar?uploadId"], ids=["begin", "part", "end"]
)
def test_a_big_shard_arrives_once_whatever_happens_to_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, word: str
) -> None:
    data, _ = large(tmp_path, monkeypatch)
    receipt = made(tmp_path / "a", NAME, data)
    with bucket(tmp_path, Nth(fault, word)) as (place, proxy):
        assert place.deliver(tmp_path / "a", receipt)
        assert proxy.injected[fault] == 1
        assert list(place.receipts()) == [NAME]
        place.objects.abort_uploads()
        assert not _unfinished(place)


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
@pytest.mark.parametrize("word", ["uploadType=resumable", "upload_id="], ids=["begin", "bytes"])
@pytest.mark.parametrize("kind", ["gs"], indirect=True)
def test_a_big_shard_arrives_once_in_googles_two_requests(
    tmp_path: Path, fault: str, word: str
) -> None:
    """The condition is on both; whoever is second hears of it, whatever happens to them."""
    receipt = made(tmp_path / "a", NAME, os.urandom(9 << 20))
    with bucket(tmp_path, Nth(fault, word)) as (place, proxy):
        assert place.deliver(tmp_path / "a", receipt)
        assert proxy.injected[fault] == 1
        assert list(place.receipts()) == [NAME]
        assert not place.deliver(tmp_path / "a", receipt)
        with pytest.raises(DeterminismError):
            place.deliver(tmp_path / "b", made(tmp_path / "b", NAME, os.urandom(9 << 20)))


def test_a_store_that_does_not_come_back_is_one_line(tmp_path: Path) -> None:
    with bucket(tmp_path, lambda path, _: "503" if writes(path) else None) as (place, _):
        said = rf"{place.where}/data/synthetic/{NAME}: the store does not answer \(.*5 times; try"
        with pytest.raises(BuildError, match=said) as caught:
            place.deliver(tmp_path / "a", made(tmp_path / "a", NAME, b"text"))
        assert "\n" not in str(caught.value) and "s3cr3t" not in str(caught.value)
        assert content(place) == {}


def test_a_bucket_that_may_only_be_read_is_one_line(tmp_path: Path) -> None:
    with bucket(tmp_path, lambda path, _: "403" if writes(path) else None) as (place, _):
        with pytest.raises(BuildError, match="access is refused; check your credentials"):
            place.deliver(tmp_path / "a", made(tmp_path / "a", NAME, b"text"))
        with pytest.raises(BuildError, match="access is refused"), place.hold("build x"):
            pass


def test_resume_believes_what_has_the_size_and_the_version_of_its_receipt(tmp_path: Path) -> None:
    names = [f"synthetic-train-0123abcd-{n:05d}.tar" for n in range(6)]
    with bucket(tmp_path) as (place, _):
        receipts = [made(tmp_path / "a", name, name.encode()) for name in names]
        for receipt in receipts:
            place.deliver(tmp_path / "a", receipt)
        objects = place.objects
        objects.delete([receipts[1].paths[0]])
        objects.put(receipts[2].paths[0], receipts[2].paths[0].encode()[: receipts[2].num_bytes])
        objects.put(f"work/receipts/{names[3]}.json", b"{")
        objects.delete([f"work/receipts/{names[4]}.json"])
        assert list(place.receipts()) == [names[0], names[5]]
        place.withdraw(names[1:5])
        left = {*receipts[0].paths, *receipts[5].paths}
        left |= {f"work/receipts/{names[n]}.json" for n in (0, 5)}
        assert set(content(place)) == left
        assert all(place.deliver(tmp_path / "a", receipt) for receipt in receipts[1:5])
        assert set(place.receipts()) == set(names)


def test_a_damaged_receipt_is_written_over(tmp_path: Path) -> None:
    with bucket(tmp_path) as (place, _):
        receipt = made(tmp_path / "a", NAME, b"text")
        place.deliver(tmp_path / "a", receipt)
        place.objects.put(f"work/receipts/{NAME}.json", b"{")
        assert place.deliver(tmp_path / "a", receipt)
        assert list(place.receipts()) == [NAME]


def test_what_somebody_else_uploaded_is_compared_by_reading_it(tmp_path: Path) -> None:
    """Without our note on it: copied there by another tool."""
    with bucket(tmp_path) as (place, _):
        receipt = made(tmp_path / "a", NAME, b"text")
        place.objects.put(receipt.paths[0], b"text")
        assert place.deliver(tmp_path / "a", receipt)
        place.withdraw([NAME])
        place.objects.put(receipt.paths[0], b"tex_")
        with pytest.raises(DeterminismError):
            place.deliver(tmp_path / "a", receipt)


def test_a_text_that_looks_like_the_end_of_an_upload_arrives_whole(tmp_path: Path) -> None:
    """gcsfs parts its uploads by this very line."""
    text = b"before\n--==0==--\r\n--==0==\nContent-Type: text/plain\n\nafter"
    with bucket(tmp_path) as (place, _):
        place.objects.put("a", text)
        assert place.objects.read("a") == text


@only_s3
def test_uploads_of_others_in_the_same_bucket_are_left_alone(tmp_path: Path) -> None:
    with bucket(tmp_path) as (place, _):
        files = filesystem(place.address)
        name, _, folder = place.objects.root.partition("/")
        for key in (f"{folder}/data/a.tar", f"{folder}-2/data/a.tar"):
            files.call_s3("create_multipart_upload", Bucket=name, Key=key)
        place.objects.abort_uploads()
        assert _unfinished(place) == [f"{folder}-2/data/a.tar"]


@only_s3
def test_a_place_travels_and_shows_no_secret(tmp_path: Path) -> None:
    with bucket(tmp_path) as (place, _):
        again: Place = pickle.loads(pickle.dumps(BucketPlace(f"{place.address}/?token=s3cr3t")))
        assert again.where == place.where
        with pytest.raises(UsageError, match=r"s3://bucket: names no folder in a bucket"):
            Objects("s3://bucket")
