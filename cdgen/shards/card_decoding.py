"""How the synthetic text of a corpus was drawn, as rows of a table of its card."""

from collections.abc import Iterable

from cdgen.recipes.schema import (
    Amateur,
    CheckpointAmateur,
    Decode,
    DropoutAmateur,
    EarlyExitAmateur,
    Expert,
    ModelAmateur,
    ModelTraining,
    NgramAmateur,
    NoAmateur,
    QuantizedAmateur,
    Recipe,
    TruncatedContextAmateur,
    WeightedModel,
)
from cdgen.shards.lock import Input, Lock
from cdgen.shards.markdown import code, plain

_METHODS = {
    "contrastive": "`contrastive`: log p_expert − lambda · log p_amateur, inside the head",
    "head_only": "`head_only`: log p_expert, inside the head; no contrast",
    "sample": "`sample`: p_expert as it is; no contrast",
    "weighted_sum": "`weighted_sum`: a sum of log-probabilities of several models, inside the expert's head",
}


def decoding_rows(recipe: Recipe, lock: Lock) -> Iterable[tuple[str, str]]:
    """(what, value) of everything that decides how a token is drawn; cells are Markdown."""
    decode, generate = recipe.decode, recipe.generate
    yield "method", _METHODS[decode.method]
    if decode.method == "contrastive":
        yield "lambda (weight of the amateur)", f"{decode.lambda_:g}"
    if decode.method != "sample":
        yield "alpha (head: p_expert above alpha times its largest)", f"{decode.alpha:g}"
        yield "outside the head", _outside(decode)
    yield "temperature", _temperatures(recipe)
    yield "truncation", _truncation(decode)
    yield "expert", _expert(recipe.expert, lock)
    yield "amateur", _amateur(recipe.amateur, lock)
    yield from _summands(decode, lock)
    ended = "stop at end of text" if generate.stop_at_eos else "go on after end of text"
    kept = "kept" if generate.keep_prefix else "left out"
    yield "prefixes", f"{generate.prefix_tokens:,} tokens of a real document, {kept} in the sample"
    yield "completions", f"{generate.completions:,} of {generate.new_tokens:,} tokens; they {ended}"
    yield "seed", f"{generate.seed}"


def is_contrastive(recipe: Recipe) -> bool:
    """Whether a second model is subtracted."""
    decode = recipe.decode
    if decode.method == "weighted_sum":
        return any(model.weight < 0 for model in decode.models or ())
    return decode.method == "contrastive" and decode.lambda_ > 0


def named_input(known: Input) -> str:
    """What an input is called, and the beginning of its hash: a whole one makes a table wide."""
    hub = f"{plain(known.hub)} at {code(known.revision)}" if known.hub else plain(known.address)
    sha256 = f"sha256 {code(known.sha256[:16])}" if known.sha256 else ""
    return ", ".join(part for part in (hub, sha256) if part)


def _outside(decode: Decode) -> str:
    if decode.outside_head == "tail":
        return "log p_expert, below the head's smallest score"
    return "never drawn" if decode.outside_head == "-inf" else f"score {decode.outside_head:g}"


def _temperatures(recipe: Recipe) -> str:
    found = [f"{recipe.decode.temperature:g} (all models)"]
    if recipe.decode.score_temperature != 1.0:
        found.append(f"{recipe.decode.score_temperature:g} (score)")
    own = getattr(recipe.amateur, "temperature", 1.0)
    if own != 1.0:
        found.append(f"{own:g} (amateur, besides)")
    return ", ".join(found)


def _truncation(decode: Decode) -> str:
    named = {
        "top_k": decode.top_k,
        "top_p": decode.top_p,
        "no_repeat_ngram": decode.no_repeat_ngram,
    }
    found = [f"`{name}` {value:g}" for name, value in named.items() if value is not None]
    return ", ".join(found) or "none"


def _expert(expert: Expert, lock: Lock) -> str:
    return _model(expert.train, expert.license, lock.models.get("expert", Input()))


def _model(train: ModelTraining | None, license_: str | None, known: Input) -> str:
    """A model that was trained here or given."""
    if train is None:
        said = f"licence {plain(license_)}" if license_ else "licence not said"
        return "; ".join(part for part in ("given", named_input(known), said) if part)
    step = f"its step {known.step:,}" if known.step else ""
    trained = f"trained here on the train split ({_trained(train)})"
    return "; ".join(part for part in (trained, step, named_input(known)) if part)


def _trained(train: ModelTraining) -> str:
    layers = f"{train.layers} layer{'' if train.layers == 1 else 's'}"
    return (
        f"{train.architecture}, {layers} of width {train.hidden}, {train.steps:,} steps of "
        f"{train.batch_tokens:,} tokens"
    )


def _amateur(amateur: Amateur, lock: Lock) -> str:
    known = lock.models.get("amateur", Input())
    kind = f"`{amateur.kind}`"
    match amateur:
        case NoAmateur():
            return "none"
        case ModelAmateur():
            return f"{kind}: {_model(amateur.train, amateur.license, known)}"
        case CheckpointAmateur():
            what = f"the expert's training run at step {amateur.checkpoint:,}; {named_input(known)}"
            return f"{kind}: {what.rstrip('; ')}"
        case DropoutAmateur():
            return f"{kind}: the expert with attention dropout {amateur.attention:g}"
        case EarlyExitAmateur():
            return f"{kind}: the expert's first {amateur.layer} layers and its head"
        case QuantizedAmateur():
            return f"{kind}: the expert with weights of {amateur.bits} bits"
        case TruncatedContextAmateur():
            seen = (
                f"the last {amateur.tokens:,} tokens"
                if amateur.tokens
                else f"the last {amateur.prefix_tokens:,} tokens of the prefix and what was drawn"
            )
            return f"{kind}: the expert that sees {seen}"
        case NgramAmateur():
            return f"{kind}: counts of the train split, order {amateur.order}"
        case _:
            return f"{kind}: the expert at another temperature"


def _summands(decode: Decode, lock: Lock) -> Iterable[tuple[str, str]]:
    further = iter(range(1, len(decode.further) + 1))
    for model in decode.models or ():
        role = model.model or f"further-{next(further)}"
        yield f"weight {model.weight:g}", _summand(model, role, lock)


def _summand(model: WeightedModel, role: str, lock: Lock) -> str:
    if model.model is not None:
        return f"the {model.model}"
    known = lock.models.get(role, Input())
    heat = f"; temperature {model.temperature:g}" if model.temperature != 1.0 else ""
    if model.checkpoint is not None:
        run = f"the expert's training run at step {model.checkpoint:,}; {named_input(known)}"
        return run.rstrip("; ") + heat
    return _model(None, model.license, known) + heat
