"""What a score is worth: chance, and what models without any training and trivial rules get.

Measured (docs/results/eval.md); they move with tokenizer and architecture, so they are ranges, beside every result.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Scores without knowledge of language, on the scale of `task_score`.

    Attributes:
        chance: of a coin, or of a die with a side for every option; None where there is no such thing.
        untrained: lowest and highest of models with random weights; None where it was not measured.
        rule: of a rule without a model, and what it is.
    """

    chance: float | None
    untrained: tuple[float, float] | None = None
    rule: tuple[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


FLOORS: dict[str, Floor] = {
    "blimp": Floor(chance=0.5, untrained=(0.47, 0.48), rule=("fewest tokens", 0.484)),
    "blimp_supplement": Floor(chance=0.5, untrained=(0.46, 0.49), rule=("fewest tokens", 0.479)),
    "ewok": Floor(chance=0.5),
    "entity_tracking": Floor(chance=0.2, untrained=(0.396, 0.414), rule=("fewest words", 0.433)),
    "entity_tracking_equal_length": Floor(chance=0.2),
    "entity_tracking_nothing": Floor(chance=0.2),
    "wug_adj": Floor(chance=0.0, untrained=(-0.24, 0.56), rule=("fewest tokens", 0.16)),
    "reading": Floor(chance=0.0, untrained=(0.0046, 0.0049)),
    "eye_tracking": Floor(chance=0.0, untrained=(0.0181, 0.0188)),
    "wordorder_faroese": Floor(chance=0.5, untrained=(0.488, 0.540), rule=("fewest tokens", 0.502)),
    "wordorder_icelandic": Floor(
        chance=0.5, untrained=(0.431, 0.542), rule=("fewest tokens", 0.500)
    ),
}
