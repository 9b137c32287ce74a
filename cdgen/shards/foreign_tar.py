"""A walk through a webdataset tar that somebody else wrote: where the members of each sample lie.

Only headers are read. Nothing is extracted, and no link is followed; a member that is not a plain file of a plain name
is skipped and reported, and a tar whose samples cannot be told apart with certainty is refused. Ustar, GNU and pax
headers are understood as far as they name a file and its size. `tarfile` is the reference in the tests; it is not used
here because it ends quietly at a damaged header and reads an extended header of any size into memory.

The rules for keys are webdataset's: everything up to the first dot of the base name is the key, the folder included.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

BLOCK = 512
MAX_NAME_BYTES = 4096
MAX_EXTENDED_BYTES = 1 << 20
"""Of a pax or GNU header; a name needs much less."""

_SAMPLE_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_REGULAR = b"0\0007"
_NO_CONTENT = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device", b"5": "",
    b"6": "a fifo",
}  # fmt: skip
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A plain file in a tar: its name, and the bytes of its content."""

    name: str
    offset: int
    length: int
    start: int
    """Of its first header."""
    end: int
    """Behind its padding."""


@dataclass(slots=True, kw_only=True)
class ForeignSample:
    """The members of one key, in the order of the tar."""

    key: str
    offset: int
    end: int
    endings: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


Skipped = Callable[[int, str], None]
"""Told the offset of a member that is left out, and why."""


def foreign_samples(path: Path, skipped: Skipped) -> Iterator[ForeignSample]:
    """Yield the samples of a tar in order. Memory: about 100 bytes per sample, to find a key that comes again.

    Raises:
        ValueError: unreadable, cut, damaged, or not a webdataset; says at which byte.
    """
    seen: set[bytes] = set()
    sample: ForeignSample | None = None
    for member in members(path, skipped):
        named = _SAMPLE_NAME.fullmatch(member.name)
        if named is None:
            skipped(member.start, f"{_shown(member.name)} has no key and ending")
            continue
        key, ending = named[1], named[2]
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            _remember(seen, key, member.start)
            sample = ForeignSample(key=key, offset=member.start, end=member.end)
        if ending.lower() in (known.lower() for known in sample.endings):
            raise ValueError(f"at byte {member.start}: a second member {_shown(member.name)}")
        sample.endings.append(ending)
        sample.offsets.append(member.offset)
        sample.lengths.append(member.length)
        sample.end = member.end
    if sample is not None:
        yield sample


def _remember(seen: set[bytes], key: str, start: int) -> None:
    digest = xxhash.xxh3_128_digest(key.encode())
    if digest in seen:
        raise ValueError(
            f"at byte {start}: the key {_shown(key)} comes again after another one; a sample's members must be "
            "neighbours (tar --sort=name writes them so) and keys must differ"
        )
    seen.add(digest)


def members(path: Path, skipped: Skipped) -> Iterator[Member]:
    """Yield the plain files of a tar in order; see `foreign_samples`."""
    try:
        with path.open("rb", buffering=0) as file:
            yield from _Walk(file.fileno(), os.fstat(file.fileno()).st_size, skipped).members()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


@dataclass(slots=True)
class _Extended:
    """What extended headers say of the next member."""

    start: int = -1
    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


class _Walk:
    """One pass over a tar's headers."""

    def __init__(self, descriptor: int, num_bytes: int, skipped: Skipped) -> None:
        self._descriptor, self._num_bytes, self._skipped = descriptor, num_bytes, skipped

    def members(self) -> Iterator[Member]:
        offset, extended = 0, _Extended()
        while True:
            block = self._read(offset, BLOCK)
            if len(block) < BLOCK:
                raise ValueError(
                    f"at byte {offset}: no end mark: the tar is cut, or still being written"
                )
            if not any(block):
                self._check_end(offset)
                return
            _check_sum(block, offset)
            kind = block[156:157]
            start = offset if extended.start < 0 else extended.start
            if kind in (b"x", b"g", b"L", b"K"):
                offset = self._extend(offset, block, kind, extended)
                extended.start = start
                continue
            size = 0 if kind in _NO_CONTENT else extended.size
            size = _size(block, offset) if size is None else size
            end = self._end_of(offset, size)
            name = self._name(start, block, extended, kind)
            if name:
                yield Member(name=name, offset=offset + BLOCK, length=size, start=start, end=end)
            offset, extended = end, _Extended()

    def _read(self, offset: int, num_bytes: int) -> bytes:
        return os.pread(self._descriptor, num_bytes, offset)

    def _end_of(self, offset: int, size: int) -> int:
        """Behind the padding of a member whose header is at `offset`."""
        if offset + BLOCK + size > self._num_bytes:
            raise ValueError(
                f"at byte {offset}: a member of {size} bytes, but only {self._num_bytes - offset - BLOCK} are left: "
                "the tar is cut or its sizes are wrong"
            )
        return offset + BLOCK + size + -size % BLOCK

    def _check_end(self, offset: int) -> None:
        while chunk := self._read(offset, _CHUNK):
            if chunk.strip(b"\0"):
                raise ValueError(
                    f"at byte {offset}: bytes behind the end mark: are these two tars in one file?"
                )
            offset += len(chunk)

    def _extend(self, offset: int, block: bytes, kind: bytes, extended: _Extended) -> int:
        """Read an extended header into `extended`; returns where the next header is."""
        size = _size(block, offset)
        end = self._end_of(offset, size)
        if size > MAX_EXTENDED_BYTES:
            raise ValueError(f"at byte {offset}: an extended header of {size} bytes")
        content = self._read(offset + BLOCK, size)
        if kind == b"L":
            extended.name = content.rstrip(b"\0")
        elif kind in (b"x", b"g"):
            _apply_pax(_pax_records(content, offset), extended, offset, is_global=kind == b"g")
        return end

    def _name(self, start: int, block: bytes, extended: _Extended, kind: bytes) -> str:
        """The member's name; "" for one that is left out, which is reported unless it is a folder."""
        name = _raw_name(block) if extended.name is None else extended.name
        what = _NO_CONTENT.get(kind)
        if what is None and kind not in _REGULAR:
            what = "a member of an unknown type"
        if extended.sparse:
            what = "a sparse file"
        fault = what if what is not None else _name_fault(name)
        if fault:
            self._skipped(start, f"{_shown(name.decode(errors='replace'))} is {fault}")
        if fault is not None or name.endswith(b"/"):
            return ""
        return name.decode()


def _raw_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _name_fault(name: bytes) -> str | None:
    """What is wrong with a name; None for a plain one. Names are never used as paths; these are still refused."""
    if not 0 < len(name) <= MAX_NAME_BYTES:
        return f"a name of {len(name)} bytes"
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return "a name that is not UTF-8"
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "a name with control characters"
    if text.startswith("/"):
        return "an absolute name"
    return "a name with .. in it" if ".." in text.split("/") else None


def _check_sum(block: bytes, offset: int) -> None:
    """Both ways of the check sum are in use: bytes from 0 to 255, and from -128 to 127."""
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[148:156])
    if _octal(block[148:156]) not in (unsigned, unsigned - 256 * high):
        raise ValueError(f"at byte {offset}: not a tar header: its check sum does not match")


def _size(block: bytes, offset: int) -> int:
    digits = block[124:136]
    if digits[0] == 0x80:  # GNU: a size of 8 GiB or more, in binary
        return int.from_bytes(digits[1:], "big")
    size = _octal(digits)
    if size is None:
        raise ValueError(f"at byte {offset}: a size that is not a number")
    return size


def _octal(digits: bytes) -> int | None:
    text = digits.partition(b"\0")[0].strip(b" ")
    return int(text or b"0", 8) if re.fullmatch(rb"[0-7]*", text) else None


def _pax_records(content: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each record: length, space, key=value, newline."""
    at = 0
    while at < len(content) and content[at] != 0:
        head = re.compile(rb"(\d{1,9}) ").match(content, at)
        end = at + int(head[1]) if head else 0
        if head is None or not head.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise ValueError(f"at byte {offset}: a damaged pax header")
        key, _, value = content[head.end() : end - 1].partition(b"=")
        yield key, value
        at = end


def _apply_pax(
    records: Iterator[tuple[bytes, bytes]], extended: _Extended, offset: int, *, is_global: bool
) -> None:
    for key, value in records:
        if key in (b"path", b"size") and is_global:
            raise ValueError(f"at byte {offset}: a global header that names files")
        if key == b"path":
            extended.name = value
        elif key == b"size":
            if not re.fullmatch(rb"\d{1,18}", value):
                raise ValueError(f"at byte {offset}: a size that is not a number")
            extended.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            extended.sparse = True


def _shown(name: str) -> str:
    """A name for a message: on one line, and not too long."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:76]}...'"
