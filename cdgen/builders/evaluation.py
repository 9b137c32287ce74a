"""The evaluation sets of a recipe: opened before any work, looked for when mixing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cdgen.errors import BuildError, UsageError
from cdgen.mixing.eval_sets import content, items
from cdgen.mixing.traits import EvaluationFiles, TraitsOf
from cdgen.progress import Progress
from cdgen.recipes.digests import contamination_digest
from cdgen.recipes.load import RecipeFile
from cdgen.recipes.schema import Filters, Recipe
from cdgen.shards.findings import (
    FINDING_SCHEMA,
    contaminated,
    counts,
    findings_name,
    read_findings,
    write_findings,
)
from cdgen.shards.manifest import ContaminationInfo, EvaluationInfo, Manifest
from cdgen.shards.reader import MappedShard
from cdgen.shards.verdicts import stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTexts:
    """An evaluation set; path None: of an earlier search whose findings are at hand."""

    name: str
    sha256: str
    num_items: int
    path: Path | None = None
    fields: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the text is searched for; `digest` covers the sets and the shards."""

    digest: str
    ngram: int
    sets: tuple[EvaluationTexts, ...]


def open_evaluation(file: RecipeFile) -> tuple[EvaluationTexts, ...]:
    """Read and hash every evaluation set of a recipe.

    Raises:
        UsageError: one is not there, or cannot be read; names the field.
    """
    filters = file.recipe.filters
    if filters is None or filters.contamination is None:
        return ()
    return tuple(_open(file, number) for number in range(len(filters.contamination.against)))


def _open(file: RecipeFile, number: int) -> EvaluationTexts:
    assert file.recipe.filters is not None and file.recipe.filters.contamination is not None
    spec = file.recipe.filters.contamination.against[number]
    path = file.resolve(spec.path)
    try:
        num_items = sum(1 for _ in items(path, spec.fields))
        sha256 = content(path, spec.fields)
    except UsageError as error:
        at = file.at(("filters", "contamination", "against", number))
        raise UsageError(f"{at}: {error}; paths are relative to the recipe") from None
    return EvaluationTexts(
        name=spec.label, sha256=sha256, num_items=num_items, path=path, fields=spec.fields
    )


def known_evaluation(manifest: Manifest) -> tuple[EvaluationTexts, ...]:
    """The sets that a finished corpus was searched for."""
    found = manifest.filters.contamination if manifest.filters else None
    return tuple(
        EvaluationTexts(name=one.name, sha256=one.sha256, num_items=one.num_items)
        for one in (found.sets if found else ())
    )


def evaluation(
    recipe: Recipe,
    sets: Sequence[EvaluationTexts],
    *,
    text: str,
    decode: str,
    also: Sequence[str],
) -> Evaluation | None:
    """What to look for in the shards of these digests; None where the recipe asks for nothing."""
    spec = recipe.filters.contamination if recipe.filters else None
    if spec is None:
        return None
    hashes = [one.sha256 for one in sets]
    digest = contamination_digest(spec, hashes, text=text, decode=decode, also=also)
    return Evaluation(digest=digest, ngram=spec.ngram, sets=tuple(sets))


def searched(
    out: Path,
    filters: Filters,
    wanted: Evaluation | None,
    shards: Sequence[MappedShard],
    *,
    traits_of: TraitsOf,
    progress: Progress,
) -> ContaminationInfo | None:
    """Search the text for evaluation sets, or take what an earlier search in this folder found.

    Args:
        out: the corpus folder.
        filters, wanted: what to search for.
        shards: in the order in which they are to be listed.
        traits_of: finds what is in one of them, unless `is_searched`.
        progress: told of every shard.
    """
    if filters.contamination is None:
        return None
    assert wanted is not None
    path = out / "index" / findings_name(wanted.digest)
    if is_searched(out, wanted):
        table = read_findings(path, wanted.digest)
    else:
        table = _search(shards, traits_of, progress)
        write_findings(out, table, wanted.digest)
    found = counts(table)
    return ContaminationInfo(
        ngram=filters.contamination.ngram,
        action=filters.contamination.action,
        sets=tuple(
            EvaluationInfo(
                name=one.name,
                sha256=one.sha256,
                num_items=one.num_items,
                num_real=found.get((one.name, "real"), 0),
                num_synthetic=found.get((one.name, "synthetic"), 0),
            )
            for one in wanted.sets
        ),
        findings=stamp(path),
    )


def is_searched(out: Path, wanted: Evaluation) -> bool:
    """Whether the findings of an earlier search are in a folder."""
    try:
        read_findings(out / "index" / findings_name(wanted.digest), wanted.digest)
    except BuildError:  # none yet, or one that cannot be believed
        return False
    return True


def files_of(wanted: Evaluation) -> EvaluationFiles:
    """The sets' own files; BuildError where one is not at hand."""
    missing = next((one.name for one in wanted.sets if one.path is None), None)
    if missing is not None:
        raise BuildError(
            f"the findings for the evaluation set {missing} are missing or damaged, and the set is not in the corpus: "
            "get the corpus again, or build the recipe"
        )
    sets = [(one.name, one.path, one.fields) for one in wanted.sets if one.path is not None]
    return EvaluationFiles(tuple(sets), wanted.ngram)


def _search(shards: Sequence[MappedShard], traits_of: TraitsOf, progress: Progress) -> pa.Table:
    found = []
    with progress.stage("search", total=sum(map(len, shards)), unit="sample") as advance:
        for shard in shards:
            found.append(traits_of(shard).findings)
            advance(len(shard))
    return pa.concat_tables([FINDING_SCHEMA.empty_table(), *found])


def to_drop(out: Path, found: ContaminationInfo | None) -> frozenset[tuple[str, str]]:
    """(shard, key) of the synthetic samples that findings keep out of the mix."""
    if found is None or found.action != "drop":
        return frozenset()
    return contaminated(read_findings(out / "index" / found.findings.name))
