"""Copied windows: counted as the obvious loop over all windows counts them."""

import random
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdgen.mixing.copying import LENGTHS, Copied, copying
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.reader import MappedShard
from cdgen.shards.sample import Meta, Sample, real_key, synthetic_key
from cdgen.shards.writer import ShardWriter

Document = tuple[list[int], int]
"""Ids, and how many of them are a kept prefix."""


def shards(folder: Path, kind: str, documents: list[Document]) -> list[MappedShard]:
    """The documents in two shards."""
    made = []
    for number in range(2):
        name = shard_name(kind, "train", "0123abcd" * 8, number)
        paths = shard_path(folder, name), index_path(folder, name)
        with ShardWriter(*paths, np.dtype("<u2")) as writer:
            for place, (ids, num_prefix) in enumerate(documents):
                if place % 2 == number:
                    writer.add(sample(kind, place, ids, num_prefix))
        made.append(MappedShard(*paths))
    return made


def sample(kind: str, place: int, ids: list[int], num_prefix: int) -> Sample:
    """A document as a shard holds it."""
    document = f"{place:024x}-0"
    is_drawn = kind == "synthetic"
    key = synthetic_key(document, 0, 0, 0) if is_drawn else real_key(document, 0)
    meta = Meta(
        source=kind,
        document=document,
        num_tokens=len(ids),
        prefix_tokens=num_prefix,
        completion=0 if is_drawn else -1,
    )
    return Sample(key=key, text="text", ids=np.array(ids, np.uint16), meta=meta)


def naive(synthetic: list[Document], real: list[Document], length: int) -> Copied:
    """Every window of the drawn text against every window of the real text."""
    there = {tuple(ids[i : i + length]) for ids, _ in real for i in range(len(ids) - length + 1)}
    documents = tokens = windows = copied = 0
    for ids, num_prefix in synthetic:
        begins = range(num_prefix, len(ids) - length + 1)
        hits = [i for i in begins if tuple(ids[i : i + length]) in there]
        windows, copied = windows + len(begins), copied + len(hits)
        tokens += len({i + j for i in hits for j in range(length)})
        documents += bool(hits)
    return Copied(
        length=length,
        num_documents=documents,
        num_tokens=tokens,
        num_windows=windows,
        num_copied_windows=copied,
    )


@given(st.randoms(use_true_random=False))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_copies_are_those_of_the_obvious_loop(tmp_path: Path, rng: random.Random) -> None:
    """Drawn documents are glued from pieces of real ones and of noise; few different ids."""
    folder = tmp_path / f"{rng.random()}"

    def noise(longest: int) -> list[int]:
        return [rng.randint(0, 3) for _ in range(rng.randint(1, longest))]

    real = [(noise(150), 0) for _ in range(rng.randint(1, 6))]
    synthetic = []
    for _ in range(rng.randint(1, 8)):
        ids: list[int] = []
        for _ in range(rng.randint(1, 4)):
            piece = rng.choice(real)[0]
            begin = rng.randrange(len(piece))
            ids += piece[begin : begin + rng.randint(1, 120)] + noise(5)
        synthetic.append((ids, rng.randint(0, min(20, len(ids)))))

    found = copying(shards(folder, "synthetic", synthetic), shards(folder, "real", real))

    assert found == tuple(naive(synthetic, real, length) for length in LENGTHS)


def test_nothing_drawn_and_nothing_real_are_fine(tmp_path: Path) -> None:
    some = shards(tmp_path, "real", [([1, 2, 3], 0)])

    assert all(one.num_windows == 0 for one in copying([], some))
    assert all(one.num_copied_windows == 0 for one in copying(some, []))
