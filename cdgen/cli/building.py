"""The verbs that lead from a recipe to a corpus."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.shared import Builder, Changes, CorpusAt, Json, Out, RecipePath, app, named, show
from cdgen.errors import UsageError


@app.command()
def init(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The new recipe; recipe.yaml by default.")
    ] = None,
    *,
    text: Annotated[
        Path | None,
        typer.Option(help="Your text, a blank line between documents; fairy tales by default."),
    ] = None,
    expert: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="The expert: hf://OWNER/NAME[@REVISION], or a folder; by default one is trained.",
        ),
    ] = None,
    copy: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Instead: copy a folder of packaged recipes, such as paper, to FILE; recipes/FOLDER by default.",
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Instead: list the packaged recipes by name.")
    ] = False,
    builder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Instead: write a builder's profile and launch file beside FILE: slurm, kuberay, ray-cluster.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a commented recipe that builds as it is, with all it needs beside it. Overwrites nothing.

    Example: cdgen init mine.yaml --text data/novels.txt --from hf://HuggingFaceTB/SmolLM2-135M
    Example: cdgen init --copy paper
    Example: cdgen init mine.yaml --builder slurm
    """
    if listed or copy is not None:
        _packaged(file, copy, as_json)
        return
    if builder is not None:
        if text is not None or expert is not None:
            raise UsageError("--builder writes no recipe: leave --text and --from out")
        _init_builder(builder, file or Path("recipe.yaml"), as_json=as_json)
        return
    from cdgen.recipes.starter import init as write
    from cdgen.reports.tools import init_text

    given = None
    if expert is not None:
        from cdgen.builders.look_up import look_up

        given = look_up(expert)
    written = write(file or Path("recipe.yaml"), text, given)
    printed = init_text(written, own=bool(text), expert=given)
    show({"files": [str(path) for path in written]}, printed, as_json)


def _packaged(target: Path | None, copy: str | None, as_json: bool) -> None:
    """List the packaged recipes, or copy a folder of them."""
    from cdgen.recipes.starter import copy_collection
    from cdgen.resources import names

    if copy is None:
        found = names("recipes")
        show({"recipes": found}, "\n".join(found), as_json)
        return
    files = [str(path) for path in copy_collection(copy, target)]
    folder = target or Path("recipes") / copy
    show({"files": files}, f"{len(files)} files in {folder}; README.md says what is what", as_json)


def _init_builder(builder: str, recipe: Path, *, as_json: bool) -> None:
    from cdgen.builders.launch import LAUNCHES, write_launch
    from cdgen.reports.tools import launch_text

    written = write_launch(builder, recipe)
    printed = launch_text(written, builder, recipe, LAUNCHES.get(builder))
    show({"files": [str(path) for path in written]}, printed, as_json)


@app.command()
def build(
    recipe: RecipePath,
    *,
    out: Out = None,
    builder: Builder = None,
    changes: Changes = None,
    accept_class: Annotated[
        bool,
        typer.Option(
            "--accept-class", help="Go on with shards that another kind of machine decoded."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Build a recipe's corpus, or finish a build that was interrupted.

    Example: cdgen build recipe.yaml --out shards/mine --set mix.synthetic=0.4
    """
    from cdgen.builders.process import prepare_process
    from cdgen.builders.profile import load_profile
    from cdgen.builders.run import build as run
    from cdgen.recipes.load import load_recipe
    from cdgen.reports.progress import listener
    from cdgen.reports.summary import build_text

    profile = load_profile(named("builders", builder)) if builder is not None else None
    file = load_recipe(named("recipes", recipe), set=changes or ())
    prepare_process()
    report = run(
        file, out, progress=listener(sys.stderr), accept_class=accept_class, profile=profile
    )
    show(asdict(report), build_text(report), as_json)


@app.command()
def check(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A recipe, a run file, a sweep or a builder profile."),
    ],
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Check a recipe, a run file, a sweep or a builder profile; every mistake is named with its place.

    Example: cdgen check recipe.yaml
    """
    from cdgen.builders.profile import check_file

    kind, name = check_file(named("recipes", file), changes or ())
    show(
        {"file": file, "kind": kind, "name": name, "valid": True},
        f"{file}: a valid {kind}, {name}",
        as_json,
    )


@app.command()
def plan(
    recipe: RecipePath,
    *,
    out: Out = None,
    builder: Builder = None,
    changes: Changes = None,
    timed: Annotated[
        bool, typer.Option("--time/--no-time", help="Measure a few steps here, for the time.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Count what a build would make, and what it needs: disk, memory, time. Builds nothing.

    With --builder also over how many workers, and how long they take; a running cluster is asked, none is started.

    Example: cdgen plan recipe.yaml
    Example: cdgen plan recipe.yaml --builder ray-cluster.yaml --json
    """
    from cdgen.builders.plan import plan as count
    from cdgen.builders.profile import load_profile
    from cdgen.recipes.load import load_recipe
    from cdgen.reports.summary import plan_text

    profile = load_profile(named("builders", builder)) if builder is not None else None
    file = load_recipe(named("recipes", recipe), set=changes or ())
    if timed or profile is not None:  # both may load torch
        from cdgen.builders.process import prepare_process

        prepare_process()
    planned = count(file, out, timed=timed, profile=profile)
    show(asdict(planned), plan_text(planned), as_json)


@app.command()
def status(
    folder: CorpusAt,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on looking, every two seconds, while it runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell how far a build is, worker by worker; also from another shell, also after a crash.

    Example: cdgen status shards/quickstart --watch
    """
    from cdgen.builders.status import Watch
    from cdgen.reports.summary import status_text
    from cdgen.reports.watching import watch_build

    if watch and as_json:
        raise UsageError("--watch is for people; programs call cdgen status --json again")
    seen = Watch(folder)
    state = seen.look()
    if watch and state.state == "running":
        watch_build(seen, sys.stdout)
    else:
        show(asdict(state), status_text(state), as_json)
