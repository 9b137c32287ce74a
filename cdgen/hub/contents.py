"""What of a corpus is published: exactly what its manifest names and what describes it; work/ never is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgen.corpus import Corpus
from cdgen.errors import BuildError, UsageError
from cdgen.hub.public_recipe import public_recipe
from cdgen.progress import Progress
from cdgen.shards.card import mirrored_card
from cdgen.shards.layout import MANIFEST, index_path, shard_path
from cdgen.shards.manifest import Manifest
from cdgen.shards.parquet import parquet_name, write_parquet
from cdgen.storage import reading, sha256_file

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
        """Shards, indexes and Parquet copies: kept outside of git, by the Hub."""
        return self.path.startswith(("data/", "index/", "parquet/"))

    def read(self) -> bytes:
        """The content of a small file."""
        if self.file is None:
            return self.content
        with reading(self.file):
            return self.file.read_bytes()


def contents(corpus: Corpus, *, mirror: Sequence[Item] = ()) -> list[Item]:
    """Every file of a finished corpus, the manifest last.

    Args:
        corpus: it.
        mirror: its Parquet mirror, which the card's configurations then name.

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
    if mirror:
        small = [_mirrored(item) if item.path == CARD else item for item in small]
    return [*shard_items(folder, corpus.manifest), *mirror, *small]


def mirror_items(corpus: Corpus, progress: Progress) -> list[Item]:
    """The Parquet mirror of a corpus: a copy of every shard, made in work/parquet where it is not there yet.

    Raises:
        BuildError: a shard is damaged, or a copy cannot be written.
    """
    items = []
    shards = corpus.manifest.shards
    with progress.stage("parquet mirror", total=len(shards), unit="shard") as advance:
        for shard in shards:
            tar = shard_path(corpus.folder, shard.name)
            name = f"{shard.kind}/{parquet_name(shard.name)}"
            copy = corpus.folder / "work/parquet" / name
            write_parquet(tar, shard.sha256, f"data/{shard.kind}/{shard.name}", copy)
            with reading(copy):
                num_bytes = copy.stat().st_size
            items.append(Item(f"parquet/{name}", num_bytes, sha256_file(copy), copy))
            advance(1)
    return items


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
    return _changed("recipe.yaml", public_recipe(folder / "recipe.yaml").encode())


def _mirrored(card: Item) -> Item:
    try:
        return _changed(card.path, mirrored_card(card.read().decode()).encode())
    except ValueError as error:
        raise UsageError(
            f"{card.file}: cannot name a Parquet mirror: {error}; publish without --parquet, or run cdgen build again "
            "with another name for this file"
        ) from None


def _changed(path: str, data: bytes) -> Item:
    """A small file that is published as something else than what lies in the folder."""
    return Item(path, len(data), hashlib.sha256(data).hexdigest(), None, data)
