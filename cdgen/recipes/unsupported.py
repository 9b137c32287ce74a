"""Fields of the schema that this version does not carry out: refused by name, never ignored."""

from collections.abc import Iterator

from cdgen.recipes.schema import CheckpointAmateur, ModelAmateur, NoAmateur, Recipe

Refusal = tuple[tuple[str | int, ...], str]


def unsupported(recipe: Recipe) -> Iterator[Refusal]:
    """Yield (field, what works instead) for everything in `recipe` that cannot be built yet."""
    yield from _models(recipe)
    yield from _decode(recipe)
    yield from _mix(recipe)


def _models(recipe: Recipe) -> Iterator[Refusal]:
    amateur = recipe.amateur
    if not isinstance(amateur, CheckpointAmateur | ModelAmateur | NoAmateur):
        yield ("amateur", "kind"), f"{amateur.kind}; checkpoint, model and none work"
    if isinstance(amateur, ModelAmateur) and amateur.train is not None:
        yield ("amateur", "train"), "use a path"


def _decode(recipe: Recipe) -> Iterator[Refusal]:
    decode = recipe.decode
    if decode.method == "weighted_sum":
        yield ("decode", "method"), "contrastive, head_only and sample work"
    if decode.models is not None:
        yield ("decode", "models"), "it belongs to weighted_sum"
    if decode.no_repeat_ngram is not None:
        yield ("decode", "no_repeat_ngram"), "leave it null"
    if decode.outside_head == "tail":
        yield ("decode", "outside_head"), "-inf or a number works"


def _mix(recipe: Recipe) -> Iterator[Refusal]:
    if recipe.preflight is not None:
        yield ("preflight",), "leave it out"
