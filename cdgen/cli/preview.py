"""The verb that shows what a recipe's decoding looks like before it is built."""

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.shared import Changes, Json, Out, app, named, show
from cdgen.errors import UsageError


@app.command()
def preview(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A recipe, the name of a packaged one, or a corpus folder."
        ),
    ],
    *,
    prefixes: Annotated[int, typer.Option("-n", "--prefixes", min=1, help="How many.")] = 4,
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens per text, up to generate.new_tokens.")
    ] = 80,
    train: Annotated[
        bool,
        typer.Option("--train", help="Make text and models that are missing, as a build would."),
    ] = False,
    out: Out = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Show a few prefixes under the recipe's method, its head alone and plain sampling, and whether the contrast lives.

    Example: cdgen preview recipe.yaml -n 4 --train
    """
    from cdgen.builders.preview import preview as run
    from cdgen.builders.process import prepare_process
    from cdgen.recipes.load import load_recipe
    from cdgen.reports.preview import preview_text
    from cdgen.reports.progress import listener

    is_folder = Path(recipe).is_dir()
    if is_folder and (changes or train):
        raise UsageError(f"{recipe}: is a corpus folder; --set and --train need a recipe")
    what = recipe if is_folder else load_recipe(named("recipes", recipe), set=changes or ())
    prepare_process()
    seen = run(
        what,
        out,
        num_prefixes=prefixes,
        num_tokens=tokens,
        train=train,
        progress=listener(sys.stderr),
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    show(asdict(seen), preview_text(seen, width), as_json)
