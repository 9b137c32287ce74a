"""Plain, byte-stable USTAR: the headers of our shards, and nothing that two machines could write differently.

A member is a header of 512 bytes, the content, and zeros up to a multiple of 512.
"""

import re

BLOCK = 512
END = bytes(2 * BLOCK)
"""The end-of-archive mark. Nothing follows it."""
MAX_NAME_BYTES = 100
MAX_MEMBER_BYTES = 8**11 - 1
"""What eleven octal digits hold: 8 GiB less one byte."""

_NAME = 0, 100
_SIZE = 124, 136
_CHECKSUM = 148, 156
_TYPE = 156
_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE = b"00000000000\0"  # the time of the last change: 1970
_TAIL = (b"0" + bytes(100) + b"ustar\0" + b"00").ljust(BLOCK - _TYPE, b"\0")
# By the standard, the check sum's own field counts as spaces.
_REST_SUM = 8 * ord(" ") + sum(_TAIL)
_TYPES = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder",
    b"6": "a fifo", b"x": "an extended header", b"g": "an extended header", b"L": "a GNU long name",
}  # fmt: skip


def header(name: str, num_bytes: int) -> bytes:
    """The 512 bytes before a member: a regular file, mode 0644, owner 0, time 0.

    Raises:
        ValueError: a name over 100 bytes, or a size of 8 GiB or more.
    """
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= MAX_NAME_BYTES:
        raise ValueError(
            f"a member's name must have 1 to {MAX_NAME_BYTES} bytes, {name[:120]!r} has {len(encoded)}"
        )
    if not 0 <= num_bytes <= MAX_MEMBER_BYTES:
        raise ValueError(f"{name}: {num_bytes} bytes; a member of a shard must stay under 8 GiB")
    head = encoded.ljust(_NAME[1], b"\0") + _BEFORE_SIZE + b"%011o\0" % num_bytes + _AFTER_SIZE
    checksum = sum(head) + _REST_SUM
    return head + b"%06o\0 " % checksum + _TAIL


def padding(num_bytes: int) -> bytes:
    """The zeros after a content of `num_bytes`."""
    return bytes(-num_bytes % BLOCK)


def stored(num_bytes: int) -> int:
    """Bytes that a member with a content of `num_bytes` takes in the file."""
    return BLOCK + num_bytes + -num_bytes % BLOCK


def parse(block: bytes) -> tuple[str, int]:
    """(name, size in bytes) of a header that `header` wrote; ValueError, saying what is wrong, for any other."""
    digits = block[_SIZE[0] : _SIZE[1] - 1]
    name = block[: _NAME[1]].rstrip(b"\0")
    if re.fullmatch(rb"[0-7]{11}", digits) and re.fullmatch(rb"[ -~]+", name):
        num_bytes = int(digits, 8)
        if header(name.decode(), num_bytes) == block:
            return name.decode(), num_bytes
    raise ValueError(_fault(block, name))


def _fault(block: bytes, name: bytes) -> str:
    """What is wrong with a header, for a person."""
    if not any(block):
        return "zeros where a header should be"
    field = block[slice(*_CHECKSUM)]
    checksum = sum(block) - sum(field) + 8 * ord(" ")
    if field != b"%06o\0 " % checksum:
        return "the header's check sum does not match"
    kind = block[_TYPE : _TYPE + 1]
    if kind != b"0":
        return f"{_TYPES.get(kind, 'a member of an unknown type')}: only regular files belong in a shard"
    return f"the header of {name[:60]!r} is not one that cdgen writes"
