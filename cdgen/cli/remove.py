"""The verb that takes documents out of a corpus."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.shared import CorpusDir, Json, app, show


@app.command()
def remove(
    folder: CorpusDir,
    *,
    doc: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A document's id, as in samples; may be repeated."),
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of such ids, one on each line.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The new corpus's folder.")],
    as_json: Json = False,
) -> None:
    """Write a corpus anew without some documents and everything that was generated from their prefixes.

    Example: cdgen remove shards/mine --doc 0123456789abcdef01234567-0 --out shards/mine-2
    """
    from cdgen.builders.remove import listed
    from cdgen.builders.remove import remove as run
    from cdgen.reports.progress import listener
    from cdgen.reports.removal import remove_text

    documents = [*(doc or ()), *(listed(docs) if docs else ())]
    report = run(folder, out, documents, progress=listener(sys.stderr))
    show(asdict(report), remove_text(report), as_json)
