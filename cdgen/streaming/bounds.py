"""How exact the mix of a corpus at hand is: the bound of fair queueing, in tokens."""

from dataclasses import dataclass

from cdgen.streaming.merged import Merged
from cdgen.streaming.mixture import bounds


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a source's tokens may be from its share of all tokens, at every document boundary of a piece of the run.

    Attributes:
        source: its name.
        share: what is asked of it.
        low, high: the bound, in tokens.
        first_token: where the piece of the run begins.
    """

    source: str
    share: float
    low: float
    high: float
    first_token: int

    def __str__(self) -> str:
        return (
            f"{self.source}: {self.share:.6g} of all tokens from token {self.first_token:,} on, "
            f"within {self.low:+,.0f} and {self.high:+,.0f} tokens at every document boundary"
        )


def bounds_of(merged: Merged) -> tuple[Bound, ...]:
    """The bounds of every piece of a run and every source that takes part in it; T counts from the piece's start."""
    longest = [line.source.longest() for line in merged.lines]
    found = []
    for piece in merged.pieces:
        if piece.start == piece.stop:  # a document went past it
            continue
        active = [number for number, weight in enumerate(piece.weights) if weight]
        for number in active:
            share = piece.weights[number] / sum(piece.weights)
            others = sum(longest[other] for other in active if other != number)
            low, high = bounds(share, longest[number], others)
            name = merged.lines[number].source.name
            found.append(Bound(name, share, low, high, piece.start))
    return tuple(found)
