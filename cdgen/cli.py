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
from cdgen.errors import CdgenError

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
def build(
    recipe: RecipePath,
    out: Out = None,
    builder: Builder = None,
    accept_class: Annotated[
        bool,
        typer.Option(
            "--accept-class", help="Go on with shards that another kind of machine decoded."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Build a recipe's corpus, or finish a build that was interrupted.

    Example: cdgen build recipe.yaml --out shards/mine
    """
    from cdgen.builders.process import prepare_process
    from cdgen.builders.profile import load_profile
    from cdgen.builders.run import build as run
    from cdgen.reports.progress import listener
    from cdgen.reports.summary import build_text

    if builder is not None:
        load_profile(_named("builders", builder))  # local is the one engine there is
    prepare_process()
    report = run(
        _named("recipes", recipe), out, progress=listener(sys.stderr), accept_class=accept_class
    )
    _print(asdict(report), build_text(report), as_json)


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recipe or a builder profile.")],
    as_json: Json = False,
) -> None:
    """Check a recipe or a builder profile; every mistake is named with file, line and column.

    Example: cdgen check recipe.yaml
    """
    from cdgen.builders.profile import check_file

    kind, name = check_file(_named("recipes", file))
    _print(
        {"file": file, "kind": kind, "name": name, "valid": True},
        f"{file}: a valid {kind}, {name}",
        as_json,
    )


@app.command()
def plan(recipe: RecipePath, out: Out = None, as_json: Json = False) -> None:
    """Count what a build would make: documents, tokens, prefixes, shards. Builds nothing.

    Example: cdgen plan recipe.yaml
    """
    from cdgen.builders.plan import plan as count
    from cdgen.reports.summary import plan_text

    planned = count(_named("recipes", recipe), out)
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
def verify(folder: CorpusPath, as_json: Json = False) -> None:
    """Check a corpus: hashes, counts, keys, provenance, splits, the share of synthetic tokens.

    Example: cdgen verify shards/quickstart
    """
    from cdgen.reports.progress import listener
    from cdgen.reports.verification import verify_text
    from cdgen.shards.verify import verify as examine

    with listener(sys.stderr).stage("verify", total=None, unit="byte") as advance:
        report = examine(folder, progress=advance)
    _print(asdict(report), verify_text(str(folder), report), as_json)
    if report.problems:
        raise typer.Exit(1)


def _named(kind: Literal["recipes", "builders"], named: str) -> Path:
    """A file, or what is packaged under a bare name."""
    from cdgen.resources import resource

    is_name = "/" not in named and not named.endswith((".yaml", ".yml"))
    return resource(kind, named) if is_name and not Path(named).is_file() else Path(named)


def _print(facts: dict[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(facts, indent=1, ensure_ascii=False, default=str) if as_json else text)
