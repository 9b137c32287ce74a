"""A comparison as one page."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from cdgen.reports.comparison import SELECTIONS, Comparison, Row
from cdgen.reports.comparison_text import HEAD, by_condition, cells, own
from cdgen.reports.page import page, quiet, section, table, text
from cdgen.reports.plots import plot, series

_INCHES_A_BAR = 0.16


def comparison_page(found: Comparison) -> str:
    """One page; needs matplotlib."""
    return page(f"Comparison against {found.baseline}", _body(found))


def _body(found: Comparison) -> Iterator[str]:
    yield f"<header><h1>Against {text(found.baseline)}</h1></header>"
    for selection in SELECTIONS:
        rows = [row for row in found.rows if row.selection == selection]
        drawn = plot(
            selection,
            f"Changes, {selection}",
            partial(_changes, rows=rows),
            height=max(3.0, 1.2 + _INCHES_A_BAR * (len(rows) + len({row.task for row in rows}))),
        )
        tables = (
            f"<h3>{text(title)}</h3>" + table(own(HEAD), [own(cells(row)) for row in some])
            for title, some in by_condition(rows)
        )
        yield section(f"Checkpoints by {selection}", f"<figure>{drawn}</figure>", *tables)
    yield section("Notes", *map(quiet, found.notes))


def _changes(axes: Any, rows: Sequence[Row]) -> None:
    tasks = list(dict.fromkeys(row.task for row in rows))
    conditions = list(dict.fromkeys(row.condition for row in rows))
    for number, condition in enumerate(conditions):
        mine = [row for row in rows if row.condition == condition and row.items is not None]
        places = [
            tasks.index(row.task) + 0.8 * (number + 0.5) / len(conditions) - 0.4 for row in mine
        ]
        spans = [row.retrained or row.items for row in mine]
        values = [row.score - row.baseline for row in mine]
        for place, span in zip(places, spans, strict=True):
            assert span is not None
            axes.plot([span.low, span.high], [place, place], color=series(number), linewidth=1.5)
        axes.plot(values, places, "o", color=series(number), markersize=4, label=condition)
    axes.axvline(0, linewidth=0.8, color=series(7))
    axes.set_yticks(range(len(tasks)), tasks)
    axes.invert_yaxis()
    axes.set_xlabel("change against the baseline, with 95 % intervals")
    axes.legend()
