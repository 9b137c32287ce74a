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


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Run folders with evaluations.")
    ],
    *,
    baseline: Annotated[str, typer.Option(help="The condition to compare with.")] = "baseline",
    tasks: Annotated[
        str, typer.Option(metavar="TASK,…", help="What to compare; by default every task.")
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write one page, with plots.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare conditions: change against a baseline, intervals over items and seeds, noise called noise.

    Example: cdgen compare runs/* --baseline baseline --html comparison.html
    """
    from cdgen.reports import comparison_text
    from cdgen.reports.comparison import compare as compared
    from cdgen.reports.plots import needs_matplotlib
    from cdgen.storage import atomic_write

    if html is not None:
        needs_matplotlib()
    found = compared(runs, baseline=baseline, tasks=[t for t in tasks.split(",") if t])
    if html is not None:
        from cdgen.reports.comparison_page import comparison_page

        atomic_write(html, comparison_page(found).encode())
        print(f"cdgen: wrote {html}", file=sys.stderr)
    text = comparison_text.comparison_text
    if markdown or latex:
        text = comparison_text.comparison_markdown if markdown else comparison_text.comparison_latex
    rows = [{**asdict(row), "verdict": row.verdict} for row in found.rows]
    show({**asdict(found), "rows": rows}, text(found), as_json)
