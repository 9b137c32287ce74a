"""The verbs that look into corpora and make one from another."""

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.shared import CorpusAt, CorpusDir, Json, app, named, show
from cdgen.errors import BuildError, UsageError


@app.command()
def verify(
    folder: CorpusAt,
    replay: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also decode N rows again and compare tokens.")
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Processes that check shards; by default one for a small corpus, else the cores.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a corpus: hashes, counts, keys, provenance, splits, the share of synthetic tokens.

    Example: cdgen verify shards/quickstart --replay 8
    """
    from cdgen.builders.checking import verify_anywhere
    from cdgen.reports.progress import listener
    from cdgen.reports.verification import replay_text, verify_text

    with listener(sys.stderr).stage("verify", total=None, unit="byte") as advance:
        where, report = verify_anywhere(folder, progress=advance, workers=workers)
    facts, text, failed = asdict(report), verify_text(where, report), bool(report.problems)
    if replay and not failed:
        from cdgen.builders.process import prepare_process
        from cdgen.builders.trace import replay as decode_again

        prepare_process()
        again = decode_again(folder, replay)
        facts, text = {**facts, "replay": asdict(again)}, f"{text}\n{replay_text(again)}"
        failed = bool(again.differences)
    show(facts, text, as_json)
    if failed:
        raise typer.Exit(1)


@app.command()
def explain(
    folder: CorpusAt,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A synthetic sample's key.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as one page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell why a synthetic sample reads as it does: per token what each model thought of it.

    Example: cdgen explain shards/quickstart s0123456789abcdef01234567-0-0000-000-00
    """
    from cdgen.builders.process import prepare_process
    from cdgen.builders.trace import explain as trace
    from cdgen.reports.explained import explained_page, explained_text
    from cdgen.reports.verification import explain_text
    from cdgen.storage import atomic_write

    prepare_process()
    steps = trace(folder, key)
    if html is not None:
        atomic_write(html, explained_page(key, steps).encode())
        print(f"cdgen: wrote {html}", file=sys.stderr)
    text = explain_text(steps)
    if sys.stdout.isatty():
        colored = explained_text(steps, width=shutil.get_terminal_size().columns)
        text = f"{colored}\n\n{text}"
    show({"key": key, "steps": [asdict(step) for step in steps]}, text, as_json)


@app.command()
def mix(
    folder: CorpusDir,
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
    show(asdict(report), mix_text(report), as_json)


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
            *(Path(one) if Path(one).is_dir() else named("recipes", one) for one in (a, b))
        )
    except BuildError as error:  # damaged, or not finished: 1 would say that they differ
        raise UsageError(str(error)) from None
    show(asdict(found), difference_text(found), as_json)
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
    show(asdict(report), index_text(report), as_json)
    if report.manifest.refused:
        raise typer.Exit(1)
