"""Where the files of a corpus lie, and what they are called."""

import re
from pathlib import Path

KINDS = ("real", "synthetic", "mixed")
SPLITS = ("train", "eval")
MANIFEST = "manifest.json"

_NAME = re.compile(r"(real|synthetic|mixed)-(train|eval)-([0-9a-f]{8})-([0-9]{5,})\.tar")


def shard_name(kind: str, split: str, digest: str, number: int) -> str:
    """The name of a shard's file, unique among all corpora: webdataset's cache goes by the name alone.

    Args:
        kind: real, synthetic or mixed.
        split: train or eval.
        digest: of the stage that makes it (text, decode, mix); the first 8 digits are used.
        number: from 0.
    """
    name = f"{kind}-{split}-{digest[:8]}-{number:05d}.tar"
    parse_name(name)
    return name


def parse_name(name: str) -> tuple[str, str, str, int]:
    """(kind, split, 8 digits of the digest, number) of a shard's name; ValueError for any other name."""
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(
            f"{name[:80]!r} is not a shard's name, such as real-train-0123abcd-00000.tar"
        )
    return match[1], match[2], match[3], int(match[4])


def series(name: str) -> str:
    """What the names of all shards of one kind, split and digest begin with."""
    return name.rpartition("-")[0]


def shard_path(folder: Path, name: str) -> Path:
    """The shard's file in the corpus `folder`."""
    return folder / "data" / parse_name(name)[0] / name


def index_name(name: str) -> str:
    """The name of the index of the shard called `name`."""
    return name.removesuffix(".tar") + ".parquet"


def index_path(folder: Path, name: str) -> Path:
    """The index of the shard called `name` in the corpus `folder`."""
    return folder / "index" / index_name(name)
