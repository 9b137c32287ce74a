"""The licence of a corpus: what its recipe says, or what follows from its texts, models and mixed-in corpora."""

from collections.abc import Iterable
from dataclasses import dataclass

from cdgen.recipes.licensing import Part, Ruling, parts_of, ruling
from cdgen.recipes.schema import Recipe
from cdgen.shards.manifest import AlsoInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusLicense:
    """What the manifest says of the licence; the same fields, with the same meaning."""

    license: str
    license_override: bool
    license_problems: tuple[str, ...]


def corpus_license(recipe: Recipe, also: Iterable[AlsoInfo]) -> CorpusLicense:
    """The licence of a recipe's corpus that mixes in these others."""
    found = followed_license(recipe, also)
    return CorpusLicense(
        license=recipe.license or found.license,
        license_override=recipe.license is not None,
        license_problems=found.problems,
    )


def followed_license(recipe: Recipe, also: Iterable[AlsoInfo]) -> Ruling:
    """What follows from texts, models and other corpora, whatever the recipe decides."""
    return ruling([*parts_of(recipe), *(part for info in also for part in _mixed_in(info))])


def _mixed_in(info: AlsoInfo) -> list[Part]:
    corpus = f"the corpus {info.name}"
    if info.license or info.license_problems:
        return [Part(corpus, info.license or None)]
    # Its manifest is of a version that told no licence: its texts are all that is known.
    return [
        Part(f"the source {source.name} of {corpus}", source.license) for source in info.sources
    ]
