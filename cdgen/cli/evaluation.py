"""The verb that evaluates checkpoints."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.shared import Json, app, show


@app.command("eval")
def evaluate(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="Model folders, run folders (all their steps), or hf://OWNER/NAME[@REVISION].",
        ),
    ],
    *,
    tasks: Annotated[
        list[str],
        typer.Option(
            metavar="T,...",
            help="blimp, blimp_supplement, ewok, entity_tracking, wug_adj, reading, eye_tracking (all seven: study), "
            "wordorder_faroese, wordorder_icelandic, perplexity, lm_eval:<task>; may be repeated.",
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder with copies of the tasks' files.")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL", help="The corpus whose eval split perplexity is measured on."
        ),
    ] = None,
    steps: Annotated[
        str, typer.Option(metavar="N,...", help="Of run folders, only these steps.")
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the first N items of each part: a quick look."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Results go to DIR/<checkpoint>; to eval/ beside it by default."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU where there is one by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate checkpoints on local copies of the study's tasks; what was done before is not done again.

    Example: cdgen eval runs/mine --tasks blimp,entity_tracking --data data/eval
    """
    from cdgen.builders.process import prepare_process

    prepare_process()
    from cdgen.builders.evaluate import evaluate_all
    from cdgen.reports.evaluation import evaluation_text
    from cdgen.reports.progress import listener

    found = evaluate_all(
        checkpoints,
        [name for given in tasks for name in given.split(",") if name],
        steps=_numbers(steps),
        data=data,
        corpus=corpus,
        limit=limit,
        out=out,
        device=device,
        progress=listener(sys.stderr),
    )
    text = "\n\n".join(evaluation_text(one.name, one.folder, one.tasks) for one in found)
    tasks_of = {one.name: one.tasks for one in found}
    show(tasks_of if len(found) > 1 else found[0].tasks, text, as_json)


def _numbers(steps: str) -> list[int]:
    if not all(one.strip().isdigit() for one in steps.split(",") if one):
        raise typer.BadParameter("steps are numbers with commas between them, such as 500,1000")
    return [int(one) for one in steps.split(",") if one]
