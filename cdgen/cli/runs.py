"""The verbs that lead from a corpus to evidence: train, compare."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.shared import Changes, Json, app, show


@app.command()
def train(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run file.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/<run name> by default.")
    ] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Train a model on a corpus, or finish a training that was interrupted. torchrun -m cdgen train divides it.

    Example: cdgen train run.yaml --set train.seed=44 --out runs/baseline-44
    """
    from cdgen.builders.process import prepare_process
    from cdgen.builders.train import train as fit
    from cdgen.recipes.runs import load_run
    from cdgen.reports.progress import listener
    from cdgen.reports.trained import trained_text

    file = load_run(run, set=changes or ())
    prepare_process()
    trained = fit(file, out, progress=listener(sys.stderr))
    if trained.is_first:
        show(asdict(trained), trained_text(trained), as_json)
