"""A corpus is published only under a licence that follows from what it is made of, or that its recipe decides."""

from cdgen.corpus import Corpus
from cdgen.errors import UsageError
from cdgen.recipes.load import load_recipe
from cdgen.shards.licensing import corpus_license


def check_license(corpus: Corpus) -> None:
    """Stop where nobody has said what strangers may do with the corpus.

    Raises:
        UsageError: its licence is not known, or the licences of its parts conflict.
    """
    manifest = corpus.manifest
    found, problems = manifest.license, manifest.license_problems
    if not found and not problems:  # the manifest is of a version that told no licence
        told = corpus_license(load_recipe(corpus.folder / "recipe.yaml").recipe, manifest.also)
        found, problems = told.license, told.license_problems
    if found:
        return
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise UsageError(
        f"{corpus.folder}: cannot be published, its licence cannot be told: {problems[0]}{more}; in the recipe, either "
        "say the licence of that part, or decide with `license:` at the top, and run cdgen build again"
    )
