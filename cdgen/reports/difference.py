"""What differs between two corpora, or two recipes, and why.

Every field that differs is put into the other recipe alone, and the digests are computed again: what it moves is not
looked up in a table but found out. Samples are compared through the indexes, by key and by the hashes of ids and text.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cdgen.builders.run import open_build
from cdgen.decode import ENGINE_VERSION
from cdgen.errors import CdgenError, UsageError
from cdgen.recipes.digests import Inputs, digests
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.recipes.nodes import FieldPath, dotted
from cdgen.recipes.schema import ModelAmateur, Recipe
from cdgen.reports.samples import SampleCounts, compare_samples
from cdgen.shards.layout import index_path
from cdgen.shards.manifest import Manifest, ManifestShard, read_manifest
from cdgen.storage import parse_json, reading

ABSENT = "absent"
_STUB = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDifference:
    """A recipe's field that differs."""

    field: str
    a: Any
    b: Any
    moves: tuple[str, ...]
    """The digests that this change alone moves; none for names, places and descriptions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDifference:
    """The shards of one kind and split, such as real-train."""

    group: str
    shards: tuple[int, int]
    """How many a and b have."""
    tokens: tuple[int, int]
    equal_shards: int
    """Shards of one name and the same bytes."""
    samples: SampleCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All that differs.

    Attributes:
        same: two corpora have the same shards, byte for byte; two recipes have the same digests.
        manifests: the manifest digests of two corpora.
        digests: by stage, those that differ; "" where one is not known.
        fields: of the recipes.
        inputs: by source, the sha256 of text whose content differs.
        circumstances: versions and numeric classes that differ.
        shares: the shares of synthetic text that differ, nominal and realised.
        groups: of two corpora, shards and samples.
        notes: what could not be compared.
    """

    a: str
    b: str
    same: bool
    manifests: tuple[str, str] | None
    digests: dict[str, tuple[str, str]]
    fields: tuple[FieldDifference, ...]
    inputs: dict[str, tuple[str, str]]
    circumstances: dict[str, tuple[str, str]]
    shares: dict[str, tuple[float, float]]
    groups: tuple[GroupDifference, ...]
    notes: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Side:
    """One of the two: a corpus or a recipe, as far as it is known."""

    path: Path
    notes: list[str]
    manifest: Manifest | None = None
    recipe: Recipe | None = None
    digests: Mapping[str, str] | None = None
    sources: Mapping[str, str] | None = None
    circumstances: Mapping[str, str] | None = None


def difference(a: Path, b: Path) -> Difference:
    """Compare two corpora (folders) or two recipes (files), or one of each.

    Memory is bounded whatever the size of the corpora; see `compare_samples`.

    Raises:
        UsageError: one of them is neither.
        BuildError: a manifest or an index is damaged.
    """
    one, two = _side(a), _side(b)
    both = one.manifest is not None and two.manifest is not None
    manifests = (one.manifest.digest, two.manifest.digest) if both else None  # type: ignore[union-attr]
    moved = _different(one.digests, two.digests)
    fields = _fields(one.recipe, two.recipe)
    same = not moved if one.digests and two.digests else not fields
    if manifests:
        same = manifests[0] == manifests[1]
    return Difference(
        a=str(a),
        b=str(b),
        same=same,
        manifests=manifests,
        digests=moved,
        fields=fields,
        inputs=_different(one.sources, two.sources),
        circumstances=_different(one.circumstances, two.circumstances),
        shares=_shares(one.manifest, two.manifest),
        groups=_groups(one, two) if both else (),
        notes=(*one.notes, *two.notes),
    )


def _side(path: Path) -> _Side:
    return _corpus(path) if path.is_dir() else _recipe(path)


def _corpus(path: Path) -> _Side:
    manifest = read_manifest(path)
    side = _Side(path=path, notes=[], manifest=manifest, digests=manifest.digests)
    try:
        side.recipe = load_recipe(path / "recipe.yaml").recipe
    except UsageError as error:  # of an older or newer version, or not there
        side.notes.append(f"its recipe cannot be read: {error}")
    try:
        lock = path / "recipe.lock.json"
        with reading(lock):
            kept = parse_json(lock.read_bytes(), lock)
        side.sources = {name: entry["sha256"] for name, entry in kept["sources"].items()}
        side.circumstances = {
            name: str(value)
            for name, value in _leaves(
                {key: kept[key] for key in ("cdgen", "engine", "packages", "numeric_class")}
            ).items()
        }
    except (CdgenError, KeyError, TypeError, AttributeError) as error:
        side.notes.append(f"{path}: its lock cannot be read: {error}")
    return side


def _recipe(path: Path) -> _Side:
    file = load_recipe(path)
    side = _Side(path=path, notes=[], recipe=file.recipe)
    try:
        side.digests, side.sources = _resolved(file)
    except CdgenError as error:  # what it reads is elsewhere: the fields can still be compared
        side.notes.append(f"its digests are not known: {error}")
    return side


def _resolved(file: RecipeFile) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """(digests, content hashes of the sources); reads and hashes what the recipe names."""
    work = open_build(file, Path(os.devnull) / "no-corpus")
    return asdict(work.digests), work.inputs.hashes.sources


def _different(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, Any]:
    """What differs between two mappings that are both known; "" for what one does not have."""
    if a is None or b is None:
        return {}
    pairs = {name: (a.get(name, ""), b.get(name, "")) for name in {**a, **b}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


# ---- fields, and what each of them moves ----


def _fields(a: Recipe | None, b: Recipe | None) -> tuple[FieldDifference, ...]:
    if a is None or b is None:
        return ()
    old, new = (recipe.model_dump(by_alias=True) for recipe in (a, b))
    before, after = _paths(old), _paths(new)
    found = []
    for path in {**before, **after}:
        pair = tuple(side.get(path, ABSENT) for side in (before, after))
        if pair[0] != pair[1]:
            found.append(
                FieldDifference(
                    field=dotted(path), a=pair[0], b=pair[1], moves=_moved_by(path, old, new)
                )
            )
    return tuple(found)


def _paths(value: Any, path: FieldPath = ()) -> dict[FieldPath, Any]:
    """The leaves of a recipe's fields by their paths; an empty list or mapping is a leaf."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    inner = {p: leaf for key, item in items for p, leaf in _paths(item, (*path, key)).items()}
    return inner or {path: str(value) if isinstance(value, Path) else value}


def _leaves(value: Any) -> dict[str, Any]:
    return {dotted(path): leaf for path, leaf in _paths(value).items()}


def _moved_by(path: FieldPath, old: dict[str, Any], new: dict[str, Any]) -> tuple[str, ...]:
    """The digests that differ when `old` takes this field of `new`, or the smallest part around it that fits."""
    for depth in range(len(path), 0, -1):
        try:
            changed = Recipe.model_validate(_with(old, new, path[:depth]))
        except (ValidationError, KeyError, IndexError, TypeError):
            continue  # not without the fields beside it
        return _names(Recipe.model_validate(old), changed)
    return _names(Recipe.model_validate(old), Recipe.model_validate(new))


def _with(old: Any, new: Any, path: FieldPath) -> Any:
    """A copy of `old` whose value at `path` is that of `new`."""
    made = copy.deepcopy(old)
    target = made
    for part in path[:-1]:
        if isinstance(target[part], tuple):
            target[part] = list(target[part])
        target, new = target[part], new[part]
    last: Any = path[-1]
    if isinstance(new, dict) and last not in new:
        del target[last]
    else:
        target[last] = new[last]
    return made


def _names(a: Recipe, b: Recipe) -> tuple[str, ...]:
    one, two = (asdict(digests(recipe, _stub(recipe), engine=ENGINE_VERSION)) for recipe in (a, b))
    return tuple(name for name in one if one[name] != two[name])


def _stub(recipe: Recipe) -> Inputs:
    """Inputs whose contents are all alike, so that only fields can move a digest."""
    given = recipe.expert.train is None
    tokenizer = recipe.tokenizer
    trained = given is False if tokenizer is None else tokenizer.train is not None
    return Inputs(
        sources={source.name: _STUB for source in recipe.text.sources},
        tokenizer=None if trained else _STUB,
        expert=_STUB if given else None,
        amateur=_STUB if isinstance(recipe.amateur, ModelAmateur) else None,
        models=tuple(
            _STUB if found.path or found.hf else None for found in recipe.decode.models or ()
        ),
        also=(_STUB,) * len(recipe.mix.also),
    )


# ---- shards and samples ----


def _shares(a: Manifest | None, b: Manifest | None) -> dict[str, tuple[float, float]]:
    if a is None or b is None or a.mix is None or b.mix is None:
        return {}
    pairs = {name: (getattr(a.mix, name), getattr(b.mix, name)) for name in ("nominal", "realised")}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _groups(a: _Side, b: _Side) -> tuple[GroupDifference, ...]:
    assert a.manifest is not None and b.manifest is not None
    names = sorted({*a.manifest.totals, *b.manifest.totals})
    return tuple(_group(name, a, b) for name in names)


def _group(name: str, a: _Side, b: _Side) -> GroupDifference:
    one, two = _shards(a, name), _shards(b, name)
    shared = {(shard.name, shard.sha256) for shard in one} & {
        (shard.name, shard.sha256) for shard in two
    }
    rest = [
        [shard for shard in shards if (shard.name, shard.sha256) not in shared]
        for shards in (one, two)
    ]
    counts = compare_samples(
        [index_path(a.path, shard.name) for shard in rest[0]],
        [index_path(b.path, shard.name) for shard in rest[1]],
        num_rows=max(sum(shard.num_samples for shard in shards) for shards in rest),
        num_equal=sum(shard.num_samples for shard in one if (shard.name, shard.sha256) in shared),
    )
    return GroupDifference(
        group=name,
        shards=(len(one), len(two)),
        tokens=(_tokens(one), _tokens(two)),
        equal_shards=len(shared),
        samples=counts,
    )


def _shards(side: _Side, group: str) -> list[ManifestShard]:
    assert side.manifest is not None
    return [shard for shard in side.manifest.shards if f"{shard.kind}-{shard.split}" == group]


def _tokens(shards: Sequence[ManifestShard]) -> int:
    return sum(shard.num_tokens for shard in shards)
