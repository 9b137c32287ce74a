"""What is asked of a stream: the sources' shares over the run, where an epoch ends, how often a source may be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import gcd

from cdgen.errors import BuildError, UsageError
from cdgen.shards.manifest import Mix
from cdgen.streaming.line import Line
from cdgen.streaming.merged import Merged
from cdgen.streaming.mixture import MAX_DENOMINATOR, share_weights

Weights = Mapping[str, int]
Schedule = Sequence[tuple[int, tuple[int, ...]]]
"""(first token, weights in the order of the sources)."""

SIZES = ("real_once", "synthetic_once")


def schedule_of(
    names: Sequence[str],
    mix: Mix | None,
    synthetic: float | Sequence[tuple[int, float]] | None,
    weights: Weights | Sequence[tuple[int, Weights]] | None,
) -> Schedule:
    """The weights of the sources, piece by piece.

    Args:
        names: the sources there are.
        mix: how the corpus was mixed.
        synthetic: share of all synthetic tokens, or one from each of several tokens on; several synthetic sources share
            it as they do in the corpus's mix, or evenly.
        weights: by source a whole number, instead; one that is not named rests.

    Raises:
        UsageError: a share or a source that cannot be; both or neither are given where one is needed.
    """
    if synthetic is not None and weights is not None:
        raise UsageError("give either synthetic or weights, not both")
    if weights is not None:
        steps = [(0, weights)] if isinstance(weights, Mapping) else list(weights)
        return _checked([(token, _named(names, step)) for token, step in steps])
    if synthetic is not None:
        shares = [(0, synthetic)] if isinstance(synthetic, int | float) else list(synthetic)
        return _checked([(token, _shared(names, mix, share)) for token, share in shares])
    return [(0, _own(names, mix))]


def _own(names: Sequence[str], mix: Mix | None) -> tuple[int, ...]:
    """The weights of the corpus's own mix."""
    if len(names) == 1:
        return (1,)
    if mix is None:
        raise UsageError(
            f"the corpus has no mix of {', '.join(names)}: say which share is wanted, such as synthetic=0.3"
        )
    if mix.unit != "tokens":
        raise UsageError(
            f"the corpus was mixed by {mix.unit}, a stream mixes by tokens: say which share is wanted, such as "
            f"synthetic={mix.realised:.3f}"
        )
    shares = _nominal(mix)
    found = share_weights(*(share for name, share in shares.items() if name != "real"))
    by_name = dict(zip(["real", *(name for name in shares if name != "real")], found, strict=True))
    missing = [name for name, weight in by_name.items() if weight and name not in names]
    if missing:
        raise UsageError(
            f"the corpus's mix needs {missing[0]} text, and there is none: say what is wanted with weights="
        )
    return tuple(by_name.get(name, 0) for name in names)


def _nominal(mix: Mix) -> dict[str, float]:
    if mix.parts:
        return {part.source: part.nominal for part in mix.parts}
    return {"real": 1 - mix.nominal, "synthetic": mix.nominal}


def _shared(names: Sequence[str], mix: Mix | None, share: float) -> tuple[int, ...]:
    """Weights for a share of all synthetic text."""
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise UsageError(f"synthetic must be a share between 0 and 1, found {share!r}")
    exact = Fraction(str(share)).limit_denominator(MAX_DENOMINATOR)
    if (exact < 1 and "real" not in names) or (exact > 0 and not set(names) - {"real"}):
        raise UsageError(
            f"synthetic={share:g} cannot be: the corpus has only {' and '.join(names)} text"
        )
    parts = {name: Fraction(0) for name in names}
    if mix is not None:
        nominal = _nominal(mix)
        parts |= {name: Fraction(str(nominal.get(name, 0))) for name in names if name != "real"}
    whole = sum(parts.values())
    if not whole:
        parts |= {name: Fraction(1) for name in names if name != "real"}
        whole = sum(parts.values())
    shares = {
        name: 1 - exact if name == "real" else exact * part / whole if whole else Fraction(0)
        for name, part in parts.items()
    }
    return whole_weights([shares[name] for name in names])


def whole_weights(shares: Sequence[Fraction]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportion of `shares`; rounded to millionths where they would be large."""
    common = reduce(lambda a, b: a * b // gcd(a, b), (share.denominator for share in shares), 1)
    common = min(common, MAX_DENOMINATOR)
    weights = [round(share * common) for share in shares]
    divisor = gcd(*weights)
    return tuple(weight // divisor for weight in weights)


def _named(names: Sequence[str], weights: Weights) -> tuple[int, ...]:
    for name, weight in weights.items():
        if name not in names:
            raise UsageError(f"no source {name!r}: the corpus has {', '.join(names)}")
        if type(weight) is not int or not 0 <= weight < 2**20:
            raise UsageError(
                f"the weight of {name} must be a whole number from 0 to 2^20 - 1, found {weight!r}"
            )
    if not any(weights.values()):
        raise UsageError(f"at least one source needs a weight above 0: {', '.join(names)}")
    return tuple(weights.get(name, 0) for name in names)


def _checked(schedule: Schedule) -> Schedule:
    tokens = [token for token, _ in schedule]
    if not tokens or tokens[0] != 0 or sorted(set(tokens)) != tokens:
        raise UsageError(
            f"a schedule begins at token 0 and rises: [(0, …), (1_000_000, …)]; found {tokens}"
        )
    return schedule


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a run goes.

    Attributes:
        stop: its tokens, a document boundary; None for an endless run.
        anchor: the source whose passes are the epochs; None where an epoch is a number of tokens.
    """

    stop: int | None
    anchor: int | None


def own_size(mix: Mix | None, num_tokens: Mapping[str, int]) -> str | int:
    """What `mix.size` the corpus's mix had, as far as the manifest tells; real_once where it does not.

    Args:
        mix: the manifest's.
        num_tokens: of one pass of each source.
    """
    if mix is None or not mix.parts:
        return "real_once"
    for part, size in zip(mix.parts[:2], SIZES, strict=False):
        once = part.num_passes == 1 and part.num_tokens == num_tokens.get(part.source)
        if once and part.nominal:
            return size
    return mix.num_real_tokens + mix.num_synthetic_tokens


def extent_of(merged: Merged, size: str | int, epochs: int | None) -> Extent:
    """Where a run of `epochs` ends.

    Args:
        merged: the global order.
        size: what an epoch is: real_once, synthetic_once (a pass of that source) or a number of tokens.
        epochs: None for an endless run.
    """
    if epochs is not None and (type(epochs) is not int or epochs < 1):
        raise UsageError(
            f"epochs must be a whole number from 1, or None (endless), found {epochs!r}"
        )
    if type(size) is int and size > 0:
        return Extent(None if epochs is None else merged.boundary(size * epochs), None)
    if size not in SIZES:
        raise UsageError(f"size must be {', '.join(SIZES)} or a number of tokens, found {size!r}")
    anchor = _anchor(merged, str(size).removesuffix("_once"))
    if epochs is None:
        return Extent(None, anchor)
    stop = merged.before(anchor, epochs * merged.lines[anchor].pass_tokens)
    if stop is None:
        raise UsageError(
            f"an epoch is a pass of {merged.lines[anchor].source.name}, which rests at the end of the schedule: "
            "give size as a number of tokens"
        )
    return Extent(stop, anchor)


def _anchor(merged: Merged, name: str) -> int:
    """The line of that name if it takes part, else the first that does."""
    active = [
        number
        for number in range(len(merged.lines))
        if any(piece.weights[number] for piece in merged.pieces)
    ]
    named = [number for number in active if merged.lines[number].source.name == name]
    return (named or active)[0]


def check_repeats(
    merged: Merged,
    extent: Extent,
    epochs: int | None,
    repeat: str | Mapping[str, int],
    block: int | None,
) -> None:
    """Refuse a run in which a source would be read more often than it may be.

    Args:
        merged: the global order.
        extent: where the run ends.
        epochs: as asked.
        repeat: error (each source once an epoch), allow, or the most passes by source (one not named: error).
        block: tokens per block, for the message; None for documents.
    """
    if repeat == "allow":
        return
    names = [line.source.name for line in merged.lines]
    caps = {} if repeat == "error" else repeat
    if not isinstance(caps, Mapping) or any(
        name not in names or type(most) is not int or most < 1 for name, most in caps.items()
    ):
        raise UsageError(
            f"repeat must be error, allow or the most passes of a source ({', '.join(names)}), found {repeat!r}"
        )
    for number, line in enumerate(merged.lines):
        most = caps.get(line.source.name, epochs)
        if most is None:
            most = None if number == extent.anchor else _rate_cap(merged, number, extent)
        if most is None:
            continue
        dry = merged.before(number, most * line.pass_tokens, extent.stop)
        if dry is not None and (extent.stop is None or dry < extent.stop):
            raise BuildError(_dry(line, dry, block, most, epochs))


def _rate_cap(merged: Merged, number: int, extent: Extent) -> int | None:
    """Of an endless run: one pass, if the source is used up before the anchor is."""
    if extent.anchor is None:
        return 1
    anchor = merged.lines[extent.anchor]
    once = merged.before(extent.anchor, anchor.pass_tokens)
    dry = merged.before(number, merged.lines[number].pass_tokens)
    return 1 if dry is not None and (once is None or dry < once) else None


def _dry(line: Line, token: int, block: int | None, most: int, epochs: int | None) -> str:
    name = line.source.name
    where = f"token {token:,}" if block is None else f"block {token // block:,}"
    times = "once" if most == 1 else f"{most} times"
    run = (
        "" if epochs == most else " in an endless run" if epochs is None else f" in {epochs} epochs"
    )
    more = f' or repeat={{"{name}": {most + 1}}}' if epochs else ""
    return (
        f"{name} text would run dry at {where}: its {line.pass_tokens:,} tokens may be read {times}{run}; "
        f'lower its share, or set repeat="allow"{more}'
    )
