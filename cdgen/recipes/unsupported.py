"""Fields of the schema that this version does not carry out: refused by name, never ignored."""

from collections.abc import Iterator

from cdgen.recipes.schema import CheckpointAmateur, ModelAmateur, NoAmateur, Recipe

Refusal = tuple[tuple[str | int, ...], str]


def unsupported(recipe: Recipe) -> Iterator[Refusal]:
    """Yield (field, what works instead) for everything in `recipe` that cannot be built yet."""
    yield from _text(recipe)
    yield from _models(recipe)
    yield from _decode(recipe)
    yield from _mix(recipe)


def _text(recipe: Recipe) -> Iterator[Refusal]:
    for index, source in enumerate(recipe.text.sources):
        at = ("text", "sources", index)
        if source.hf is not None:
            yield (*at, "hf"), "use a .txt or .txt.zst file"
        if source.format != "text":
            yield (*at, "format"), "only text is read"
        if source.document != "blank-line":
            yield (*at, "document"), "only blank-line is read"
        if source.path is not None and not source.path.name.endswith((".txt", ".txt.zst")):
            yield (*at, "path"), f"only .txt and .txt.zst are read, found {source.path.name}"


def _models(recipe: Recipe) -> Iterator[Refusal]:
    if recipe.tokenizer is not None and recipe.tokenizer.hf is not None:
        yield ("tokenizer", "hf"), "use a path"
    if recipe.expert.hf is not None:
        yield ("expert", "hf"), "use a path"
    amateur = recipe.amateur
    if not isinstance(amateur, CheckpointAmateur | ModelAmateur | NoAmateur):
        yield ("amateur", "kind"), f"{amateur.kind}; checkpoint, model and none work"
    if isinstance(amateur, ModelAmateur):
        if amateur.hf is not None:
            yield ("amateur", "hf"), "use a path"
        if amateur.train is not None:
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
    if recipe.filters is not None:
        yield ("filters",), "leave it out"
    mix = recipe.mix
    if mix.also:
        yield ("mix", "also"), "one synthetic corpus is mixed"
    if mix.unit != "tokens":
        yield ("mix", "unit"), "shares are counted in tokens"
    if mix.size != "real_once":
        yield ("mix", "size"), "real_once works"
    if mix.repeat != "error":
        yield ("mix", "repeat"), "error works"
