"""The verb that sends a corpus out."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from cdgen.cli.shared import CorpusPath, Json, app, show


@app.command()
def publish(
    folder: CorpusPath,
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="hf://datasets/OWNER/NAME[@BRANCH], s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, or a folder.",
        ),
    ],
    *,
    private: Annotated[
        bool, typer.Option("--private", help="Of a repository that is made now.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="A branch of the repository; main by default.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Send shards while they are built; visible at the end."),
    ] = False,
    parquet: Annotated[
        bool,
        typer.Option(
            "--parquet", help="A Parquet copy besides, for the Hub's viewer; as much data again."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a finished corpus: all of it or nothing becomes visible. The same again sends only what is missing.

    Example: cdgen publish shards/quickstart hf://datasets/me/quickstart --private
    """
    from cdgen.errors import UsageError
    from cdgen.hub.publish import publish as send
    from cdgen.reports.progress import listener
    from cdgen.reports.publication import publication_text

    if revision and not address.startswith("hf://"):
        raise UsageError("--revision is a branch on the Hub: hf://datasets/… is expected")
    report = send(
        folder,
        f"{address}@{revision}" if revision else address,
        private=private,
        dry_run=dry_run,
        follow=follow,
        parquet=parquet,
        progress=listener(sys.stderr),
    )
    show(asdict(report), publication_text(report), as_json)
