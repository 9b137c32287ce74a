"""What a build into an object store sends: shards as they come, then what describes them, last the manifest."""

import hashlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Self

from cdgen.builders.destination import SENDERS
from cdgen.builders.report import REPORT
from cdgen.builders.stages import Build
from cdgen.corpus import open_folder
from cdgen.errors import BuildError
from cdgen.hub.contents import contents
from cdgen.shards.layout import MANIFEST
from cdgen.shards.manifest import Manifest
from cdgen.storage import Receipt
from cdgen.storage.buckets import BucketPlace
from cdgen.storage.conditional import Objects
from cdgen.storage.places import Hold, paths_of
from cdgen.storage.receipts import RECEIPTS


class Sending:
    """Delivers the shards that were made in the working folder, beside whatever goes on.

    A context manager: its end waits until they are there. In a folder they are there already.
    """

    def __init__(self, work: Build) -> None:
        self._work, self._stop = work, Event()
        self._place = work.place.until(self._stop)
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="cdgen-send")
        self._coming: deque[Future[bool]] = deque()
        self._stopped: list[BaseException] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None and self._coming:
                self._wait()
        finally:
            self._stop.set()
            self._pool.shutdown(cancel_futures=True)

    def begin(self, *receipts: Receipt) -> None:
        """Have finished shards delivered. Raises what stopped an earlier one."""
        if self._work.in_place:
            return
        for receipt in receipts:
            future = self._pool.submit(self._place.deliver, self._work.out, receipt)
            future.add_done_callback(self._note)
            self._coming.append(future)
        while self._coming and self._coming[0].done():
            self._coming.popleft().result()
        self.look()

    def look(self) -> None:
        """Raises what stopped a shard, if that has happened: it is told before hours of decoding, not after them."""
        if self._stopped:
            raise self._stopped[0]

    def _note(self, future: Future[bool]) -> None:
        """In any thread."""
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._stopped.append(error)

    def _wait(self) -> None:
        progress, total = self._work.progress, len(self._coming)
        with progress.stage("send", total=total, unit="shard") as advance:
            for future in self._coming:
                future.result()
                advance(1)


def send_rest(work: Build, manifest: Manifest) -> None:
    """Deliver what describes the shards, which are there; last the manifest.

    Whoever could have come in between is believed to have: nothing is written over that was not seen here, and nothing
    is moved away that came later.

    Args:
        work: a build whose working folder holds the finished corpus.
        manifest: of the corpus.

    Raises:
        BuildError: a shard is not there any more, or somebody else writes there.
    """
    if not isinstance(work.place, BucketPlace):
        return
    objects = _watched(work.place.objects, work.hold)
    report = (work.out / REPORT).read_bytes()
    _send(objects, REPORT.as_posix(), report, hashlib.sha256(report).hexdigest(), work.hold)
    shards = {path for shard in manifest.shards for path in (shard.name, shard.index.name)}
    items = [item for item in contents(open_folder(work.out)) if Path(item.path).name not in shards]
    there = set[str]()
    for item in items:
        if item.path == MANIFEST:  # the last one
            there = _shards_there(objects, manifest)
            work.hold.confirm()
        _send(objects, item.path, item.file or item.content, item.sha256, work.hold)
    _move_aside(objects, there, manifest, work.hold)
    with suppress(BuildError):  # parts of copies that came too late; as at the begin of a build
        objects.abort_uploads()


def _watched(objects: Objects, hold: Hold) -> Objects:
    """The same; before anything is tried again it is asked whether the folder is still ours."""
    retries = objects.retries

    def sleep(seconds: float) -> None:
        retries.sleep(seconds)
        hold.confirm()

    return replace(objects, retries=replace(retries, sleep=sleep))


def _shards_there(objects: Objects, manifest: Manifest) -> set[str]:
    """What is there of shards, indexes and receipts; BuildError where one is missing that the manifest will name."""
    there = {
        name: told
        for folder in ("data", "index", RECEIPTS)
        for name, told in objects.listed(folder).items()
    }
    for shard in manifest.shards:
        paths = paths_of(shard.name)
        for path, num_bytes in zip(paths, (shard.num_bytes, shard.index.num_bytes), strict=True):
            if path not in there or there[path].num_bytes != num_bytes:
                raise BuildError(
                    f"{objects.where}/{path}: is not there any more as it was delivered: somebody else has changed it, "
                    "or a worker that came late; no manifest was written, and the same command makes it anew"
                )
    return set(there)


def _send(objects: Objects, name: str, source: bytes | Path, sha256: str, hold: Hold) -> None:
    seen = objects.stat(name)
    hold.check()
    if not objects.update(name, source, sha256, seen):
        raise BuildError(
            f"{objects.where}/{name}: somebody else has written it while this build ended; "
            "if nothing builds there now, the same command goes on"
        )


def _move_aside(objects: Objects, there: Iterable[str], manifest: Manifest, hold: Hold) -> None:
    """What belongs to earlier digests goes to work/old/, as in a folder."""
    keep = {shard.name.removesuffix(".tar") for shard in manifest.shards}
    if manifest.filters is not None:
        keep |= {file.name.removesuffix(".parquet") for file in manifest.filters.files()}
    for name in sorted(there):
        if Path(name).name.partition(".")[0] not in keep:
            hold.check()
            objects.move(name, f"work/old/{name}")
