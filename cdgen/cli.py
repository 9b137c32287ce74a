"""The command line: one short function per verb. Data on stdout, progress on stderr, errors as one line.

Exit codes: 0 done; 1 failed, or incomplete; 2 wrong usage, found before any work.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cdgen import __version__
from cdgen.errors import BuildError, CdgenError, UsageError

app = typer.Typer(
    name="cdgen",
    help="Synthetic pre-training corpora made by contrastive decoding.\n\nExample: cdgen build quickstart",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a packaged one.")
]
CorpusPath = Annotated[Path, typer.Argument(metavar="DIR", help="A corpus folder.")]
Out = Annotated[
    Path | None, typer.Option(help="The corpus folder; shards/<recipe name> by default.")
]
Builder = Annotated[
    str | None,
    typer.Option(help="A builder profile, or the name of a packaged one; this process by default."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field, such as mix.synthetic=0.4 or text.sources[0].path=a.txt; may be repeated.",
    ),
]


def main() -> None:
    """Run the command line; what a user can cause is one line on stderr, never a traceback."""
    try:
        app()
    except CdgenError as error:
        print(f"cdgen: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("cdgen: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"cdgen {__version__}")
        raise typer.Exit


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new recipe.")] = Path(
        "recipe.yaml"
    ),
    text: Annotated[
        Path | None,
        typer.Option(help="Your text, a blank line between documents; fairy tales by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a commented recipe that builds as it is, with all it needs beside it. Overwrites nothing.

    Example: cdgen init mine.yaml --text data/novels.txt
    """
    from cdgen.recipes.starter import init as write
    from cdgen.reports.tools import init_text

    written = write(file, text)
    _print({"files": [str(path) for path in written]}, init_text(written, own=bool(text)), as_json)


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

    if builder is not None:
        load_profile(_named("builders", builder))  # local is the one engine there is
    file = load_recipe(_named("recipes", recipe), set=changes or ())
    prepare_process()
    report = run(file, out, progress=listener(sys.stderr), accept_class=accept_class)
    _print(asdict(report), build_text(report), as_json)


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recipe or a builder profile.")],
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Check a recipe or a builder profile; every mistake is named with file, line and column.

    Example: cdgen check recipe.yaml
    """
    from cdgen.builders.profile import check_file

    kind, name = check_file(_named("recipes", file), changes or ())
    _print(
        {"file": file, "kind": kind, "name": name, "valid": True},
        f"{file}: a valid {kind}, {name}",
        as_json,
    )


@app.command()
def plan(
    recipe: RecipePath,
    out: Out = None,
    changes: Changes = None,
    timed: Annotated[
        bool, typer.Option("--time/--no-time", help="Measure a few steps here, for the time.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Count what a build would make, and what it needs: disk, memory, time. Builds nothing.

    Example: cdgen plan recipe.yaml
    """
    from cdgen.builders.plan import plan as count
    from cdgen.recipes.load import load_recipe
    from cdgen.reports.summary import plan_text

    file = load_recipe(_named("recipes", recipe), set=changes or ())
    if timed:
        from cdgen.builders.process import prepare_process

        prepare_process()
    planned = count(file, out, timed=timed)
    _print(asdict(planned), plan_text(planned), as_json)


@app.command()
def status(folder: CorpusPath, as_json: Json = False) -> None:
    """Tell how far a build is; also from another shell, also after a crash.

    Example: cdgen status shards/quickstart
    """
    from cdgen.builders.status import status as read
    from cdgen.reports.summary import status_text

    state = read(folder)
    _print(asdict(state), status_text(state), as_json)


@app.command()
def verify(
    folder: CorpusPath,
    replay: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also decode N rows again and compare tokens.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Check a corpus: hashes, counts, keys, provenance, splits, the share of synthetic tokens.

    Example: cdgen verify shards/quickstart --replay 8
    """
    from cdgen.reports.progress import listener
    from cdgen.reports.verification import replay_text, verify_text
    from cdgen.shards.verify import verify as examine

    with listener(sys.stderr).stage("verify", total=None, unit="byte") as advance:
        report = examine(folder, progress=advance)
    facts, text, failed = asdict(report), verify_text(str(folder), report), bool(report.problems)
    if replay and not failed:
        from cdgen.builders.process import prepare_process
        from cdgen.builders.trace import replay as decode_again

        prepare_process()
        again = decode_again(folder, replay)
        facts, text = {**facts, "replay": asdict(again)}, f"{text}\n{replay_text(again)}"
        failed = bool(again.differences)
    _print(facts, text, as_json)
    if failed:
        raise typer.Exit(1)


@app.command()
def explain(
    folder: CorpusPath,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A synthetic sample's key.")],
    as_json: Json = False,
) -> None:
    """Tell why a synthetic sample reads as it does: per token what each model thought of it.

    Example: cdgen explain shards/quickstart s0123456789abcdef01234567-0-0000-000-00
    """
    from cdgen.builders.process import prepare_process
    from cdgen.builders.trace import explain as trace
    from cdgen.reports.verification import explain_text

    prepare_process()
    steps = trace(folder, key)
    _print({"key": key, "steps": [asdict(step) for step in steps]}, explain_text(steps), as_json)


@app.command()
def mix(
    folder: CorpusPath,
    *,
    synthetic: Annotated[float, typer.Option(help="The share of synthetic text, such as 0.4.")],
    out: Annotated[Path, typer.Option(help="The new corpus's folder.")],
    seed: Annotated[
        int | None, typer.Option(help="Of the order; the corpus's own by default.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="real_once, synthetic_once, or a number of tokens.")
    ] = None,
    repeat: Annotated[
        str | None, typer.Option(help="error, or allow: when a text is too short.")
    ] = None,
    materialize: Annotated[
        bool | None,
        typer.Option(help="Whether to write mixed shards; as the corpus does by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Mix a finished corpus anew, at another share, into a new folder. Needs no recipe inputs and no models.

    Example: cdgen mix shards/mine --synthetic 0.4 --out shards/mine-40
    """
    from cdgen.builders.remix import mix as run
    from cdgen.reports.progress import listener
    from cdgen.reports.summary import mix_text

    report = run(
        folder,
        out,
        synthetic=synthetic,
        seed=seed,
        size=size,
        repeat=repeat,
        materialize=materialize,
        progress=listener(sys.stderr),
    )
    _print(asdict(report), mix_text(report), as_json)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A corpus folder or a recipe.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    as_json: Json = False,
) -> None:
    """Tell what differs between two corpora, or two recipes, and why: fields, digests, shards, samples.

    Exit 0: the same shards (two recipes: the same digests). Exit 1: different. Exit 2: they cannot be compared.

    Example: cdgen diff shards/quickstart shards/quickstart-40
    """
    from cdgen.reports.difference import difference
    from cdgen.reports.difference_text import difference_text

    try:
        found = difference(
            *(Path(one) if Path(one).is_dir() else _named("recipes", one) for one in (a, b))
        )
    except BuildError as error:  # damaged, or not finished: 1 would say that they differ
        raise UsageError(str(error)) from None
    _print(asdict(found), difference_text(found), as_json)
    if not found.same:
        raise typer.Exit(1)


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of webdataset tars.")],
    out: Annotated[
        Path | None, typer.Option(help="The index's folder; DIR/cdgen-index by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Index webdataset tars that cdgen did not write, without touching them. Exit 1: a tar was refused.

    Example: cdgen index data/wikipedia --out data/wikipedia-index
    """
    from cdgen.reports.progress import listener
    from cdgen.reports.tools import index_text
    from cdgen.shards.foreign import index_tars

    with listener(sys.stderr).stage("index", total=None, unit="tar") as advance:
        report = index_tars(folder, out, advance=advance)
    _print(asdict(report), index_text(report), as_json)
    if report.manifest.refused:
        raise typer.Exit(1)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete what is listed.")] = False,
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Only what was made so many days ago.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """List the tokenizers and trained weights in $CDGEN_CACHE, or clear them; a build trains them again.

    Example: cdgen cache --clear --older-than 30
    """
    from cdgen.builders.kept import list_cache
    from cdgen.reports.tools import cache_text

    kept = list_cache(clear=clear, older_than_days=older_than)
    _print(asdict(kept), cache_text(kept), as_json)


@app.command()
def schema(
    kind: Annotated[
        Literal["recipe", "builder"], typer.Argument(help="What to describe.")
    ] = "recipe",
) -> None:
    """Print the JSON Schema of recipes or builder profiles, for editors and other programs.

    Example: cdgen schema recipe > recipe.schema.json
    """
    from cdgen.builders.profile import Profile
    from cdgen.recipes.json_schema import schema_text
    from cdgen.recipes.schema import Recipe

    print(schema_text(Recipe if kind == "recipe" else Profile), end="")


def _named(kind: Literal["recipes", "builders"], named: str) -> Path:
    """A file, or what is packaged under a bare name."""
    from cdgen.resources import resource

    is_name = "/" not in named and not named.endswith((".yaml", ".yml"))
    return resource(kind, named) if is_name and not Path(named).is_file() else Path(named)


def _print(facts: dict[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(facts, indent=1, ensure_ascii=False, default=str) if as_json else text)
