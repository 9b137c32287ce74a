"""What describes a corpus to strangers: the card and croissant.json, from manifest, recipe and lock."""

from pathlib import Path

from cdgen.recipes.schema import Recipe
from cdgen.shards.card import card
from cdgen.shards.croissant import croissant
from cdgen.shards.layout import shard_path
from cdgen.shards.lock import read_lock
from cdgen.shards.manifest import Manifest
from cdgen.shards.reader import MappedShard
from cdgen.storage import atomic_write

LOCK = "recipe.lock.json"


def describe(out: Path, manifest: Manifest, recipe: Recipe) -> None:
    """Write README.md and croissant.json; shards and lock are there already.

    Raises:
        BuildError: the lock or the first shard cannot be read.
    """
    lock = read_lock(out / LOCK)
    with MappedShard(shard_path(out, manifest.shards[0].name)) as shard:
        dtype = shard.dtype.name
    atomic_write(out / "README.md", card(manifest, recipe, lock, dtype=dtype).encode())
    atomic_write(out / "croissant.json", croissant(manifest, recipe, lock, dtype=dtype).encode())
