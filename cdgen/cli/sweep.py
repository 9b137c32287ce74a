"""The verb that runs a whole study."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.shared import Builder, Changes, Json, app, named, show
from cdgen.errors import UsageError


def verbs() -> set[str]:
    """What cdgen can do."""
    return {command.name or "" for command in app.registered_commands} | {
        command.callback.__name__ for command in app.registered_commands if command.callback
    }


@app.command()
def sweep(
    file: Annotated[
        str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a packaged one.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder; runs/<sweep name> by default.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A condition, a run (condition-seed) or a corpus, and what it needs; may be repeated.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the jobs and what is done; run nothing.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Also copy what is small to this folder: run.json, results, items, tables."
        ),
    ] = None,
    builder: Builder = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Build, train, evaluate and compare: a study as one list of jobs. The same command goes on after any crash.

    Example: cdgen sweep recipes/mini/english.sweep.yaml --set evaluate.data=eval
    """
    from cdgen.builders.profile import load_profile
    from cdgen.builders.study import Study
    from cdgen.builders.sweep import Swept, bring_results
    from cdgen.builders.sweep import sweep as run
    from cdgen.cli.children import Children
    from cdgen.recipes.sweeps import load_sweep
    from cdgen.reports.progress import listener
    from cdgen.reports.swept import swept_text

    if builder is not None:
        load_profile(named("builders", builder))
    opened = load_sweep(named("recipes", file), set=changes or ())
    if opened.sweep.compare is not None and "compare" not in verbs():
        raise UsageError(
            f"{opened.at(('compare',))}: this version of cdgen compares nothing yet; leave it out"
        )
    study = Study(opened, out, builder=builder)
    chosen = only or ()
    if dry_run:
        swept = Swept(name=study.sweep.name, out=study.out, steps=study.steps(chosen))
    else:
        swept = run(study, Children(), only=chosen, progress=listener(sys.stderr))
    if results is not None:
        bring_results(study, results)
    show(asdict(swept), swept_text(swept, commands=dry_run), as_json)
    if not dry_run and not swept.is_complete:
        raise typer.Exit(1)
