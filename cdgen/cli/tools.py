"""The verbs about cdgen itself."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cdgen.cli.shared import Json, app, show

if TYPE_CHECKING:
    from pydantic import BaseModel


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete what is listed.")] = False,
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Only what was made so many days ago.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """List the tokenizers, trained weights and remote shards in $CDGEN_CACHE, or clear them; they are made again.

    Example: cdgen cache --clear --older-than 30
    """
    from cdgen.builders.kept import list_cache
    from cdgen.reports.tools import cache_text

    kept = list_cache(clear=clear, older_than_days=older_than)
    show(asdict(kept), cache_text(kept), as_json)


@app.command()
def schema(
    kind: Annotated[
        Literal["recipe", "run", "sweep", "builder"], typer.Argument(help="What to describe.")
    ] = "recipe",
) -> None:
    """Print the JSON Schema of recipes, run files, sweeps or builder profiles, for editors and other programs.

    Example: cdgen schema recipe > recipe.schema.json
    """
    from cdgen.builders.profile import Profile
    from cdgen.recipes.json_schema import schema_text
    from cdgen.recipes.runs import Run
    from cdgen.recipes.schema import Recipe
    from cdgen.recipes.sweeps import Sweep

    models: dict[str, type[BaseModel]] = {
        "recipe": Recipe,
        "run": Run,
        "sweep": Sweep,
        "builder": Profile,
    }
    print(schema_text(models[kind]), end="")
