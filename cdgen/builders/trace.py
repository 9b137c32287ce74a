"""Looking back: decode chosen rows of a finished corpus again, and say token by token why they read as they do.

A row needs its prefix, its random key, the models and the recipe; all but the models are in the corpus. Rows are
packed into one batch of the recipe's own geometry, since sums depend on shapes: one batch is what a replay costs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cdgen.builders.also import own_synthetic
from cdgen.builders.engines import open_engine
from cdgen.builders.find_models import model_folders
from cdgen.builders.jobs import prefixes_per_batch
from cdgen.builders.rows import parts
from cdgen.corpus import Corpus, open_corpus
from cdgen.decode import sampling
from cdgen.decode.engine import Engine, Rows
from cdgen.decode.reference import judge, stepped
from cdgen.errors import BuildError, UsageError
from cdgen.recipes.load import load_recipe
from cdgen.recipes.schema import Recipe
from cdgen.shards.index import read_index
from cdgen.shards.manifest import ManifestShard
from cdgen.shards.reader import MappedShard
from cdgen.text.tokenizer import Tokenizer

_COLUMNS = (
    "key",
    "document",
    "start",
    "completion",
    "part",
    "prefix_tokens",
    "num_tokens",
    "rng_key",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a synthetic sample lies, and which row it is a part of."""

    key: str
    shard: ManifestShard
    row: int
    prefix: str
    completion: int
    part: int
    prefix_tokens: int
    num_tokens: int
    rng_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A sample whose tokens were not drawn again."""

    key: str
    token: int
    """The first position that differs."""
    stored: int
    drawn: int
    """Token ids there; -1 past the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How far a replay agrees with the corpus."""

    num_rows: int
    num_samples: int
    num_tokens: int
    num_equal_tokens: int
    differences: tuple[Difference, ...]

    @property
    def agreement(self) -> float:
        """Share of equal tokens."""
        return self.num_equal_tokens / max(self.num_tokens, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One drawn token: natural logs over the whole vocabulary; the head's size; what the expert alone draws there."""

    token: str
    logp_expert: float
    logp_amateur: float | None
    head_size: int
    plain: str


def replay(folder: str | Path, num_rows: int) -> Replayed:
    """Decode at least `num_rows` rows again, from prefixes spread evenly over the corpus, and compare.

    At most one batch is decoded: asking for more rows than it has compares those it has.

    Raises:
        UsageError: no finished corpus, or one without synthetic text.
        BuildError: the models are not where the build had them.
    """
    corpus, recipe = _open(folder)
    groups = _spread(corpus, recipe, num_rows)
    rows = _decode(corpus, recipe, _engine(corpus, recipe), groups)
    return _compare(corpus, recipe, groups, rows)


def _spread(corpus: Corpus, recipe: Recipe, num_rows: int) -> list[list[Place]]:
    """The samples of evenly spread prefixes that have `num_rows` rows together, as far as one batch holds them."""
    by_prefix: dict[str, list[Place]] = {}
    for place in _places(corpus):
        by_prefix.setdefault(place.prefix, []).append(place)
    count = min(-(-num_rows // recipe.generate.completions), prefixes_per_batch(recipe.generate))
    names = sorted(by_prefix)
    chosen = [names[i * len(names) // count] for i in range(min(count, len(names)))]
    chosen = list(dict.fromkeys(chosen))
    return [by_prefix[name] for name in chosen]


def explain(folder: str | Path, key: str) -> list[Step]:
    """Why a synthetic sample reads as it does: every drawn token of it, in order.

    Raises:
        UsageError: no synthetic sample has this key.
        BuildError: the models are not there, or draw other tokens than the corpus has.
    """
    corpus, recipe = _open(folder)
    places = list(_places(corpus))
    place = next((place for place in places if place.key == key), None)
    if place is None:
        raise UsageError(f"{folder}: no synthetic sample has the key {key}")
    mine = [other for other in places if other.prefix == place.prefix]
    engine = _engine(corpus, recipe)
    rows = _decode(corpus, recipe, engine, [mine])
    if any(found.key == key for found in _compare(corpus, recipe, [mine], rows).differences):
        raise BuildError(
            f"{key}: the models here draw other tokens than the corpus has, so they cannot explain it; "
            "explain it where it was decoded"
        )
    return _steps(corpus, recipe, engine, mine, rows, place=place)


def traced(folder: str | Path, num_rows: int) -> list[list[Step]]:
    """The drawn tokens of at least `num_rows` rows, up to the end of the first document of each.

    The rows are those of `replay`; step t of a row is its t-th token after the prefix.

    Raises:
        UsageError: no finished corpus, or one without synthetic text.
        BuildError: the models are not there, or draw other tokens than the corpus has.
    """
    corpus, recipe = _open(folder)
    groups = _spread(corpus, recipe, num_rows)
    engine = _engine(corpus, recipe)
    rows = _decode(corpus, recipe, engine, groups)
    odd = _compare(corpus, recipe, groups, rows).differences
    if odd:
        raise BuildError(
            f"{odd[0].key}: the models here draw other tokens than the corpus has; "
            "look where it was decoded"
        )
    return [
        _steps(
            corpus,
            recipe,
            engine,
            group,
            rows,
            place=place,
            first=number * recipe.generate.completions,
        )
        for number, group in enumerate(groups)
        for place in group
        if place.part == 0
    ]


def _open(folder: str | Path) -> tuple[Corpus, Recipe]:
    corpus = open_corpus(folder)
    if not own_synthetic(corpus.manifest):
        raise UsageError(f"{corpus.where}: has no synthetic text")
    recipe = load_recipe(corpus.folder / "recipe.yaml").recipe
    if not recipe.generate.keep_prefix:
        raise UsageError(
            f"{corpus.where}: was built with generate.keep_prefix: false, so its prefixes are not in it"
        )
    return corpus, recipe


def _places(corpus: Corpus) -> Iterator[Place]:
    """Every synthetic sample that this corpus decoded itself: of another's, the models are elsewhere."""
    for shard in own_synthetic(corpus.manifest):
        table = read_index(corpus.files.index(shard), _COLUMNS)
        for number, row in enumerate(table.to_pylist()):
            yield Place(
                shard=shard,
                row=number,
                prefix=f"{row.pop('document')}:{row.pop('start')}",
                **row,
            )


def _engine(corpus: Corpus, recipe: Recipe) -> Engine:
    expert, amateur, *further = model_folders(corpus)
    assert expert is not None
    tokenizer = _tokenizer(corpus)
    return open_engine(
        recipe,
        expert=expert,
        amateur=amateur,
        further=[folder for folder in further if folder is not None],
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
    )


def _decode(corpus: Corpus, recipe: Recipe, engine: Engine, groups: Sequence[list[Place]]) -> Rows:
    """One batch of the recipe's geometry, with these prefixes first and the last one repeated."""
    generate = recipe.generate
    prefix_PT = np.stack([_prefix_ids(corpus, group) for group in groups])
    uniforms_BT = np.stack([row for group in groups for row in _uniforms(recipe, group)])
    missing = prefixes_per_batch(generate) - len(groups)
    prefix_PT = np.concatenate([prefix_PT, np.repeat(prefix_PT[-1:], missing, axis=0)])
    last = uniforms_BT[-generate.completions :]
    uniforms_BT = np.concatenate([uniforms_BT, np.tile(last, (missing, 1))])
    return engine.decode(prefix_PT, uniforms_BT)


def _uniforms(recipe: Recipe, group: Sequence[Place]) -> Iterator[np.ndarray]:
    """The randomness of every completion of a prefix: keyed by what it is, and as its samples say."""
    generate = recipe.generate
    said = {place.completion: place.rng_key for place in group}
    for completion in range(generate.completions):
        key = sampling.rng_key(generate.seed, group[0].prefix, completion)
        if said.get(completion, sampling.key_hex(key)) != sampling.key_hex(key):
            raise BuildError(
                f"{group[0].prefix}: completion {completion} has another rng_key than its recipe gives"
            )
        yield sampling.uniforms(key, generate.new_tokens)


def _prefix_ids(corpus: Corpus, group: Sequence[Place]) -> np.ndarray:
    first = next(place for place in group if place.prefix_tokens)
    return _ids(corpus, first)[: first.prefix_tokens]


def _ids(corpus: Corpus, place: Place) -> np.ndarray:
    files = corpus.files
    with MappedShard(files.shard(place.shard), files.index(place.shard)) as shard:
        return shard.ids(place.row).astype(np.int64)


def _compare(corpus: Corpus, recipe: Recipe, groups: Sequence[list[Place]], rows: Rows) -> Replayed:
    tokenizer = _tokenizer(corpus)
    completions = recipe.generate.completions
    num_tokens = num_equal = num_samples = 0
    differences = []
    for number, group in enumerate(groups):
        prefix = _prefix_ids(corpus, group)
        for place in group:
            row = number * completions + place.completion
            drawn = rows.ids_BT[row, : rows.length_B[row]].astype(np.int64)
            cut = list(parts(prefix, drawn, tokenizer, keep_prefix=True))
            again = cut[place.part].ids if place.part < len(cut) else np.empty(0, np.int64)
            stored = _ids(corpus, place)
            equal = _first_difference(stored, again)
            num_samples, num_tokens = num_samples + 1, num_tokens + len(stored)
            num_equal += equal
            if equal < max(len(stored), len(again)):
                differences.append(_difference(place.key, equal, stored, again))
    return Replayed(
        num_rows=len(groups) * completions,
        num_samples=num_samples,
        num_tokens=num_tokens,
        num_equal_tokens=num_equal,
        differences=tuple(differences),
    )


def _first_difference(stored: np.ndarray, again: np.ndarray) -> int:
    """How many tokens agree from the start: after the first difference a row is another row."""
    shared = min(len(stored), len(again))
    odd = np.flatnonzero(stored[:shared] != again[:shared])
    return int(odd[0]) if len(odd) else shared


def _difference(key: str, at: int, stored: np.ndarray, again: np.ndarray) -> Difference:
    def token(ids: np.ndarray) -> int:
        return int(ids[at]) if at < len(ids) else -1

    return Difference(key=key, token=at, stored=token(stored), drawn=token(again))


def _steps(
    corpus: Corpus,
    recipe: Recipe,
    engine: Engine,
    group: Sequence[Place],
    rows: Rows,
    *,
    place: Place,
    first: int = 0,
) -> list[Step]:
    """The drawn tokens of one part, teacher-forced through the engine's models, this row alone.

    Args:
        corpus, recipe, engine: of the place.
        group: the samples of its prefix.
        rows: what was decoded.
        place: the part.
        first: the row of the prefix's first completion.
    """
    tokenizer, prefix = _tokenizer(corpus), _prefix_ids(corpus, group)
    row = first + place.completion
    drawn = rows.ids_BT[row, : rows.length_B[row]].astype(np.int64)
    part = list(parts(prefix, drawn, tokenizer, keep_prefix=True))[place.part]
    key = sampling.rng_key(recipe.generate.seed, place.prefix, place.completion)
    uniform_T = sampling.uniforms(key, recipe.generate.new_tokens)
    ids_BT = np.concatenate([prefix, drawn[: part.last]])[None]
    row_key = sampling.row_keys(uniform_T[None])
    logits = stepped(engine.models, ids_BT, row_key, prefix_tokens=len(prefix))
    expert_BTV, *others = [logits_BTV[..., : tokenizer.vocab_size] for logits_BTV in logits]
    seen = judge(
        expert_BTV,
        others.pop(0) if engine.amateur is not None else None,
        ids_BT,
        prefix_tokens=len(prefix),
        rule=engine.rule,
        further=others,
    )
    plain_T = sampling.pick(seen.logp_expert_BTV[0], torch.from_numpy(uniform_T[: part.last]))
    names, plain = tokenizer.tokens(drawn), tokenizer.tokens(plain_T.tolist())
    amateur = seen.logp_amateur_BTV
    return [
        Step(
            token=names[t],
            logp_expert=float(seen.logp_expert_BTV[0, t, drawn[t]]),
            logp_amateur=None if amateur is None else float(amateur[0, t, drawn[t]]),
            head_size=int(seen.head_BTV[0, t].sum()),
            plain=plain[t],
        )
        for t in range(part.first, part.last)
    ]


def _tokenizer(corpus: Corpus) -> Tokenizer:
    return Tokenizer.load(corpus.folder / "tokenizer")
