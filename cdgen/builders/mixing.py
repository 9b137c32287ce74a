"""The mix stage: verdicts of the filters, the order, the mixed shards. The same for a build and for `cdgen mix`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import fsum
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdgen.builders.beside import Beside, num_processes, wanted_for
from cdgen.builders.evaluation import Evaluation, searched, to_drop
from cdgen.builders.needs import Amount
from cdgen.builders.profile import Profile
from cdgen.builders.stages import mapped
from cdgen.errors import BuildError
from cdgen.mixing.filters import Drawn, judge, kept_rows
from cdgen.mixing.materialize import Body, num_mixed_shards, write_mixed
from cdgen.mixing.order import MixResult, Supply, mix_order
from cdgen.processes import BESIDE, Processes
from cdgen.progress import Progress
from cdgen.recipes.schema import Filters, Recipe
from cdgen.shards.manifest import AlsoInfo, ContaminationInfo, FilterInfo, Mix
from cdgen.shards.reader import MappedShard
from cdgen.shards.verdicts import REASONS, read_verdicts, stamp, verdicts_name, write_verdicts
from cdgen.storage import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """The shards that are mixed, all of them in one corpus folder.

    Attributes:
        real: of the train split.
        synthetic: of this corpus's own decoding.
        also: other corpora, each with its shards here, in the recipe's order.
        num_prefixes: that the synthetic ones were drawn from; 0 where no more can be added.
        evaluation: what `filters.contamination` looks for in them.
    """

    real: Sequence[Receipt]
    synthetic: Sequence[Receipt]
    also: Sequence[tuple[AlsoInfo, Sequence[Receipt]]] = ()
    num_prefixes: int = 0
    evaluation: Evaluation | None = None

    def shards(self) -> list[Receipt]:
        """All of them."""
        also = (receipt for _, held in self.also for receipt in held)
        return [*self.real, *self.synthetic, *also]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """What the stage made.

    Attributes:
        shards: the mixed shards; none if the recipe does not materialize.
        result: the shares.
        filters: what acted, and the file of its verdicts; None without filters.
        dropped: synthetic samples by reason.
    """

    shards: Sequence[Receipt]
    result: MixResult
    filters: FilterInfo | None = None
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """What the filters decided.

    Attributes:
        kept: by synthetic shard which samples may be mixed, bool `[samples]`; empty without filters.
        info: what acted, and the files of it; None without filters.
        dropped: synthetic samples by reason.
    """

    kept: dict[str, np.ndarray] = field(default_factory=dict)
    info: FilterInfo | None = None
    dropped: dict[str, int] = field(default_factory=dict)


def filter_stage(
    out: Path,
    recipe: Recipe,
    digest: str,
    ingredients: Ingredients,
    *,
    beside: Beside,
    progress: Progress,
) -> Filtered:
    """Judge every synthetic sample; what is there already is kept. Arguments: as of `mix_stage`."""
    bodies = _bodies(out, ingredients)
    return _filtered(out, recipe, digest, bodies, ingredients, beside=beside, progress=progress)


def _filtered(
    out: Path,
    recipe: Recipe,
    digest: str,
    bodies: Sequence[Body],
    ingredients: Ingredients,
    *,
    beside: Beside,
    progress: Progress,
) -> Filtered:
    if recipe.filters is None:
        return Filtered()
    drawn, real = _drawn(bodies), bodies[0].shards
    shards = [*real, *(item.shard for item in drawn)]
    found = searched(
        out,
        recipe.filters,
        ingredients.evaluation,
        shards,
        traits_of=beside.traits,
        progress=progress,
    )
    judged = partial(judge, drawn, real, recipe.filters, to_drop(out, found), beside.traits)
    kept, dropped = _verdicts(out, digest, drawn, judged, progress)
    return Filtered(kept=kept, info=_info(recipe.filters, out, digest, found), dropped=dropped)


def mix_stage(
    out: Path,
    recipe: Recipe,
    digest: str,
    ingredients: Ingredients,
    *,
    beside: Beside,
    progress: Progress,
    on_shard: Callable[[Receipt], None] = lambda _: None,
) -> Mixed:
    """Filter, order and write; what is there already is kept.

    Args:
        out: the corpus folder.
        recipe: of which the sections filters, mix and shards count.
        digest: the mix digest.
        ingredients: the shards to mix.
        beside: what looks at them, and writes.
        progress: told of every step.
        on_shard: told of every mixed shard.

    Raises:
        BuildError: a source is too short, or a shard is damaged.
    """
    bodies = _bodies(out, ingredients)
    filtered = _filtered(out, recipe, digest, bodies, ingredients, beside=beside, progress=progress)
    order, result = mix_order(_supplies(bodies, ingredients, filtered.kept or None), recipe.mix)
    made: list[Receipt] = []
    if recipe.mix.materialize:
        total = num_mixed_shards(len(order), recipe.shards.documents)
        with progress.stage("mix", total=total, unit="shard") as advance:

            def written(receipt: Receipt) -> None:
                on_shard(receipt)
                advance(1)

            made = write_mixed(
                order,
                bodies,
                out,
                digest=digest,
                documents=recipe.shards.documents,
                processes=beside.processes,
                on_shard=written,
            )
    return Mixed(shards=made, result=result, filters=filtered.info, dropped=filtered.dropped)


@contextmanager
def beside_of(
    out: Path,
    recipe: Recipe,
    ingredients: Ingredients,
    drawn: Amount | None = None,
    profile: Profile | None = None,
) -> Iterator[Beside]:
    """Processes that look at finished shards and write mixed ones; they begin with what is there.

    Args:
        out: the corpus folder.
        recipe: of which filters count.
        ingredients: the shards that are there.
        drawn: what will come from decoding.
        profile: how many processes; by default as many as this machine allows.
    """
    there = ingredients.shards()
    number = num_processes(
        profile,
        num_tokens=sum(kept.num_tokens for kept in there) + (drawn.num_tokens if drawn else 0),
        num_samples=sum(kept.num_samples for kept in there) + (drawn.num_samples if drawn else 0),
    )
    wanted = wanted_for(out, recipe.filters, ingredients.evaluation)
    with Processes(number, niceness=BESIDE if drawn else 0) as processes:
        beside = Beside(processes, wanted, out)
        beside.begin(*there)
        yield beside


def mix_info(recipe: Recipe, result: MixResult) -> Mix:
    """The manifest's word on the mix."""
    return Mix(
        nominal=fsum([recipe.mix.synthetic, *(also.share for also in recipe.mix.also)]),
        realised=result.realised,
        unit=recipe.mix.unit,
        num_real_tokens=result.num_real_tokens,
        num_synthetic_tokens=result.num_synthetic_tokens,
        parts=result.parts,
    )


def _bodies(out: Path, ingredients: Ingredients) -> list[Body]:
    def shards(receipts: Sequence[Receipt]) -> list[MappedShard]:
        return [mapped(out, receipt) for receipt in receipts]

    also = [Body(shards(held), info.digests["decode"]) for info, held in ingredients.also]
    return [Body(shards(ingredients.real)), Body(shards(ingredients.synthetic)), *also]


def _supplies(
    bodies: Sequence[Body], ingredients: Ingredients, kept: dict[str, np.ndarray] | None
) -> list[Supply]:
    names = ["real", "synthetic", *(info.label for info, _ in ingredients.also)]
    return [
        Supply(
            name=name,
            num_tokens=[shard.num_tokens for shard in body.shards],
            kept=None
            if kept is None or name == "real"
            else [kept[shard.path.name] for shard in body.shards],
            num_prefixes=ingredients.num_prefixes if name == "synthetic" else 0,
        )
        for name, body in zip(names, bodies, strict=True)
    ]


def _verdicts(
    out: Path,
    digest: str,
    drawn: Sequence[Drawn],
    judged: Callable[[], pa.Table],
    progress: Progress,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(kept samples by shard, samples dropped by reason), from the verdict file, which is written if it is missing."""
    try:
        table = read_verdicts(out / "index" / verdicts_name(digest), digest)
        whole = len(table) == sum(len(item.shard) for item in drawn)
    except BuildError:  # none yet, or one that cannot be believed
        whole = False
    if not whole:
        with progress.stage("filter", total=None, unit="sample") as advance:
            table = judged()
            write_verdicts(out, table, digest)
            advance(len(table))
    counts = Counter(table["reason"].to_pylist())
    rows = kept_rows(table, drawn)
    names = [item.shard.path.name for item in drawn]
    return dict(zip(names, rows, strict=True)), {reason: counts[reason] for reason in REASONS}


def _drawn(bodies: Sequence[Body]) -> list[Drawn]:
    """All synthetic shards, in the order of their names."""
    drawn = [Drawn(shard, body.decode) for body in bodies[1:] for shard in body.shards]
    return sorted(drawn, key=lambda item: item.shard.path.name)


def _info(filters: Filters, out: Path, digest: str, found: ContaminationInfo | None) -> FilterInfo:
    return FilterInfo(
        exact_dedup=filters.exact_dedup,
        min_tokens=filters.min_tokens,
        max_repetition=filters.max_repetition,
        verdicts=stamp(out / "index" / verdicts_name(digest)),
        contamination=found,
        near_dedup=filters.near_dedup,
    )
