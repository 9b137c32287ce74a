"""Rules between samples, by sorting packed hashes, against one sample after another and sets of what was seen."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdgen.shards.between import Between, Tracer, first_equal
from cdgen.shards.sample import Meta, repeat_key, split_mixed, split_repeat


class Seen(NamedTuple):
    """What a rule looks at."""

    key: str
    text: str
    meta: Meta
    group: str

    @property
    def row(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "offset": id(self),
            "text": self.text,
            "document": self.meta.document,
        }

    def content(self, key: str) -> tuple[str, str, str]:
        return key, self.text, self.meta.document


@dataclass
class Slow:
    """The obvious version."""

    keys: dict[str, set[str]] = field(default_factory=dict)
    documents: dict[str, set[str]] = field(default_factory=dict)
    texts: dict[str, set[str]] = field(default_factory=dict)
    contents: set[object] = field(default_factory=set)
    units: dict[object, object] = field(default_factory=dict)
    rng_keys: dict[object, object] = field(default_factory=dict)

    def faults(self, sample: Seen) -> Iterator[str]:
        kind = sample.group.partition("-")[0]
        label = sample.group if kind == "also" else kind
        keys = self.keys.setdefault(label, set())
        if sample.key in keys:
            yield f"a second {label} sample has this key"
        keys.add(sample.key)
        if kind == "mixed":
            if sample.content(split_mixed(sample.key)[0]) not in self.contents:
                yield "is not, byte for byte, a sample of the real or synthetic train shards"
            first, n = split_repeat(sample.key)
            if n > 1 and repeat_key(first, n - 1) not in keys:
                yield "is a repeat, but use {use} of the sample does not come before it"
            return
        self.contents.add(sample.content(sample.key))
        yield from self._apart(self.documents, sample.meta.document.partition("-")[0], sample.group,
                               "its parent document {{document}} is also in {}")  # fmt: skip
        if kind == "real":
            yield from self._apart(self.texts, sample.text, sample.group, "its text is also in {}")
            return
        meta = sample.meta
        unit = (meta.decode, meta.document, meta.start, meta.completion)
        rng_key = (meta.decode, meta.rng_key)
        if self.units.setdefault(unit, rng_key) != rng_key:
            yield "another part of this completion has another rng_key"
        if self.rng_keys.setdefault(rng_key, unit) != unit:
            yield "another completion has this rng_key"

    def _apart(self, seen: dict[str, set[str]], item: str, group: str, what: str) -> Iterator[str]:
        also = group.startswith("also")
        for other, items in seen.items():
            if other != group and item in items and (not also or other == "real-eval"):
                yield what.format(other)
        if not also:
            seen.setdefault(group, set()).add(item)


FEW = st.sampled_from("ab")
META = st.builds(
    lambda document, copy, decode, rng_key, completion: Meta(
        document=f"{document}-{copy}", decode=decode, rng_key=rng_key, completion=completion
    ),
    FEW, FEW, FEW, st.sampled_from("abc"), st.integers(0, 1),
)  # fmt: skip
KEYS = st.sampled_from(["ra", "rb", "sa", "ra-p2", "ra-p3", "sa-p2", "sa-d0123abcd"])


def samples(kind: str) -> st.SearchStrategy[list[Seen]]:
    groups = {
        "real": ["real-eval", "real-train"],
        "synthetic": ["synthetic-train", "also-{document}", "also-0123abcd"],
        "mixed": ["mixed-train"],
    }
    group = st.sampled_from(groups[kind])
    return st.lists(st.builds(Seen, KEYS, FEW, META, group), max_size=6)


def shards(kind: str) -> st.SearchStrategy[list[tuple[str, list[Seen]]]]:
    return st.lists(samples(kind).map(lambda some: (kind, some)), max_size=4)


A = Seen("ra", "a", Meta(document="a-0"), "real-train")


@settings(max_examples=250, deadline=None)
@given(shards("real"), shards("synthetic"), shards("mixed"))
@example([], [], [])
@example(
    [("real", [A, A._replace(group="real-eval")])],
    [],
    [("mixed", [A._replace(group="mixed-train")])],
)
def test_the_faults_are_those_of_one_sample_after_another(
    real: list[tuple[str, list[Seen]]],
    synthetic: list[tuple[str, list[Seen]]],
    mixed: list[tuple[str, list[Seen]]],
) -> None:
    """And in their order, however the samples fall into shards."""
    slow, between = Slow(), Between()
    want = []
    for number, (kind, some) in enumerate([*real, *synthetic, *mixed]):
        tracer = Tracer(kind)
        for place, sample in enumerate(some):
            tracer.add(sample, sample.row, sample.group)  # type: ignore[arg-type]
            want += [(number, place, what) for what in slow.faults(sample)]
        between.add(tracer.traces())

    assert [(fault.shard, fault.sample, fault.what) for fault in between.faults()] == want
    asked = ["ra", "rb", "nobody's", "sa-p2", "ra"]
    assert between.in_mix(asked) == {key for key in asked if key in slow.keys.get("mixed", ())}


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2**64 - 1]), st.sampled_from([0, 5, 2**63]))))
def test_the_first_equal_row(rows: list[tuple[int, int]]) -> None:
    """Of hashes that agree in one half, too."""
    found = first_equal(np.array(rows, np.uint64).reshape(-1, 2))
    assert found.tolist() == [rows.index(row) for row in rows]
