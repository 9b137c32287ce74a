"""What the filters decide: pure functions of a sample, or of all samples in the order of their keys."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdgen.errors import BuildError
from cdgen.mixing.filters import Drawn, judge, kept_rows
from cdgen.recipes.schema import Filters
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.reader import MappedShard
from cdgen.shards.sample import Meta, Sample, mixed_key, real_key, split_mixed, synthetic_key
from cdgen.shards.verdicts import read_verdicts, stamp, verdicts_name, write_verdicts
from cdgen.shards.writer import ShardWriter

OWN, OTHER = "0123abcd" * 8, "fedc9876" * 8


def sample(number: int, text: str, ids: list[int], decode: str = "") -> Sample:
    """A real sample, or a synthetic one of a decoding."""
    document = f"{number:024x}-0"
    meta = Meta(
        source="synthetic" if decode else "real",
        document=document,
        num_tokens=len(ids),
        completion=0 if decode else -1,
        decode=decode[:16],
    )
    key = synthetic_key(document, 0, 0, 0) if decode else real_key(document, 0)
    return Sample(key=key, text=text, ids=np.array(ids, np.uint16), meta=meta)


def shard(folder: Path, kind: str, digest: str, number: int, samples: list[Sample]) -> MappedShard:
    """A shard of these samples."""
    name = shard_name(kind, "train", digest, number)
    paths = shard_path(folder, name), index_path(folder, name)
    with ShardWriter(*paths, np.dtype("<u2")) as writer:
        for item in samples:
            writer.add(item)
    return MappedShard(*paths)


def naive(
    drawn: list[tuple[Sample, str]], real: list[Sample], filters: Filters
) -> dict[str, tuple[str, str]]:
    """By mixed key: (reason, key that stays), one sample after the other in the order of keys."""
    verdicts: dict[str, tuple[str, str]] = {}
    first = {item.text: item.key for item in sorted(real, key=lambda item: item.key, reverse=True)}
    for key, item in sorted((mixed_key(item.key, decode), item) for item, decode in drawn):
        grams = [tuple(item.ids[i : i + 4].tolist()) for i in range(len(item.ids) - 3)]
        inside = {i + j for i, gram in enumerate(grams) if gram in grams[:i] for j in range(4)}
        if len(item.ids) < filters.min_tokens:
            verdicts[key] = ("min_tokens", "")
        elif len(inside) / len(item.ids) > filters.max_repetition:
            verdicts[key] = ("max_repetition", "")
        elif filters.exact_dedup and first.setdefault(item.text, key) != key:
            verdicts[key] = ("exact_dedup", first[item.text])
        else:
            verdicts[key] = ("", "")
    return verdicts


@given(st.randoms(use_true_random=False), st.booleans())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_verdicts_are_those_of_the_obvious_loop(
    tmp_path: Path, rng: random.Random, dedup: bool
) -> None:
    """Texts that repeat each other and the real text, two decodings, any distribution over shards."""
    folder = tmp_path / f"{rng.random()}"
    filters = Filters(exact_dedup=dedup, min_tokens=3, max_repetition=0.4)

    def some(decode: str, count: int) -> list[Sample]:
        numbers = rng.sample(range(100), count)
        return [
            sample(n, rng.choice("abcdef"), [rng.randint(0, 2) for _ in range(rng.randint(1, 12))], decode)
            for n in numbers
        ]  # fmt: skip

    real = some("", 5)
    own, other = some(OWN, 12), some(OTHER, 6)
    drawn = [
        Drawn(shard(folder, "synthetic", OWN, 0, own[:7])),
        Drawn(shard(folder, "synthetic", OWN, 1, own[7:])),
        Drawn(shard(folder, "synthetic", OTHER, 0, other), OTHER),
    ]
    table = judge(drawn, [shard(folder, "real", OWN, 0, real)], filters)

    wanted = naive([(s, "") for s in own] + [(s, OTHER) for s in other], real, filters)
    rows = table.to_pylist()
    assert {row["key"]: (row["reason"], row["duplicate_of"]) for row in rows} == wanted
    assert [row["kept"] for row in rows] == [row["reason"] == "" for row in rows]
    assert [row["num_tokens"] for row in rows] == [len(s.ids) for s in (*own, *other)]
    assert np.concatenate(kept_rows(table, drawn)).tolist() == [row["kept"] for row in rows]
    assert [len(mask) for mask in kept_rows(table, drawn)] == [7, 5, 6]


def test_one_text_in_real_and_synthetic_stays_real_and_the_lowest_key_of_two_stays(
    tmp_path: Path,
) -> None:
    """Real text is never dropped, not even where it repeats itself."""
    real = [sample(1, "once", [1, 2]), sample(2, "once", [1, 2])]
    own = [
        sample(9, "twice", [4, 5], OWN),
        sample(3, "once", [1, 2], OWN),
        sample(8, "twice", [4, 5], OWN),
    ]
    rows = judge(
        [Drawn(shard(tmp_path, "synthetic", OWN, 0, own))],
        [shard(tmp_path, "real", OWN, 0, real)],
        Filters(min_tokens=0),
    ).to_pylist()

    assert [row["duplicate_of"] for row in rows] == [own[2].key, real[0].key, ""]
    assert [row["reason"] for row in rows] == ["exact_dedup", "exact_dedup", ""]


def test_a_dropped_sample_does_not_stand_for_its_text(tmp_path: Path) -> None:
    """The lower key is too short in tokens; the higher one with the same text stays."""
    own = [sample(1, "same", [1], OWN), sample(2, "same", [1, 2, 3], OWN)]
    rows = judge([Drawn(shard(tmp_path, "synthetic", OWN, 0, own))], [], Filters(min_tokens=2))

    assert rows["reason"].to_pylist() == ["min_tokens", ""]


def test_one_sample_in_two_decodings_has_two_keys(tmp_path: Path) -> None:
    """Another corpus's sample adds the digits of its decoding; the ends of a key can be taken off again."""
    own, other = [sample(1, "a", [1], OWN)], [sample(1, "b", [1], OTHER)]
    drawn = [
        Drawn(shard(tmp_path, "synthetic", OWN, 0, own)),
        Drawn(shard(tmp_path, "synthetic", OTHER, 0, other), OTHER),
    ]
    keys = judge(drawn, [], Filters())["key"].to_pylist()

    assert keys == [own[0].key, f"{own[0].key}-dfedc9876"]
    assert split_mixed(keys[1]) == (own[0].key, OTHER[:8], 1)
    assert split_mixed(mixed_key(own[0].key, OTHER, 3)) == (own[0].key, OTHER[:8], 3)


def test_nothing_to_judge(tmp_path: Path) -> None:
    """A corpus without synthetic text has an empty table."""
    table = judge([], [shard(tmp_path, "real", OWN, 0, [sample(1, "a", [1])])], Filters())

    assert len(table) == 0 and kept_rows(table, []) == []


def test_verdicts_are_read_as_they_were_written(tmp_path: Path) -> None:
    """The same bytes each time, and only for the mix that they belong to."""
    own = [sample(n, "a", [1] * n, OWN) for n in range(1, 12)]
    table = judge([Drawn(shard(tmp_path, "synthetic", OWN, 0, own))], [], Filters())
    first = write_verdicts(tmp_path, table, OWN)
    path = tmp_path / "index" / verdicts_name(OWN)

    assert read_verdicts(path, OWN).equals(table)
    assert write_verdicts(tmp_path, table, OWN) == first == stamp(path)
    with pytest.raises(BuildError, match="verdicts of another mix"):
        read_verdicts(path, OTHER)


def test_a_damaged_file_of_verdicts_is_one_line(tmp_path: Path) -> None:
    """Cut, or something else altogether."""
    path = tmp_path / "index" / verdicts_name(OWN)
    with pytest.raises(BuildError, match="cannot read"):
        read_verdicts(path, OWN)
    shard(tmp_path, "real", OWN, 0, [sample(1, "a", [1])])
    index = next((tmp_path / "index").glob("real*"))
    index.rename(path)
    with pytest.raises(BuildError, match="not a file of verdicts"):
        read_verdicts(path, OWN)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BuildError, match="cannot read"):
        read_verdicts(path, OWN)
