"""Receipts: what was written, noted after it was complete. Resume is the plan less the shards whose receipt matches.

Sizes are bytes, hashes are lower-case hex.
"""

import errno
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cdgen.errors import BuildError
from cdgen.storage.files import atomic_write, reading
from cdgen.storage.jsons import canonical_json, check_format, parse_json, typed

RECEIPT_FORMAT = 1
RECEIPTS = "work/receipts"
"""The folder of the receipts, in the corpus folder."""

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_CHECK = re.compile(rb'\{"check":"([0-9a-f]{64})",')
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_log = logging.getLogger("cdgen")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """A file as it was written. Raises ValueError for a name with a folder in it."""

    name: str
    sha256: str
    num_bytes: int

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name[:60]!r} is not a plain file name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof that a shard was finished, written after the shard and its index."""

    name: str
    """The shard's file name."""
    digest: str
    """The digest of the stage that the shard belongs to."""
    sha256: str
    num_bytes: int
    num_samples: int
    num_tokens: int
    num_text_bytes: int
    index: FileStamp
    numeric_class: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """What else was counted on the way, such as dropped parts by reason."""
    versions: dict[str, str] = field(default_factory=dict)
    """In an object store: what it calls the very bytes of `shard` and `index`, an etag for one. Empty in a folder."""

    def __post_init__(self) -> None:
        FileStamp(name=self.name, sha256=self.sha256, num_bytes=self.num_bytes)

    @property
    def paths(self) -> tuple[str, str]:
        """Where shard and index lie, in the corpus folder."""
        return f"data/{self.name.partition('-')[0]}/{self.name}", f"index/{self.index.name}"


def receipt_path(folder: Path, name: str) -> Path:
    """Where the receipt of the shard `name` lies."""
    return folder / f"{name}.json"


def write_receipt(folder: Path, receipt: Receipt) -> Path:
    """Write the receipt into `folder`; returns its path."""
    path = receipt_path(folder, receipt.name)
    atomic_write(path, receipt_bytes(receipt))
    return path


def receipt_bytes(receipt: Receipt) -> bytes:
    """What a receipt's file holds."""
    body = {"format": RECEIPT_FORMAT, **asdict(receipt)}
    if not receipt.versions:
        del body["versions"]
    check = hashlib.sha256(canonical_json(body)).hexdigest()
    return canonical_json({**body, "check": check}) + b"\n"


def read_receipt(path: Path) -> Receipt:
    """Read one receipt; BuildError if it is damaged, of a newer format, or under another shard's name."""
    with reading(path):
        data = path.read_bytes()
    return parse_receipt(data, str(path))


def find_receipt(
    folder: Path, name: str, *, report: Callable[[str], None] = _log.warning
) -> Receipt | None:
    """The receipt of the shard `name`. A damaged one counts as absent and is passed to `report`."""
    try:
        return read_receipt(receipt_path(folder, name))
    except BuildError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            report(f"{error}; its shard will be made again")
        return None


def parse_receipt(data: bytes, where: str) -> Receipt:
    """The receipt in the bytes of its file, which is called `where`. Raises: as `read_receipt`."""
    body: dict[str, Any] = dict(typed(dict, parse_json(data, where), where))
    check = body.pop("check", None)
    if not is_as_written(data) and check != hashlib.sha256(canonical_json(body)).hexdigest():
        raise BuildError(f"{where}: damaged: its own check sum does not match")
    receipt: Receipt = typed(Receipt, check_format(body, RECEIPT_FORMAT, where), where)
    if where.rpartition("/")[2] != f"{receipt.name}.json":
        raise BuildError(f"{where}: is the receipt of {receipt.name}")
    return receipt


def is_as_written(data: bytes) -> bool:
    """Whether the bytes are what `receipt_bytes` wrote, by their own check sum.

    The check comes first there and the rest is canonical, so it need not be written anew to be hashed: that is a third
    of the time of a restart. A file in which only white space or order differ is judged by its canonical form.
    """
    check = _CHECK.match(data)
    if check is None:
        return False
    rest = hashlib.sha256(b"{")
    rest.update(data[check.end() :].rstrip(b"\n"))
    return rest.hexdigest().encode() == check[1]


def read_receipts(
    folder: Path, *, but: Container[str] = (), report: Callable[[str], None] = _log.warning
) -> dict[str, Receipt]:
    """All receipts in `folder`, by shard name, but those of some shards, which are not read.

    A damaged one counts as absent and is passed to `report`.
    """
    receipts: dict[str, Receipt] = {}
    for name in sorted(file.removesuffix(".json") for file in _files(folder)):
        if name in but:
            continue
        receipt = find_receipt(folder, name, report=report)
        if receipt is not None:
            receipts[receipt.name] = receipt
    return receipts


def _files(folder: Path) -> list[str]:
    with reading(folder), suppress(FileNotFoundError):
        every = [path.name for path in folder.iterdir()]
        return [name for name in every if name.endswith(".json") and name[0] != "."]
    return []


def matches(receipt: Receipt, file: Path, index: Path | None = None) -> bool:
    """Whether a shard and its index are there and have the sizes on the receipt.

    Args:
        receipt: the shard's receipt.
        file: the shard.
        index: its index file; by default index/ of the corpus folder that holds the shard in data/<kind>/.
    """
    index = index or file.parent.parent.parent / "index" / receipt.index.name
    return (
        file.name == receipt.name
        and file_size(file) == receipt.num_bytes
        and file_size(index) == receipt.index.num_bytes
    )


def file_size(path: Path | str) -> int | None:
    """The size in bytes of a regular file, None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a restart asks for many, and a Path costs more than the answer
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    return found.st_size if stat.S_ISREG(found.st_mode) else None
