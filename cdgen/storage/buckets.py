"""A corpus folder in an object store as the place of a build: s3://bucket/folder, gs://bucket/folder.

Content, index and last the receipt are put where nothing is yet, each complete or not at all. An object carries the
SHA-256 that its writer found, so that a second copy is compared without reading the first. The receipt says what the
store calls the very bytes (`versions`): resume lists the folder and believes what has the size and the version.
"""

import secrets
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import NoReturn

from cdgen.errors import BuildError, DeterminismError
from cdgen.storage.conditional import Objects
from cdgen.storage.drivers import Stored
from cdgen.storage.files import atomic_file
from cdgen.storage.lease import TERM_S, Held, leased
from cdgen.storage.objects import PIECE_BYTES, Bucket
from cdgen.storage.places import (
    ASIDE,
    MANIFEST,
    Folder,
    aside_name,
    is_named,
    made_twice,
    paths_of,
)
from cdgen.storage.receipts import (
    RECEIPTS,
    FileStamp,
    Receipt,
    parse_receipt,
    receipt_bytes,
    receipt_path,
)
from cdgen.storage.remote import PATIENT, Retries, download


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """See `cdgen.storage.places.Place`.

    Attributes:
        address: s3:// or gs://, a bucket and a folder in it.
        retries: what is done about faults that may pass.
        term_s: how long a build that is not heard of keeps the folder.
    """

    address: str
    retries: Retries = field(default=PATIENT, compare=False)
    term_s: float = TERM_S

    @property
    def where(self) -> str:
        """Its address, without secrets."""
        return self.objects.where

    @property
    def objects(self) -> Objects:
        """The folder's objects."""
        return Objects(self.address, self.retries)

    def deliver(self, root: Path, receipt: Receipt) -> bool:
        """Two objects, then the receipt: see `Place.deliver`."""
        objects, versions = self.objects, {}
        stamps = zip(("shard", "index"), receipt.paths, stamps_of(receipt), strict=True)
        for what, name, stamp in stamps:
            stored = self._delivered(objects, name, root / name, stamp)
            if stored is None:
                self._fault(objects, root, receipt)
            versions[what] = stored.version
        return self._note(objects, replace(receipt, versions=versions))

    def receipts(self) -> dict[str, Receipt]:
        """Those whose shard and index have the size and the version that they say."""
        return self._proven(self.objects.listed())

    def withdraw(self, names: Iterable[str]) -> None:
        """The receipt is deleted first: see `Place.withdraw`."""
        objects = self.objects
        there = objects.listed("data") | objects.listed("index") | objects.listed(RECEIPTS)
        if there:
            for name in names:
                paths = f"{RECEIPTS}/{name}.json", *reversed(paths_of(name))
                objects.delete(path for path in paths if path in there)

    def fetch(self, root: Path, receipt: Receipt) -> None:
        """Each file is checked against the receipt's hash. Another copy that was brought earlier makes room."""
        here = replace(receipt, versions={})
        folder = Folder(root)
        if folder.holds(here):
            return
        receipt_path(root / RECEIPTS, receipt.name).unlink(missing_ok=True)
        bucket = Bucket(self.address)
        for name, stamp in zip(receipt.paths, stamps_of(receipt), strict=True):
            with atomic_file(root / name) as file:
                download(bucket, name, stamp, file, retries=self.retries)
        folder.deliver(root, here)

    def hold(self, purpose: str) -> AbstractContextManager[Held]:
        """A lease: see `cdgen.storage.lease`."""
        return leased(self.objects, purpose, term_s=self.term_s)

    def until(self, stop: Event) -> "BucketPlace":
        """See `Place.until`."""
        return replace(self, retries=self.retries.until(stop))

    def _delivered(
        self, objects: Objects, name: str, file: Path, stamp: FileStamp
    ) -> Stored | None:
        """What the store has now; None if that is another file."""
        objects.create(name, file, stamp.sha256)
        stored = objects.stat(name)
        if stored is None:
            raise BuildError(f"{objects.where}/{name}: was taken away while it was written")
        if stored.num_bytes != stamp.num_bytes:
            return None
        return stored if _sha256(objects, name, stored) == stamp.sha256 else None

    def _proven(self, there: dict[str, Stored]) -> dict[str, Receipt]:
        names = [name for name in there if name.startswith(f"{RECEIPTS}/")]
        found = {}
        for name, data in self.objects.read_many(names).items():
            receipt = _parsed(data, name)
            if receipt is not None and _has(there, receipt):
                found[receipt.name] = receipt
        return dict(sorted(found.items()))

    def _note(self, objects: Objects, receipt: Receipt) -> bool:
        name, data = f"{RECEIPTS}/{receipt.name}.json", receipt_bytes(receipt)
        mine = secrets.token_hex(8)
        if objects.create(name, data, note=mine):
            return True
        stored, there = objects.stat(name), objects.read(name)
        if stored is None or there is None:
            raise BuildError(f"{objects.where}/{name}: was taken away while it was written")
        if stored.note == mine:
            return True  # the answer to our first try was lost
        said = _parsed(there, name)
        if said is not None and said.versions == receipt.versions:
            return False
        # Damaged, or of objects that are gone: these were compared by their hashes.
        objects.replace(name, data, stored.version)
        return True

    def _fault(self, objects: Objects, root: Path, receipt: Receipt) -> NoReturn:
        """Two copies of one shard differ: keep both aside, so that the build makes it anew, and stop."""
        noted = f"{RECEIPTS}/{receipt.name}.json"
        there = {name: objects.stat(name) for name in (noted, *reversed(receipt.paths))}
        hashes = [_sha256(objects, name, told) for name in receipt.paths if (told := there[name])]
        first = f"{ASIDE}/{aside_name(receipt.name, hashes)}"
        second = f"{ASIDE}/{aside_name(receipt.name, (s.sha256 for s in stamps_of(receipt)))}"
        kept = is_named(objects.read(MANIFEST) or b"", hashes)
        for name, told in there.items():
            if told is not None and not kept:
                objects.move(name, f"{first}/{Path(name).name}")
        for name, stamp in zip(receipt.paths, stamps_of(receipt), strict=True):
            objects.create(f"{second}/{stamp.name}", root / name, stamp.sha256)
        objects.create(f"{second}/{receipt.name}.json", receipt_bytes(receipt))
        raise DeterminismError(
            made_twice(receipt, next(iter(hashes), ""), f"{self.where}/{ASIDE}", kept=kept)
        )


def stamps_of(receipt: Receipt) -> tuple[FileStamp, FileStamp]:
    """Shard and index."""
    shard = FileStamp(name=receipt.name, sha256=receipt.sha256, num_bytes=receipt.num_bytes)
    return shard, receipt.index


def _parsed(data: bytes, name: str) -> Receipt | None:
    try:
        return parse_receipt(data, name)
    except BuildError:  # damaged, so it proves nothing
        return None


def _has(there: dict[str, Stored], receipt: Receipt) -> bool:
    """Whether shard and index are what the receipt says, as far as a listing tells."""
    keys = zip(("shard", "index"), receipt.paths, stamps_of(receipt), strict=True)
    return all(
        (told := there.get(name)) is not None
        and (told.num_bytes, told.version) == (stamp.num_bytes, receipt.versions.get(what))
        for what, name, stamp in keys
    )


def _sha256(objects: Objects, name: str, stored: Stored) -> str:
    """What its writer noted; of an object that somebody else put there, found by reading it."""
    if stored.sha256:
        return stored.sha256
    total, bucket = sha256(), Bucket(objects.address)

    def piece(start: int, end: int) -> bytes:
        return b"".join(bucket.read(name, start, end))

    for start in range(0, stored.num_bytes, PIECE_BYTES):
        end = min(start + PIECE_BYTES, stored.num_bytes)
        total.update(objects.retries.run(partial(piece, start, end), f"{objects.where}/{name}"))
    return total.hexdigest()
