"""The search for evaluation sets in real and synthetic text: which samples hold an item, and of which set."""

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from cdgen.mixing.word_grams import WordGrams
from cdgen.shards.findings import FINDING_SCHEMA
from cdgen.shards.index import read_index
from cdgen.shards.reader import MappedShard

_TEXTS_PER_LOOK = 512


def search(
    grams: WordGrams,
    names: Sequence[str],
    shards: Sequence[MappedShard],
    on_samples: Callable[[int], None] = lambda _: None,
) -> pa.Table:
    """Look through all texts of some shards.

    Args:
        grams: the sets' n-grams, a group for each set.
        names: of the sets.
        shards: real and synthetic ones, in the order in which they are to be listed.
        on_samples: told how many were looked through.

    Returns:
        A table of `FINDING_SCHEMA`.

    Raises:
        BuildError: a shard is damaged.
    """
    rows = [row for shard in shards for row in _shard(grams, names, shard, on_samples)]
    return pa.Table.from_pylist(rows, schema=FINDING_SCHEMA)


def _shard(
    grams: WordGrams,
    names: Sequence[str],
    shard: MappedShard,
    on_samples: Callable[[int], None],
) -> Iterator[dict[str, object]]:
    index = read_index(shard.index_path, ("key", "source"))
    keys, sources = (index[name].to_pylist() for name in ("key", "source"))
    for first in range(0, len(shard), _TEXTS_PER_LOOK):
        last = min(first + _TEXTS_PER_LOOK, len(shard))
        for hit in grams.find([shard.text(row) for row in range(first, last)]):
            row = first + hit.text
            yield {
                "key": keys[row], "shard": shard.path.name, "source": sources[row],
                "set": names[hit.group], "item": hit.item, "begin": hit.begin,
                "num_words": hit.num_words,
            }  # fmt: skip
        on_samples(last - first)
