"""A strict walk through the bytes of one of our shards, and what is in each sample.

Only what `ShardWriter` writes is accepted, byte for byte: regular files, three members a sample in their order, sizes
within the file, zeros as padding, and the end mark at the very end. Everything else is a fault with its offset.
"""

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cdgen.errors import BuildError
from cdgen.shards import npy, ustar
from cdgen.shards.index import Place
from cdgen.shards.sample import MEMBERS, Meta, Sample, check_key
from cdgen.storage import reading

try:
    import resource
except ImportError:  # Windows has no such limit
    _HAS_LIMIT = False
else:
    _HAS_LIMIT = True

Data = bytes | mmap.mmap
"""The whole of a shard."""

_USUAL_LIMIT = 1024
"""Of open files."""
_MAGIC = b"ustar\x0000"
_MAGIC_OFFSET = 257


@contextmanager
def opened(path: Path) -> Iterator[Data]:
    """A shard's bytes, mapped; BuildError where there is no such file."""
    if not path.is_file():
        raise BuildError(f"cannot read {path}: there is no such file")
    if path.stat().st_size == 0:  # cannot be mapped
        yield b""
        return
    with map_file(path) as data:
        yield data


def most_mapped() -> int:
    """How many shards a process should map at a time: each map holds a file descriptor."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if _HAS_LIMIT else _USUAL_LIMIT
    return _USUAL_LIMIT // 4 if allowed < 0 else max(min(allowed, _USUAL_LIMIT) // 4, 1)


def map_file(path: Path) -> mmap.mmap:
    """Map a file that is not empty, for reading; BuildError where it cannot be read."""
    with reading(path), path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def walk(data: Data, fault: Callable[[int, str], None]) -> Iterator[tuple[str, Place]]:
    """Yield (key, place) of each sample of a shard.

    Args:
        data: the whole shard.
        fault: told the offset of each fault and what it is. Where it returns, the walk goes on at the next sample
            that can be recognised.
    """
    offset = 0
    while True:
        try:
            if _at_end(data, offset):
                return
            key, place = sample_at(data, offset)
        except ValueError as error:
            fault(offset, str(error))
            offset = _next_sample(data, offset + ustar.BLOCK)
            if offset < 0:
                return
        else:
            yield key, place
            offset += place.length


def sample_at(data: Data, offset: int) -> tuple[str, Place]:
    """(key, place) of the sample whose first header is at `offset`; ValueError if there is none."""
    key, sizes, start = "", [], offset
    for ending in MEMBERS:
        name, num_bytes = _header_at(data, start)
        key = key or name.removesuffix(".txt")
        if name != f"{key}.{ending}":
            raise ValueError(f"the member {name!r} where {key}.{ending} should be")
        end = start + ustar.stored(num_bytes)
        if end > len(data):
            raise ValueError(f"the shard ends inside {name}: it is cut")
        if any(data[start + ustar.BLOCK + num_bytes : end]):
            raise ValueError(f"the padding after {name} is not zeros")
        sizes.append(num_bytes)
        start = end
    check_key(key)
    return key, Place.at(offset, *sizes)


def read_sample(data: Data, key: str, place: Place) -> Sample:
    """The sample at `place`, its contents checked; ValueError, saying what is wrong."""
    text = data[place.txt_offset : place.txt_offset + place.txt_length]
    meta = data[place.json_offset : place.json_offset + place.json_length]
    ids = data[place.npy_offset : place.npy_offset + place.npy_length]
    try:
        return Sample(key=key, text=text.decode(), ids=npy.load(ids), meta=Meta.from_json(meta))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start} of a member") from None


def _header_at(data: Data, offset: int) -> tuple[str, int]:
    block = data[offset : offset + ustar.BLOCK]
    if len(block) < ustar.BLOCK:
        raise ValueError("the shard ends where a member should begin: it is cut")
    return ustar.parse(block)


def _at_end(data: Data, offset: int) -> bool:
    """Whether the end mark, and nothing else, is left; ValueError for an end mark that something follows."""
    if any(data[offset : offset + ustar.BLOCK]) or offset >= len(data):
        return False
    if len(data) - offset == len(ustar.END) and data[offset:] == ustar.END:
        return True
    raise ValueError(
        f"zeros with {len(data) - offset} bytes to go, where the end mark has {len(ustar.END)}"
    )


def _next_sample(data: Data, offset: int) -> int:
    """The first offset, from `offset` on, where a sample's first header is; -1 if there is none."""
    found = data.find(_MAGIC, offset + _MAGIC_OFFSET)
    while found >= 0:
        start = found - _MAGIC_OFFSET
        if start % ustar.BLOCK == 0 and _begins_sample(data, start):
            return start
        found = data.find(_MAGIC, found + 1)
    return -1


def _begins_sample(data: Data, offset: int) -> bool:
    try:
        return _header_at(data, offset)[0].endswith(".txt")
    except ValueError:
        return False
