"""What a build into an object store sends: shards as they come, then what describes them, last the manifest."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from cdgen.builders.destination import SENDERS
from cdgen.builders.report import REPORT
from cdgen.builders.stages import Build
from cdgen.corpus import open_folder
from cdgen.hub.contents import contents
from cdgen.shards.layout import MANIFEST
from cdgen.shards.manifest import Manifest
from cdgen.storage import Receipt
from cdgen.storage.buckets import BucketPlace
from cdgen.storage.conditional import Objects
from cdgen.storage.receipts import RECEIPTS


class Sending:
    """Delivers the shards that were made in the working folder, beside whatever goes on.

    A context manager: its end waits until they are there. In a folder they are there already.
    """

    def __init__(self, work: Build) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="cdgen-send")
        self._coming: deque[Future[bool]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None and self._coming:
                self._wait()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, *receipts: Receipt) -> None:
        """Have finished shards delivered. Raises what stopped an earlier one."""
        if self._work.in_place:
            return
        deliver, out = self._work.place.deliver, self._work.out
        self._coming.extend(self._pool.submit(deliver, out, receipt) for receipt in receipts)
        while self._coming and self._coming[0].done():
            self._coming.popleft().result()

    def _wait(self) -> None:
        progress, total = self._work.progress, len(self._coming)
        with progress.stage("send", total=total, unit="shard") as advance:
            for future in self._coming:
                future.result()
                advance(1)


def send_rest(work: Build, manifest: Manifest) -> None:
    """Deliver what describes the shards, which are there; last the manifest.

    Args:
        work: a build whose working folder holds the finished corpus.
        manifest: of the corpus.
    """
    if not isinstance(work.place, BucketPlace):
        return
    objects = work.place.objects
    shards = {path for shard in manifest.shards for path in (shard.name, shard.index.name)}
    items = [item for item in contents(open_folder(work.out)) if Path(item.path).name not in shards]
    report = (work.out / REPORT).read_bytes()
    objects.put(REPORT.as_posix(), report)
    for item in items:  # the manifest is the last one
        if item.path == MANIFEST:
            work.hold.confirm()
        there = objects.stat(item.path)
        if there is None or there.sha256 != item.sha256:
            objects.put(item.path, item.file or item.content, item.sha256)
    _move_aside(objects, manifest)


def _move_aside(objects: Objects, manifest: Manifest) -> None:
    """What belongs to earlier digests goes to work/old/, as in a folder."""
    keep = {shard.name.removesuffix(".tar") for shard in manifest.shards}
    if manifest.filters is not None:
        keep |= {file.name.removesuffix(".parquet") for file in manifest.filters.files()}
    for folder in ("data", "index", RECEIPTS):
        for name in objects.listed(folder):
            if Path(name).name.partition(".")[0] not in keep:
                objects.move(name, f"work/old/{name}")
