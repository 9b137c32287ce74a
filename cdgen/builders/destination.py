"""Where a build goes: a folder, or a folder of an object store, for which this process works in a folder of its own.

The working folder is shaped like the corpus; text, index, mix and description are made there on plain paths, and what
is finished is delivered. It can be deleted at any time: what it had is made again, or fetched, with the same bytes.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

from cdgen.builders.report import REPORT
from cdgen.builders.stages import Build
from cdgen.builders.status import STATUS, status_of
from cdgen.builders.tally import Tally
from cdgen.errors import BuildError, UsageError
from cdgen.progress import Advance, Progress
from cdgen.shards.layout import MANIFEST
from cdgen.storage import Receipt, atomic_write, canonical_json
from cdgen.storage.buckets import BucketPlace
from cdgen.storage.cache import default_cache
from cdgen.storage.places import Folder, Place
from cdgen.storage.remote import is_remote, shown

WORKING = "builds"
"""In the cache: the working folders, each under the SHA-256 of its address."""
SENDERS = 8
"""Shards that are sent or fetched at a time: one connection rarely fills a line."""
TELL_S = 20.0
"""How often the state of a build is written beside it, for `cdgen status` from elsewhere."""

_WRITTEN = ("s3", "gs")


def destination(out: str | Path | None, name: str, cache: Path | None) -> tuple[Path, Place]:
    """(the folder to work in, where finished shards go).

    Args:
        out: a folder, or an address as text; shards/<name> by default.
        name: of the recipe.
        cache: the cache folder; $CDGEN_CACHE by default.

    Raises:
        UsageError: an address that nothing can be built into.
    """
    if isinstance(out, Path) and re.match(r"[A-Za-z][A-Za-z0-9]+:/", str(out)):
        raise UsageError(f"{out}: give an address as text: a path drops one of its slashes")
    if not isinstance(out, str) or not is_remote(out):
        folder = Path(out) if out is not None else Path("shards") / name
        return folder, Folder(folder)
    scheme = out.partition("://")[0].lower()
    if scheme not in _WRITTEN:
        publish = (
            f"; build into a folder, then cdgen publish DIR {shown(out)}" if scheme == "hf" else ""
        )
        raise UsageError(
            f"{shown(out)}: a build cannot write there: a folder, s3:// or gs:// is expected{publish}"
        )
    place = BucketPlace(out.rstrip("/"))
    return working_folder(place.where, cache), place


def working_folder(where: str, cache: Path | None = None) -> Path:
    """The folder on this machine in which a build into an address works."""
    return (cache or default_cache()) / WORKING / sha256(where.encode()).hexdigest()[:32]


def check_address(place: Place) -> None:
    """Refuse an address that holds something else. Raises UsageError."""
    if not isinstance(place, BucketPlace):
        return
    top = place.objects.top()
    if top and not {"work", MANIFEST} & set(top):
        raise UsageError(
            f"{place.where}: holds files that are not a cdgen corpus, first {top[0][:60]}; choose another with --out"
        )


@contextmanager
def held(work: Build, purpose: str) -> Iterator[Build]:
    """Be the only build there, and in the working folder, while the block runs.

    Yields:
        The build, whose progress now stops it when the place may be another build's, and tells its state there.
    """
    with ExitStack() as stack:
        places = dict.fromkeys((Folder(work.out), work.place))
        hold = [stack.enter_context(place.hold(purpose)) for place in places][-1]
        progress = work.progress
        if isinstance(work.place, BucketPlace):
            progress = Watched(progress, hold.check, work.place)
        yield replace(work, hold=hold, progress=progress)


class Watched:
    """A progress listener that looks, at whatever is done, whether the place is still this build's."""

    def __init__(
        self,
        inner: Progress,
        check: Callable[[], None],
        place: BucketPlace,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._check, self._place, self._clock = inner, check, place, clock
        self._tally, self._told = Tally(), clock() - TELL_S

    def heard(self, event: Mapping[str, Any]) -> None:
        """Pass on an event, and tell where the build stands from time to time, and at its end."""
        self._check()
        self._inner.heard(event)
        self._tally.add(dict(event))
        last = event.get("event") in ("built", "failed")
        if last or self._clock() - self._told >= TELL_S:
            self._told = self._clock()
            state = status_of(self._place.where, self._tally.stand(), None)
            objects = self._place.objects
            if not last:  # it is told again soon; nobody who hears of it waits meanwhile
                objects = replace(objects, retries=replace(objects.retries, tries=1))
            with suppress(BuildError):  # a build does not end because nobody can be told
                objects.put(STATUS, canonical_json(asdict(state)) + b"\n")

    def say(self, line: str) -> None:
        """Pass on a line."""
        self._inner.say(line)

    @contextmanager
    def stage(self, name: str, *, total: int | None, unit: str) -> Iterator[Advance]:
        """Pass on a stage."""
        self._check()
        with self._inner.stage(name, total=total, unit=unit) as advance:

            def checked(amount: int = 1, *, note: str = "") -> None:
                self._check()
                advance(amount, note=note)

            yield checked


def begin(work: Build) -> None:
    """Before a build into an address: clear what killed ones left there, and bring what says that it is finished."""
    if not isinstance(work.place, BucketPlace):
        return
    objects = work.place.objects
    with suppress(BuildError):  # not every store lists uploads, or lets everybody do so
        objects.abort_uploads()
    for name in (MANIFEST, REPORT.as_posix()):
        data = objects.read(name)
        if data is None:
            (work.out / name).unlink(missing_ok=True)
        elif not (work.out / name).is_file() or (work.out / name).read_bytes() != data:
            atomic_write(work.out / name, data)


def fetch_all(work: Build, receipts: Sequence[Receipt]) -> None:
    """Bring delivered shards into the working folder, for the mix."""
    if not isinstance(work.place, BucketPlace):
        return
    missing = [kept for kept in receipts if not Folder(work.out).holds(kept)]
    if not missing:
        return
    stop = Event()
    place = work.place.until(stop)
    with (
        work.progress.stage("fetch", total=len(missing), unit="shard") as advance,
        ThreadPoolExecutor(SENDERS, thread_name_prefix="cdgen-fetch") as pool,
    ):
        coming = [pool.submit(place.fetch, work.out, receipt) for receipt in missing]
        try:
            for future in coming:
                future.result()
                advance(1)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
