"""What of a corpus is published: exactly what its manifest names and what describes it; work/ never is."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cdgen.corpus import Corpus
from cdgen.errors import BuildError
from cdgen.hub.public_recipe import public_recipe
from cdgen.shards.layout import MANIFEST, index_path, shard_path
from cdgen.shards.manifest import Manifest
from cdgen.storage import reading

CARD = "README.md"
DESCRIPTIONS = ("recipe.lock.json", "croissant.json", CARD, MANIFEST)
"""Written by a build beside the shards; not every version of cdgen wrote all of them."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file to publish.

    Attributes:
        path: in the published corpus, with slashes.
        num_bytes, sha256: of its content.
        file: where the content is; None where it is `content`.
        content: a small file's, where it differs from the one in the folder.
    """

    path: str
    num_bytes: int
    sha256: str
    file: Path | None = None
    content: bytes = b""

    @property
    def is_big(self) -> bool:
        """Shards and indexes: kept outside of git, by the Hub."""
        return self.path.startswith(("data/", "index/"))

    def read(self) -> bytes:
        """The content of a small file."""
        if self.file is None:
            return self.content
        with reading(self.file):
            return self.file.read_bytes()


def contents(corpus: Corpus) -> list[Item]:
    """Every file of a finished corpus, the manifest last.

    Raises:
        BuildError: a file is missing, or has not the size that the manifest says.
    """
    folder = corpus.folder
    small = [
        *(
            _small(folder, f"tokenizer/{path.name}")
            for path in sorted((folder / "tokenizer").glob("*"))
        ),
        _recipe(folder),
        *(_small(folder, name) for name in DESCRIPTIONS if (folder / name).is_file()),
    ]
    return [*shard_items(folder, corpus.manifest), *small]


def shard_items(folder: Path, manifest: Manifest) -> list[Item]:
    """Shards, their indexes, and what the filters wrote."""
    items = []
    for shard in manifest.shards:
        tar, index = shard_path(folder, shard.name), index_path(folder, shard.name)
        items.append(_big(folder, tar, shard.num_bytes, shard.sha256))
        items.append(_big(folder, index, shard.index.num_bytes, shard.index.sha256))
    written = manifest.filters.files() if manifest.filters else ()
    return items + [
        _big(folder, folder / "index" / stamp.name, stamp.num_bytes, stamp.sha256)
        for stamp in written
    ]


def _big(folder: Path, file: Path, num_bytes: int, sha256: str) -> Item:
    with reading(file):
        found = file.stat().st_size
    if found != num_bytes:
        raise BuildError(
            f"{file}: {found} bytes, {num_bytes} in the manifest; run cdgen verify {folder}"
        )
    return Item(file.relative_to(folder).as_posix(), num_bytes, sha256, file)


def _small(folder: Path, name: str) -> Item:
    with reading(folder / name):
        data = (folder / name).read_bytes()
    return Item(name, len(data), hashlib.sha256(data).hexdigest(), folder / name)


def _recipe(folder: Path) -> Item:
    data = public_recipe(folder / "recipe.yaml").encode()
    return Item("recipe.yaml", len(data), hashlib.sha256(data).hexdigest(), None, data)
