"""A recipe without the paths of the machine that built it: a name for each local input takes the place of its path."""

from collections.abc import Iterator
from pathlib import Path

from cdgen.recipes.load import load_recipe, rewritten
from cdgen.recipes.overrides import flow
from cdgen.recipes.schema import Recipe


def public_recipe(file: Path) -> str:
    """The text of a corpus's recipe with names for local paths; comments and the rest stay as they are.

    Raises:
        UsageError: it is not a recipe.
    """
    recipe = load_recipe(file).recipe
    return rewritten(file, [f"{field}={flow(name)}" for field, name in local_paths(recipe)])


def local_paths(recipe: Recipe) -> Iterator[tuple[str, object]]:
    """(field, what takes its place) of every field that holds a local path."""
    for number, source in enumerate(recipe.text.sources):
        if source.path is not None:
            # The endings say how a file is read.
            name = source.name + "".join(source.path.suffixes[-2:])
            yield f"text.sources[{number}].path", name
    for role in ("tokenizer", "expert", "amateur"):
        if isinstance(getattr(getattr(recipe, role), "path", None), Path):
            yield f"{role}.path", role
    for number, model in enumerate(recipe.decode.models or ()):
        if isinstance(model.path, Path):
            yield f"decode.models[{number}].path", f"model-{number}"
    for number, also in enumerate(recipe.mix.also):
        yield f"mix.also[{number}].corpus", also.corpus.name
    searched = recipe.filters.contamination if recipe.filters else None
    for number, one in enumerate(searched.against if searched else ()):
        fields = {"fields": list(one.fields)} if one.fields else {}
        yield f"filters.contamination.against[{number}]", {"path": one.label, **fields}
