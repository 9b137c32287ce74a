"""Before decoding: is the contrast alive? Measured once per decode digest, judged by the recipe's limits.

Expert and amateur are compared on the beginnings of held-out documents, and a few completions are decoded by the
recipe's own rule, with the randomness that the build gives them. What is looked at is fixed and small: it costs
about as much as one batch of 32 rows. The measures are kept in work/; they are part of no digest and no shard.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdgen.builders.events import Recorded
from cdgen.builders.prefixes import Prefix
from cdgen.builders.stages import Build, TextRecord
from cdgen.errors import BuildError
from cdgen.progress import Advance
from cdgen.recipes.schema import Decode, Preflight, Recipe
from cdgen.shards.reader import MappedShard
from cdgen.shards.repetition import repetition
from cdgen.storage import atomic_write, parse_json, reading, typed

if TYPE_CHECKING:
    from cdgen.decode.engine import Engine
    from cdgen.decode.health import Health

MAX_ROWS = 32
"""Eval documents, and completions, at most."""
MAX_TOKENS = 128
"""Predicted of each eval document, at most."""
MAX_PER_PREFIX = 4
"""Completions of one prefix, at most."""
LOOP = 0.5
"""A completion loops when it repeats more than this share of its tokens: filters.max_repetition's default."""
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a preflight saw; None where there is no amateur.

    Attributes:
        num_documents, num_positions: eval documents, and tokens of theirs that were predicted.
        expert_nats, amateur_nats: their loss per token, at the temperatures of decoding.
        kl_nats: of the amateur's distribution from the expert's, per token.
        moved: share of draws that are not head_only's (total variation).
        head_of_one_share, mean_head_size: of the expert's head.
        num_completions: decoded.
        repetition: mean share of a completion's tokens in 4-grams that it had before.
        loop_share, clone_share: of the completions.
    """

    num_documents: int
    num_positions: int
    expert_nats: float
    amateur_nats: float | None
    kl_nats: float | None
    moved: float
    head_of_one_share: float
    mean_head_size: float
    num_completions: int
    repetition: float
    loop_share: float
    clone_share: float

    @property
    def gap_nats(self) -> float | None:
        """By how much the amateur predicts worse than the expert."""
        return None if self.amateur_nats is None else self.amateur_nats - self.expert_nats


@dataclass(frozen=True, slots=True)
class Look:
    """What is looked at: all that is needed besides recipe and models, and small enough to be sent to where they are.

    Attributes:
        prefixes: spread over those of the build.
        per_prefix: completions of each.
        ids_BT: the beginnings of eval documents.
    """

    prefixes: Sequence[Prefix]
    per_prefix: int
    ids_BT: np.ndarray


LookAt = Callable[[Look, Advance], Measured]
"""Measures where the models are: `measure` in this process, or a worker; told of every decoding step, or not."""


def check_possible(recipe: Recipe, text: TextRecord) -> None:
    """Say before training that a preflight has nothing to look at (BuildError)."""
    if recipe.preflight is not None and not text.num_tokens("eval"):
        raise BuildError(
            "preflight needs text in the eval split, which has no documents; raise text.splits.eval, or leave "
            "preflight out"
        )


def preflight(
    work: Build,
    look_at: LookAt,
    prefixes: Sequence[Prefix],
    eval_shards: Sequence[MappedShard],
    log: Recorded,
) -> Measured:
    """Measure, tell what is wrong, and stop where the recipe says so.

    Args:
        work: the build.
        look_at: measures, where the models are; not called when that was done before.
        prefixes: of the build, at least one.
        eval_shards: of the eval split, not empty.
        log: told of all of it.

    Raises:
        BuildError: a limit is passed, and `preflight.action` is stop.
    """
    limits = work.recipe.preflight
    assert limits is not None
    seen = read_measured(work.out, work.digests.decode)
    if seen is None:
        with log.stage("preflight", total=None, unit="step") as advance:
            seen = look_at(look_of(work.recipe, prefixes, eval_shards), advance)
        keep(work.out, work.digests.decode, seen)
    found = list(findings(seen, limits, work.recipe.decode))
    log.event("preflight", **asdict(seen), findings=found)
    if found and limits.action == "stop":
        raise BuildError(
            f"preflight: {'; '.join(found)}; nothing was decoded; change the recipe, or go on as it is with "
            "--set preflight.action=warn"
        )
    for line in found:
        log.say(f"warning: preflight: {line}")
    return seen


def findings(seen: Measured, limits: Preflight, decode: Decode) -> Iterator[str]:
    """What is dead or degenerate, one line each, with what to do about it."""
    gap = seen.gap_nats
    if gap is not None and subtracts_amateur(decode) and gap < limits.min_gap_nats:
        yield (
            f"the contrast is dead: the amateur's eval loss is {seen.amateur_nats:.3f} nats per token and the "
            f"expert's {seen.expert_nats:.3f}, a gap of {gap:.3f} where preflight.min_gap_nats is "
            f"{limits.min_gap_nats:g}; take a weaker amateur"
        )
    if seen.head_of_one_share > limits.max_head_of_one:
        yield (
            f"{_percent(seen.head_of_one_share)} of heads are one token, more than preflight.max_head_of_one "
            f"({limits.max_head_of_one:g}), so there is little to choose; lower decode.alpha or raise "
            "decode.temperature"
        )
    if seen.loop_share > limits.max_loops:
        yield (
            f"{_percent(seen.loop_share)} of completions loop, more than preflight.max_loops "
            f"({limits.max_loops:g}); train the expert longer, or set decode.no_repeat_ngram"
        )
    if seen.clone_share > limits.max_clones:
        yield (
            f"{_percent(seen.clone_share)} of completions are copies of an earlier one of their prefix, more than "
            f"preflight.max_clones ({limits.max_clones:g}); lower decode.alpha or raise decode.temperature"
        )


def subtracts_amateur(decode: Decode) -> bool:
    """Whether the score falls with the amateur's probability: only then a good amateur is a fault."""
    if decode.method == "weighted_sum":
        return any(one.model == "amateur" and one.weight < 0 for one in decode.models or ())
    return decode.method == "contrastive" and decode.lambda_ > 0


def _percent(share: float) -> str:
    return f"{share:.0%}"


def look_of(recipe: Recipe, prefixes: Sequence[Prefix], eval_shards: Sequence[MappedShard]) -> Look:
    """What a recipe's preflight looks at, of at least one prefix and of an eval split that is not empty."""
    generate = recipe.generate
    per_prefix = min(generate.completions, MAX_PER_PREFIX)
    count = generate.prefix_tokens + min(generate.new_tokens, MAX_TOKENS)
    return Look(
        prefixes=spread(prefixes, MAX_ROWS // per_prefix),
        per_prefix=per_prefix,
        ids_BT=beginnings(eval_shards, count),
    )


def measure(engine: "Engine", recipe: Recipe, look: Look, *, on_step: Any = None) -> Measured:
    """Look at an engine: the same engine and text give the same numbers.

    Args:
        engine: the recipe's.
        recipe: its geometry and its seed.
        look: what is looked at.
        on_step: called after every decoding step.
    """
    per_prefix = look.per_prefix
    health = read_text(engine, recipe, look.ids_BT)
    ids = decode_some(engine, recipe, look.prefixes, per_prefix, on_step=on_step)
    shares = repetition(np.concatenate(ids).astype(np.uint32), np.array([len(row) for row in ids]))
    # Of every prefix the distinct completions: what is left over is copies.
    groups = [ids[i : i + per_prefix] for i in range(0, len(ids), per_prefix)]
    num_distinct = sum(len({row.tobytes() for row in group}) for group in groups)
    return Measured(
        num_documents=len(look.ids_BT),
        **asdict(health),
        num_completions=len(ids),
        repetition=float(shares.mean()),
        loop_share=float((shares > LOOP).mean()),
        clone_share=1 - num_distinct / len(ids),
    )


def read_text(engine: "Engine", recipe: Recipe, ids_BT: np.ndarray) -> "Health":
    """Expert and amateur on the beginnings of eval documents."""
    from cdgen.decode.health import health
    from cdgen.decode.keys import rng_key, row_keys, uniforms

    generate = recipe.generate
    seed = generate.seed
    keys = [rng_key(seed, "preflight", row) for row in range(len(ids_BT))]
    key_B = row_keys(np.stack([uniforms(key, 2) for key in keys]))
    return health(engine, ids_BT, key_B, prefix_tokens=generate.prefix_tokens)


def beginnings(shards: Sequence[MappedShard], count: int) -> np.ndarray:
    """The first tokens of documents spread evenly over shards, int64 `[documents, count]`.

    A document that is too short is followed by the next one, as a trainer reads them; the last by the first.
    """
    from cdgen.streaming.blocks import Blocks

    blocks = Blocks(shards, count, 0, shuffle=False)
    sizes = np.concatenate([shard.num_tokens for shard in shards])
    starts = np.cumsum(sizes) - sizes
    return np.stack([blocks.tokens(int(start), count) for start in spread(starts, MAX_ROWS)])


def spread(some: Any, count: int) -> list[Any]:
    """At most `count` of a sequence, evenly spread, the first one among them."""
    kept = min(count, len(some))
    return [some[i * len(some) // kept] for i in range(kept)]


def decode_some(
    engine: "Engine",
    recipe: Recipe,
    prefixes: Sequence[Prefix],
    per_prefix: int,
    *,
    on_step: Any = None,
) -> list[np.ndarray]:
    """The drawn ids of the first completions of each prefix, at least one token each, prefix-major.

    Their randomness is the build's; at another batch size rounding may still decide otherwise.
    """
    from cdgen.decode.keys import rng_key, uniforms

    uniforms_BT = np.stack(
        [
            uniforms(rng_key(recipe.generate.seed, prefix.id, number), engine.new_tokens)
            for prefix in prefixes
            for number in range(per_prefix)
        ]
    )
    prefix_PT = np.stack([prefix.ids for prefix in prefixes])
    step = None if on_step is None else lambda _: on_step()
    rows = engine.decode(prefix_PT, uniforms_BT, on_step=step)
    return [ids[:length] for ids, length in zip(rows.ids_BT, rows.length_B, strict=True)]


def _file(out: Path, decode_digest: str) -> Path:
    return out / "work" / f"preflight-{decode_digest[:8]}.json"


def keep(out: Path, decode_digest: str, seen: Measured) -> None:
    """Keep what was measured for the next run."""
    kept = {"format": FORMAT, "decode": decode_digest, "measured": asdict(seen)}
    atomic_write(_file(out, decode_digest), json.dumps(kept, indent=1).encode())


def read_measured(out: Path, decode_digest: str) -> Measured | None:
    """What was measured for this decode digest; None when nothing that can be believed is there."""
    path = _file(out, decode_digest)
    if not path.is_file():
        return None
    try:
        with reading(path):
            kept = parse_json(path.read_bytes(), path)
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            return None
        if kept.get("decode") != decode_digest:
            return None
        measured: Measured = typed(Measured, kept.get("measured"), str(path))
    except BuildError:
        return None
    return measured
