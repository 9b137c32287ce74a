"""The verb that looks at what a trainer would read."""

import time
from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

import typer

from cdgen.cli.shared import Json, app, show
from cdgen.errors import UsageError

MEASURED_SECONDS = 3.0


@app.command()
def stream(
    corpus: Annotated[
        str, typer.Argument(metavar="DIR", help="A corpus folder, or the address of one.")
    ],
    *,
    block: Annotated[int, typer.Option(min=1, help="Tokens per block.")] = 1024,
    num: Annotated[int, typer.Option("-n", "--num", min=0, help="Blocks to show.")] = 3,
    first: Annotated[int, typer.Option(min=0, help="The first block to show.")] = 0,
    text: Annotated[bool, typer.Option("--text", help="Show text instead of token ids.")] = False,
    split: Annotated[Literal["train", "eval"], typer.Option(help="Of the real text.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the order.")] = 0,
    synthetic: Annotated[
        float | None,
        typer.Option(help="The share of synthetic tokens; the corpus's own by default."),
    ] = None,
    repeat: Annotated[
        Literal["error", "allow"] | None,
        typer.Option(help="When a text is too short; as the corpus was mixed by default."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also measure, for a few seconds, how fast blocks come."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show blocks as a trainer gets them, from which documents they come, and how exact the mix is.

    Example: cdgen stream shards/quickstart --block 1024 -n 3 --text --measure
    """
    from cdgen.corpus import open_corpus
    from cdgen.reports import stream as report
    from cdgen.streaming.open import blocks

    options = partial(
        blocks, block=block, split=split, seed=seed, synthetic=synthetic, repeat=repeat
    )
    speed = None
    if measure:
        speed = report.measure(
            lambda: options(corpus), seconds=MEASURED_SECONDS, clock=time.perf_counter
        )
    opened = open_corpus(corpus)
    run = options(opened)
    if num and first >= len(run):
        raise UsageError(f"--first {first}: the epoch has {len(run):,} blocks of {block:,} tokens")
    found = report.look(
        run,
        range(first, min(first + num, len(run))),
        corpus=opened.where,
        split=split,
        seed=seed,
        tokenizer=report.tokenizer_of(opened.folder) if text else None,
        speed=speed,
    )
    show(asdict(found), report.stream_text(found), as_json)
