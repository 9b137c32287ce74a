"""A finished corpus, opened for reading."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import UsageError
from cdgen.shards.manifest import Manifest, ManifestShard, read_manifest
from cdgen.shards.reader import samples
from cdgen.shards.sample import Sample


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus folder and its manifest."""

    folder: Path
    manifest: Manifest

    def shards(self, kind: str = "mixed", split: str = "train") -> list[ManifestShard]:
        """The shards of a kind (real, synthetic, mixed) and split (train, eval), in order."""
        return [
            entry for entry in self.manifest.shards if (entry.kind, entry.split) == (kind, split)
        ]

    def samples(self, kind: str = "mixed", split: str = "train") -> Iterator[Sample]:
        """Every sample of a kind and split, in the order of the files."""
        for entry in self.shards(kind, split):
            yield from samples(self.folder / "data" / kind / entry.name)


def open_corpus(folder: str | Path) -> Corpus:
    """Open a finished corpus.

    Raises:
        UsageError: there is none; names the command that finishes an interrupted build.
    """
    path = Path(folder)
    if not (path / "manifest.json").is_file():
        unfinished = (path / "work").is_dir()
        advice = (
            "run cdgen build again to finish it" if unfinished else "cdgen build RECIPE makes one"
        )
        raise UsageError(f"{path}: no manifest.json, so no finished corpus; {advice}")
    return Corpus(path, read_manifest(path))
