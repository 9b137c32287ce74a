"""The verb that reports on a corpus."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdgen.cli.shared import Json, app, show

if TYPE_CHECKING:
    from cdgen.reports.statistics import Position


@app.command()
def stats(
    corpus: Annotated[
        str, typer.Argument(metavar="DIR|URL", help="A corpus folder or the address of one.")
    ],
    *,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the report as one page.")
    ] = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=0, help="Documents of each source to show.")
    ] = 2,
    replay: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Decode N rows again, for contrast by position."),
    ] = 0,
    tokens: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Read about so many tokens of each source at most."),
    ] = 10_000_000,
    as_json: Json = False,
) -> None:
    """Report on a corpus: sources, mix, lengths, probabilities, diversity, repetition, copying, contamination, build.

    Example: cdgen stats shards/quickstart --html report.html
    """
    from cdgen.builders.events import EventLog
    from cdgen.corpus import open_corpus
    from cdgen.reports.built import EVENTS_OF_A_BUILD
    from cdgen.reports.plots import needs_matplotlib
    from cdgen.reports.statistics import statistics
    from cdgen.reports.statistics_page import statistics_page
    from cdgen.reports.statistics_text import statistics_text
    from cdgen.storage import atomic_write

    if html is not None:
        needs_matplotlib()
    opened = open_corpus(corpus)
    found = statistics(
        opened,
        num_samples=samples,
        positions=_positions(corpus, replay) if replay else (),
        events=EventLog(opened.folder).new(*EVENTS_OF_A_BUILD),
        max_tokens=tokens,
    )
    if html is not None:
        atomic_write(html, statistics_page(found).encode())
        print(f"cdgen: wrote {html}", file=sys.stderr)
    show({**asdict(found), "notes": list(found.notes())}, statistics_text(found), as_json)


def _positions(corpus: str, num_rows: int) -> "tuple[Position, ...]":
    from cdgen.builders.process import prepare_process
    from cdgen.builders.trace import traced
    from cdgen.reports.statistics import by_position

    prepare_process()
    return by_position(traced(corpus, num_rows))
