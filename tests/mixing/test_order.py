"""The mixed order: every share exact at every document boundary, whatever the sources, the size and the repeats."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.errors import BuildError
from cdgen.mixing.order import (
    MixResult,
    Order,
    Supply,
    check_possible,
    demand,
    missing_prefixes,
    mix_order,
    weights_of,
)
from cdgen.recipes.schema import AlsoCorpus, Mix
from cdgen.streaming.order import document_order

SHARD = st.lists(st.integers(15, 300), min_size=1, max_size=12)
SHARDS = st.lists(SHARD, min_size=1, max_size=3)


def mix_of(synthetic: float = 0.3, also: tuple[float, ...] = (), **fields: Any) -> Mix:
    """A mix section with these shares."""
    corpora = tuple(AlsoCorpus(corpus=Path(f"c{i}"), share=share) for i, share in enumerate(also))
    return Mix(synthetic=synthetic, also=corpora, **fields)


def supply(shards: list[list[int]], name: str = "real", **fields: Any) -> Supply:
    """A source whose documents have so many tokens."""
    return Supply(name=name, num_tokens=[np.array(t, np.int64) for t in shards], **fields)


def supplies(*sources: list[list[int]]) -> list[Supply]:
    """Sources with the names that a build gives them."""
    names = ["real", "synthetic", *(f"also-{i:08x}" for i in range(len(sources) - 2))]
    return [supply(shards, name) for shards, name in zip(sources, names, strict=True)]


def units_of(order: Order, sources: list[Supply], unit: str) -> np.ndarray:
    """Tokens (or ones) of each mixed document, looked up one by one."""
    if unit == "documents":
        return np.ones(len(order), np.int64)
    places = zip(order.source.tolist(), order.shard.tolist(), order.row.tolist(), strict=True)
    return np.array([sources[s].num_tokens[shard][row] for s, shard, row in places], np.int64)


def used(order: Order, source: int) -> list[tuple[int, int]]:
    """(shard, row) of every mixed document of a source, in their order."""
    mine = order.source == source
    return list(zip(order.shard[mine].tolist(), order.row[mine].tolist(), strict=True))


def whole(source: Supply) -> list[tuple[int, int]]:
    """(shard, row) of every document of a source."""
    return [(s, r) for s, tokens in enumerate(source.num_tokens) for r in range(len(tokens))]


@st.composite
def mixes(draw: st.DrawFn) -> tuple[list[Supply], Mix]:
    """Two to four sources, any size, repeats allowed."""
    sources = supplies(*draw(st.lists(SHARDS, min_size=2, max_size=4)))
    parts = [draw(st.integers(1, 9)) for _ in sources]
    shares = [part / sum(parts) for part in parts]
    unit = draw(st.sampled_from(["tokens", "documents"]))
    sizes = [1, 500, 3000] if unit == "tokens" else [1, 10, 60]
    return sources, mix_of(
        shares[1],
        tuple(shares[2:]),
        size=draw(st.sampled_from(["real_once", "synthetic_once", *sizes])),
        unit=unit,
        repeat="allow",
        seed=draw(st.integers(0, 3)),
    )


@given(mixes())
@settings(max_examples=150, deadline=None)
def test_every_share_holds_at_every_document_boundary(case: tuple[list[Supply], Mix]) -> None:
    """Each source within the bound that the result names, repeats included; and that bound is design section 6's."""
    sources, mix = case
    order, result = mix_order(sources, mix)
    units = units_of(order, sources, mix.unit)
    total = np.cumsum(units)
    longest = [
        1 if mix.unit == "documents" else max(int(t.max()) for t in s.num_tokens) for s in sources
    ]
    weights = weights_of(mix)

    for number, part in enumerate(result.parts):
        share = weights[number] / sum(weights)
        error = np.cumsum(units * (order.source == number)) - share * total
        assert part.error_low == pytest.approx(-share * (sum(longest) - longest[number]))
        assert part.error_high == pytest.approx((1 - share) * longest[number])
        assert error.min() >= part.error_low - 1e-6 and error.max() <= part.error_high + 1e-6


@given(mixes())
@settings(max_examples=100, deadline=None)
def test_the_counts_of_the_result_are_those_of_the_order(case: tuple[list[Supply], Mix]) -> None:
    """Documents, tokens, realised shares, and how often a source was begun."""
    sources, mix = case
    order, result = mix_order(sources, mix)
    tokens, units = units_of(order, sources, "tokens"), units_of(order, sources, mix.unit)

    assert result.num_documents == len(order)
    assert result.realised == pytest.approx(units[order.source > 0].sum() / units.sum())
    for number, part in enumerate(result.parts):
        mine = order.source == number
        assert (part.num_documents, part.num_tokens) == (mine.sum(), tokens[mine].sum())
        assert part.realised == pytest.approx(units[mine].sum() / units.sum())
        assert part.num_passes == order.use[mine].max(initial=0)


@given(mixes())
@settings(max_examples=100, deadline=None)
def test_a_pass_is_over_before_the_next_begins(case: tuple[list[Supply], Mix]) -> None:
    """Every pass but the last has every document once, in the order of its own epoch."""
    sources, mix = case
    order, _ = mix_order(sources, mix)

    for number, source in enumerate(sources):
        mine = order.source == number
        uses = order.use[mine]
        assert (np.diff(uses) >= 0).all()
        rows = used(order, number)
        for n in range(1, int(uses.max(initial=0)) + 1):
            taken = [row for row, use in zip(rows, uses.tolist(), strict=True) if use == n]
            sizes = [len(tokens) for tokens in source.num_tokens]
            epoch = document_order(sizes, source=source.name, seed=mix.seed, epoch=n - 1)
            assert taken == [tuple(pair) for pair in epoch[: len(taken)].tolist()]
            assert n == uses.max() or len(taken) == sum(sizes)


@given(mixes())
@settings(max_examples=100, deadline=None)
def test_the_size_is_what_was_asked_for(case: tuple[list[Supply], Mix]) -> None:
    """The real text once, the synthetic text once, or the first boundary at which there is enough."""
    sources, mix = case
    order, _ = mix_order(sources, mix)
    units = units_of(order, sources, mix.unit)

    if mix.size == "real_once":
        assert sorted(used(order, 0)) == whole(sources[0])
    elif mix.size == "synthetic_once":
        assert sorted(used(order, 1)) == whole(sources[1])
    else:
        assert isinstance(mix.size, int)
        assert units.sum() - units[-1] < mix.size <= units.sum()


@given(mixes())
@settings(max_examples=100, deadline=None)
def test_the_order_is_that_of_the_obvious_loop(case: tuple[list[Supply], Mix]) -> None:
    """Fair queueing written out with fractions over endless sources, against the vectorised order."""
    sources, mix = case
    order, _ = mix_order(sources, mix)

    assert naive_order(sources, mix) == list(
        zip(
            order.source.tolist(),
            order.shard.tolist(),
            order.row.tolist(),
            order.use.tolist(),
            strict=True,
        )
    )


def naive_order(sources: list[Supply], mix: Mix) -> list[tuple[int, int, int, int]]:
    """(source, shard, row, use) of every mixed document: always the source whose next document begins first."""
    weights = weights_of(mix)
    streams = [endless(source, mix) for source in sources]
    coming = [next(stream) for stream in streams]
    begun = [Fraction(0)] * len(sources)
    anchor = {"real_once": 0, "synthetic_once": 1}.get(str(mix.size))
    left = sources[anchor].num_units(mix.unit) if anchor is not None else int(mix.size)
    mixed = []
    while left > 0 or (
        anchor is not None  # those that begin before the end of the text that is used once
        and min(begun) < begun[anchor]
    ):
        i = min(range(len(sources)), key=lambda i: (begun[i], i))
        shard, row, use, units = coming[i]
        coming[i] = next(streams[i])
        mixed.append((i, shard, row, use))
        begun[i] += Fraction(units, weights[i])
        left -= units if anchor in (None, i) else 0
    return mixed


def endless(source: Supply, mix: Mix) -> Iterator[tuple[int, int, int, int]]:
    """(shard, row, use, units) for ever."""
    sizes = [len(tokens) for tokens in source.num_tokens]
    for epoch in range(10**6):
        for s, r in document_order(sizes, source=source.name, seed=mix.seed, epoch=epoch).tolist():
            tokens = int(source.num_tokens[s][r])
            yield s, r, epoch + 1, tokens if mix.unit == "tokens" else 1


@given(mixes(), st.data())
@settings(max_examples=100, deadline=None)
def test_what_a_filter_drops_is_not_mixed_and_moves_nothing_else(
    case: tuple[list[Supply], Mix], data: st.DataObject
) -> None:
    """The others keep their order among themselves: the order of the whole source with gaps."""
    sources, mix = case
    kept = [
        np.array(data.draw(st.lists(st.booleans(), min_size=len(t), max_size=len(t))), bool)
        for t in sources[1].num_tokens
    ]
    kept[0][0] = True
    filtered = Supply(name="synthetic", num_tokens=sources[1].num_tokens, kept=kept)
    order, _ = mix_order([sources[0], filtered, *sources[2:]], mix)
    sizes = [len(tokens) for tokens in filtered.num_tokens]
    epoch = document_order(sizes, source="synthetic", seed=mix.seed, epoch=0).tolist()

    first = [
        row
        for row, use in zip(used(order, 1), order.use[order.source == 1], strict=True)
        if use == 1
    ]
    assert first == [(s, r) for s, r in epoch if kept[s][r]][: len(first)]


@given(SHARDS, st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_the_real_text_is_there_once_without_repeats(
    real: list[list[int]], share: float, seed: int
) -> None:
    """With plenty of synthetic text no document is there twice."""
    num_real = sum(map(sum, real))
    plenty = [[7] * (int(num_real * share / (1 - share)) // 7 + 10)]
    order, result = mix_order(supplies(real, plenty), mix_of(share, seed=seed))

    places = list(zip(order.source.tolist(), order.shard.tolist(), order.row.tolist(), strict=True))
    assert len(set(places)) == len(places)
    assert result.num_real_tokens == num_real
    assert result.parts[1].num_tokens + result.num_unused_synthetic_tokens == sum(plenty[0])


def test_another_seed_is_another_order_and_the_same_one_is_the_same() -> None:
    """The order is a function of its arguments."""
    sources = supplies([[5] * 40], [[5] * 40])
    orders = [mix_order(sources, mix_of(0.3, seed=seed))[0] for seed in (1, 1, 2)]

    assert used(orders[0], 0) == used(orders[1], 0) != used(orders[2], 0)


# ---- too little text ----


def test_too_little_synthetic_text_says_how_many_prefixes_are_missing() -> None:
    """700 real tokens at 30 % need 300 synthetic ones; 100 are there, from 2 prefixes: 50 each."""
    sources = [supply([[700]]), supply([[50, 50]], "synthetic", num_prefixes=2)]

    with pytest.raises(
        BuildError,
        match=r"^mix.synthetic 0.3 with mix.size real_once needs 300 synthetic tokens, there are 100: "
        r"about 4 more prefixes are missing; raise .*, or set mix.repeat: allow$",
    ):
        mix_order(sources, mix_of(0.3))


def test_after_filters_the_missing_prefixes_are_counted_in_what_is_left() -> None:
    """Half of the text is dropped, so a prefix gives half as much."""
    kept = [np.array([True, False])]
    drawn = supply([[50, 50]], "synthetic", num_prefixes=2, kept=kept)

    with pytest.raises(
        BuildError, match=r"there are 50, after the filters: about 10 more prefixes"
    ):
        mix_order([supply([[700]]), drawn], mix_of(0.3))


def test_a_source_that_the_filters_empty_cannot_be_repeated() -> None:
    """Allowing repeats does not help; the message does not say that it would."""
    drawn = supply([[50, 50]], "synthetic", kept=[np.zeros(2, bool)])

    with pytest.raises(BuildError, match=r"there are 0, after the filters: lower mix.synthetic$"):
        mix_order([supply([[700]]), drawn], mix_of(0.3, repeat="allow"))
    with pytest.raises(BuildError, match=r"mix.size synthetic_once needs 1 synthetic tokens"):
        mix_order([supply([[700]]), drawn], mix_of(0.3, size="synthetic_once"))


def test_too_little_real_text_is_named_too() -> None:
    """synthetic_once at 30 % needs 700 real tokens for 300 synthetic ones."""
    with pytest.raises(
        BuildError,
        match=r"^mix.size synthetic_once needs 700 real tokens, there are 100: give more text",
    ):
        mix_order(supplies([[100]], [[300]]), mix_of(0.3, size="synthetic_once"))


def test_the_other_corpus_that_is_too_short_is_named() -> None:
    """By its place in the recipe."""
    with pytest.raises(
        BuildError, match=r"^mix.also\[0\].share 0.4 with mix.size 1000 needs 400 synthetic tokens"
    ):
        mix_order(supplies([[900]], [[900]], [[10]]), mix_of(0.2, (0.4,), size=1000))


def test_exactly_enough_is_enough() -> None:
    """No document more than the share asks for is demanded."""
    _, result = mix_order(supplies([[700]], [[300]]), mix_of(0.3))

    assert result.realised == 0.3 and result.num_unused_synthetic_tokens == 0


def test_a_token_more_than_there_is_needs_a_second_pass() -> None:
    """200 tokens are there for an even share; 201 are refused unless repeats are allowed, 200 are not."""
    sources = supplies([[10] * 10], [[10] * 10])

    _, exact = mix_order(sources, mix_of(0.5, size=200))
    with pytest.raises(BuildError, match=r"needs 101 real tokens, there are 100"):
        mix_order(sources, mix_of(0.5, size=201))
    _, result = mix_order(sources, mix_of(0.5, size=201, repeat="allow"))
    assert [part.num_passes for part in exact.parts] == [1, 1]
    assert [part.num_passes for part in result.parts] == [2, 1]


@given(mixes())
@settings(max_examples=100, deadline=None)
def test_without_repeats_a_mix_is_refused_or_uses_nothing_twice(
    case: tuple[list[Supply], Mix],
) -> None:
    """And it is refused exactly where a source has less than its share of the size."""
    sources, mix = case
    once = mix.model_copy(update={"repeat": "error"})
    sizes = [source.num_units(mix.unit) for source in sources]
    enough = all(have >= need for have, need in zip(sizes, demand(mix, sizes), strict=True))
    try:
        _, result = mix_order(sources, once)
    except BuildError:
        assert not enough
    else:
        assert enough and max(part.num_passes for part in result.parts) == 1


def test_what_cannot_suffice_is_refused_before_the_work() -> None:
    """Also the real text and the other corpora, whose sizes are known early."""
    with pytest.raises(BuildError, match=r"about 5 more prefixes are missing"):
        check_possible(mix_of(0.3), [700, 100], 40)
    with pytest.raises(BuildError, match=r"needs 700 real tokens, there are 600"):
        check_possible(mix_of(0.3, size=1000), [600, 5000], 40)
    check_possible(mix_of(0.3, repeat="allow"), [700, 100], 40)
    check_possible(mix_of(0.3, size="synthetic_once"), [1, 10**6], 40)


@given(
    st.integers(1, 10**12),
    st.integers(0, 10**12),
    st.sampled_from([0.1, 0.3, 0.5]),
    st.integers(1, 10**6),
)
def test_missing_prefixes_are_just_enough(
    real: int, synthetic: int, share: float, per_prefix: int
) -> None:
    """One fewer would not do."""
    need = demand(mix_of(share), [real, synthetic])[1]
    missing = missing_prefixes(need, synthetic, Fraction(per_prefix))

    assert missing_prefixes(need, synthetic + missing * per_prefix, Fraction(per_prefix)) == 0
    if missing:
        fewer = synthetic + (missing - 1) * per_prefix
        assert missing_prefixes(need, fewer, Fraction(per_prefix)) == 1


def test_a_result_without_documents_has_no_share() -> None:
    """Nothing divided by nothing is not an error."""
    assert MixResult(parts=(), unit="tokens", num_unused_synthetic_tokens=0).realised == 0
