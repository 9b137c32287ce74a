"""Which documents are mixed, in which order: a pure function of their sizes, the shares and a seed.

Source 0 is the real text, source 1 this corpus's synthetic text, the further ones are those of `mix.also`. A source is
endless: after its last document a new pass begins, in the order of another epoch. `mix.size` says where the mix ends;
whether a second pass may be begun is `mix.repeat`'s business. Sizes are counted in `mix.unit`: tokens or documents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np

from cdgen.errors import BuildError
from cdgen.recipes.schema import Mix
from cdgen.shards.manifest import MixPart
from cdgen.streaming.mixture import bounds, merge, share_weights
from cdgen.streaming.order import document_order

REAL, SYNTHETIC = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What a source has.

    Attributes:
        name: real, synthetic or also-<8 digits>; it sets the source's order apart from the others'.
        num_tokens: per shard the tokens of its documents, int64 `[documents]`.
        kept: per shard which of them the filters keep, bool `[documents]`; None for all.
        num_prefixes: what the source was drawn from, for the message when it is too short; 0 for unknown.
    """

    name: str
    num_tokens: Sequence[np.ndarray]
    kept: Sequence[np.ndarray] | None = None
    num_prefixes: int = 0

    def masks(self) -> Sequence[np.ndarray]:
        """Per shard which documents are kept."""
        if self.kept is not None:
            return self.kept
        return [np.ones(len(tokens), bool) for tokens in self.num_tokens]

    def num_units(self, unit: str) -> int:
        """Tokens or documents that are kept."""
        pairs = zip(self.num_tokens, self.masks(), strict=True)
        return int(sum((t[m].sum() if unit == "tokens" else m.sum()) for t, m in pairs))


@dataclass(frozen=True, slots=True)
class Order:
    """The mixed corpus in order: each document's source, shard, row and use (from 1), int64 `[documents]`."""

    source: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    use: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, part: slice) -> "Order":
        return Order(self.source[part], self.shard[part], self.row[part], self.use[part])


@dataclass(frozen=True, slots=True, kw_only=True)
class MixResult:
    """What was mixed; the parts stand in the order of the sources."""

    parts: tuple[MixPart, ...]
    unit: str
    num_unused_synthetic_tokens: int
    """Of this corpus's own synthetic text, what the filters keep and the mix does not need."""

    @property
    def num_documents(self) -> int:
        """All mixed documents, repeats counted."""
        return sum(part.num_documents for part in self.parts)

    @property
    def num_real_tokens(self) -> int:
        """Mixed real tokens."""
        return self.parts[REAL].num_tokens

    @property
    def num_synthetic_tokens(self) -> int:
        """Mixed tokens of all synthetic sources."""
        return sum(part.num_tokens for part in self.parts[SYNTHETIC:])

    @property
    def realised(self) -> float:
        """The share of all synthetic sources, in `unit`."""
        sizes = [part.num_units(self.unit) for part in self.parts]
        return sum(sizes[SYNTHETIC:]) / max(sum(sizes), 1)


def weights_of(mix: Mix) -> tuple[int, ...]:
    """The sources' weights: small whole numbers, 0 for one that is not mixed."""
    return share_weights(mix.synthetic, *(also.share for also in mix.also))


def demand(mix: Mix, num_units: Sequence[int]) -> list[Fraction]:
    """What each source must have, in `mix.unit`, for the mix to be made without a second pass.

    Args:
        mix: the recipe's mix section.
        num_units: what each source has; used of the one that `mix.size` goes by.
    """
    weights = weights_of(mix)
    if isinstance(mix.size, int):
        return [Fraction(mix.size * weight, sum(weights)) for weight in weights]
    anchor = _anchor(mix)
    return [Fraction(num_units[anchor] * weight, weights[anchor]) for weight in weights]


def mix_order(supplies: Sequence[Supply], mix: Mix) -> tuple[Order, MixResult]:
    """The order of the mixed corpus at `mix.seed`.

    Raises:
        BuildError: a source is empty, or too short and may not be repeated; says what would help.
    """
    weights = weights_of(mix)
    sizes = [supply.num_units(mix.unit) for supply in supplies]
    for number, need in shortages(mix, sizes):
        raise BuildError(_shortage(supplies, sizes, number, need).text(mix))
    mixed = [number for number, weight in enumerate(weights) if weight]
    limits = _limits(supplies, sizes, mix)
    lines = [_line(supplies[number], limits[number], mix) for number in mixed]
    which, position = merge([line.units for line in lines], [weights[number] for number in mixed])
    if isinstance(mix.size, int):
        which, position = _until(which, position, lines, mix.size)
    at = np.cumsum([0, *(len(line.units) for line in lines)])[which] + position
    shard, row, use, tokens = (
        np.concatenate([getattr(line, name) for line in lines])[at]
        for name in ("shard", "row", "use", "tokens")
    )
    order = Order(np.array(mixed, np.int64)[which], shard, row, use)
    result = _result(supplies, order, tokens, mix)
    # Where a second pass begins, every source is as far as the first one's end: the mix was long enough before.
    assert mix.repeat == "allow" or all(part.num_passes <= 1 for part in result.parts)
    return order, result


def _anchor(mix: Mix) -> int:
    """The source that is used once."""
    return REAL if mix.size == "real_once" else SYNTHETIC


@dataclass(frozen=True, slots=True)
class _Line:
    """The documents of a source in its own order, as many passes as are needed; int64 `[documents]` each."""

    shard: np.ndarray
    row: np.ndarray
    use: np.ndarray
    tokens: np.ndarray
    units: np.ndarray


def _limits(supplies: Sequence[Supply], sizes: Sequence[int], mix: Mix) -> list[int]:
    """Per source: its documents that begin before so many of its own units can be in the mix."""
    if not isinstance(mix.size, int):
        return [-(-need.numerator // need.denominator) for need in demand(mix, sizes)]
    # The mix ends at most one document after the size, and a source is at most one document ahead.
    longest = [_longest(supply, mix.unit) for supply in supplies]
    total = mix.size + max(longest)
    weights = weights_of(mix)
    return [
        -(-total * weight // sum(weights)) + own
        for weight, own in zip(weights, longest, strict=True)
    ]


def _line(supply: Supply, limit: int, mix: Mix) -> _Line:
    """The first documents of a source, each of which begins before `limit` units."""
    passes: list[np.ndarray] = []
    have = 0
    while have < limit:
        rows = _one_pass(supply, mix, epoch=len(passes))
        passes.append(np.column_stack([rows, np.full(len(rows), len(passes) + 1, np.int64)]))
        have += int(rows[:, 2].sum()) if mix.unit == "tokens" else len(rows)
    every = np.concatenate([*passes, np.empty((0, 4), np.int64)])
    units = every[:, 2] if mix.unit == "tokens" else np.ones(len(every), np.int64)
    every = every[: np.searchsorted(np.cumsum(units) - units, limit)]
    return _Line(every[:, 0], every[:, 1], every[:, 3], every[:, 2], units[: len(every)])


def _one_pass(supply: Supply, mix: Mix, *, epoch: int) -> np.ndarray:
    """(shard, row, tokens) of a source's kept documents in the order of an epoch, int64 `[documents, 3]`.

    What a filter drops leaves a gap: the order of the others does not depend on it.
    """
    sizes = [len(tokens) for tokens in supply.num_tokens]
    pairs = document_order(sizes, source=supply.name, seed=mix.seed, epoch=epoch)
    at = np.cumsum([0, *sizes])[pairs[:, 0]] + pairs[:, 1]
    tokens = np.concatenate([*supply.num_tokens, np.empty(0, np.int64)]).astype(np.int64)
    rows = np.column_stack([pairs, tokens[at]])
    if supply.kept is not None:
        rows = rows[np.concatenate([*supply.kept, np.empty(0, bool)])[at]]
    return rows


def _until(
    which: np.ndarray, position: np.ndarray, lines: Sequence[_Line], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The documents up to the first one with which the mix has `size` units."""
    first = np.cumsum([0, *(len(line.units) for line in lines)])
    units = np.concatenate([line.units for line in lines])[first[which] + position]
    last = int(np.searchsorted(np.cumsum(units), size)) + 1
    return which[:last], position[:last]


def _longest(supply: Supply, unit: str) -> int:
    """Units of the longest document."""
    if unit == "documents":
        return 1
    pairs = zip(supply.num_tokens, supply.masks(), strict=True)
    return max((int(tokens[mask].max(initial=0)) for tokens, mask in pairs), default=0)


def _result(supplies: Sequence[Supply], order: Order, tokens: np.ndarray, mix: Mix) -> MixResult:
    weights = weights_of(mix)
    longest = [_longest(s, mix.unit) if w else 0 for s, w in zip(supplies, weights, strict=True)]
    sums = [int(tokens[order.source == number].sum()) for number in range(len(supplies))]
    counts = [int((order.source == number).sum()) for number in range(len(supplies))]
    units = sums if mix.unit == "tokens" else counts
    parts = []
    for number, supply in enumerate(supplies):
        share = weights[number] / sum(weights)
        low, high = bounds(share, longest[number], sum(longest) - longest[number])
        parts.append(
            MixPart(
                source=supply.name,
                nominal=share,
                realised=units[number] / max(sum(units), 1),
                num_documents=counts[number],
                num_tokens=sums[number],
                num_passes=int(order.use[order.source == number].max(initial=0)),
                error_low=low,
                error_high=high,
            )
        )
    once = order.use == 1
    used = int(tokens[once & (order.source == SYNTHETIC)].sum())
    spare = supplies[SYNTHETIC].num_units("tokens") - used
    return MixResult(parts=tuple(parts), unit=mix.unit, num_unused_synthetic_tokens=spare)


# ---- too little text ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A source that is too short; its text is one line.

    Attributes:
        number: which source it is.
        need: what the mix asks of it, in `mix.unit`.
        found: what it has.
        per_prefix: what one more prefix would give; 0 where none can be added.
        filtered: whether filters have taken some of it.
    """

    number: int
    need: Fraction
    found: int
    per_prefix: Fraction = Fraction(0)
    filtered: bool = False

    def text(self, mix: Mix) -> str:
        """What is short, by how much, and what would help."""
        what = "real" if self.number == REAL else "synthetic"
        field, share = "mix.synthetic", mix.synthetic
        if self.number > SYNTHETIC:
            field, share = f"mix.also[{self.number - 2}].share", mix.also[self.number - 2].share
        asked = "" if self.number == REAL else f"{field} {share:g} with "
        after = ", after the filters" if self.filtered else ""
        return (
            f"{asked}mix.size {mix.size} needs {ceil(self.need):,} {what} {mix.unit}, there are "
            f"{self.found:,}{after}: {self._help(field)}"
        )

    def _help(self, field: str) -> str:
        repeat = ", or set mix.repeat: allow" if self.found else ""
        if self.number == REAL:
            return f"give more text or raise mix.synthetic{repeat}"
        missing = missing_prefixes(self.need, self.found, self.per_prefix)
        if not missing:
            return f"lower {field}{repeat}"
        return (
            f"about {missing:,} more prefixes are missing; raise text.splits.prefix, generate.completions "
            f"or generate.new_tokens, lower {field}{repeat}"
        )


def missing_prefixes(need: Fraction, found: int, per_prefix: Fraction) -> int:
    """How many more prefixes a source needs that yields `per_prefix` units for each; 0 when it has enough."""
    return max(0, -int((found - need) // per_prefix)) if per_prefix else 0


def shortages(mix: Mix, sizes: Sequence[int]) -> Iterator[tuple[int, Fraction]]:
    """(source, what it needs) for every source that `sizes` cannot serve, in the order of the sources."""
    needs = demand(mix, sizes)
    if not isinstance(mix.size, int):
        needs[_anchor(mix)] = max(needs[_anchor(mix)], Fraction(1))
    for number, need in enumerate(needs):
        if need > sizes[number] and (mix.repeat == "error" or not sizes[number]):
            yield number, need


def check_possible(mix: Mix, most: Sequence[int], per_prefix: int) -> None:
    """Refuse, before training and decoding, a mix that cannot be made even if every source gives its most.

    Args:
        mix: the recipe's mix section.
        most: what each source can have at most, in `mix.unit`.
        per_prefix: what one prefix gives at most.
    """
    if mix.size == "synthetic_once":
        return  # what it needs of the others is known when the synthetic text is there
    for number, need in shortages(mix, most):
        shortage = Shortage(
            number=number,
            need=need,
            found=most[number],
            per_prefix=Fraction(per_prefix if number == SYNTHETIC else 0),
        )
        raise BuildError(shortage.text(mix))


def _shortage(
    supplies: Sequence[Supply], sizes: Sequence[int], number: int, need: Fraction
) -> Shortage:
    supply, found = supplies[number], sizes[number]
    return Shortage(
        number=number,
        need=need,
        found=found,
        per_prefix=Fraction(found, supply.num_prefixes) if supply.num_prefixes else Fraction(0),
        filtered=supply.kept is not None,
    )
