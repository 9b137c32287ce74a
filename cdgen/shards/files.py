"""Where a reader finds the files of a corpus: in a folder, or in a store that brings them there first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.manifest import ManifestShard


class ShardFiles(Protocol):
    """The shards and indexes of a corpus as local files.

    Raises:
        BuildError: a file cannot be had, or is not what the manifest says; names it.
    """

    def shard(self, entry: ManifestShard) -> Path:
        """A shard's file, whole and local; waits for it."""
        ...

    def index(self, entry: ManifestShard) -> Path:
        """Its index, whole and local; waits for it."""
        ...

    def ahead(self, entries: Sequence[ManifestShard]) -> None:
        """A hint: these come next, in this order, in place of the last hint. Returns at once."""
        ...

    def release(self, entries: Iterable[ManifestShard]) -> None:
        """These are not needed for now, such as a window that was left; a map that is open stays valid."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """A corpus folder. Nothing is opened here: who opens a file says what is wrong with it."""

    folder: Path

    def shard(self, entry: ManifestShard) -> Path:
        """A shard's file."""
        return shard_path(self.folder, entry.name)

    def index(self, entry: ManifestShard) -> Path:
        """Its index."""
        return index_path(self.folder, entry.name)

    def ahead(self, entries: Sequence[ManifestShard]) -> None:
        """Nothing to do: the files are there."""

    def release(self, entries: Iterable[ManifestShard]) -> None:
        """Nothing to do: the files stay there."""
