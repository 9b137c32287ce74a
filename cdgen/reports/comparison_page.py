"""A comparison as one page: a panel for each task, on a scale of its own, and a table for each condition."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from cdgen.reports.comparison import DIFFERS, MEAN, SELECTIONS, Comparison, Row
from cdgen.reports.comparison_text import HEAD, by_condition, cells, own
from cdgen.reports.page import page, quiet, section, side_by_side, table, text
from cdgen.reports.plots import plot, series

_FRAME, _BAR = 0.9, 0.2
"""Inches: of a panel without conditions, and of each."""
_AXES = {
    "perplexity": "change of the perplexity (lower is better)",
    MEAN: "mean relative change",
}
_KEY = (
    "Dots are changes against the baseline, full where a difference is found. Lines are 95 % intervals over items and "
    "seeds; dotted ones, where there are too few seeds, over items alone."
)


def comparison_page(found: Comparison) -> str:
    """One page; needs matplotlib."""
    return page(f"Comparison against {found.baseline}", _body(found))


def _body(found: Comparison) -> Iterator[str]:
    yield f"<header><h1>Against {text(found.baseline)}</h1></header>"
    for selection in SELECTIONS:
        rows = [row for row in found.rows if row.selection == selection]
        if not rows:
            continue
        tasks = dict.fromkeys(row.task for row in rows)
        panels = (
            _panel(f"{selection}-{number}", task, [row for row in rows if row.task == task])
            for number, task in enumerate(tasks)
        )
        tables = (
            f"<h3>{text(title)}</h3>" + table(own(HEAD), [own(cells(row)) for row in some])
            for title, some in by_condition(rows)
        )
        yield section(f"Checkpoints by {selection}", quiet(_KEY), side_by_side(panels), *tables)
    yield section("Notes", *map(quiet, found.notes))


def _panel(name: str, task: str, rows: Sequence[Row]) -> str:
    drawn = plot(
        name,
        f"Changes of {task}",
        partial(_changes, rows=rows),
        height=_FRAME + _BAR * len(rows),
    )
    return f"<h3>{text(task)}</h3><figure>{drawn}</figure>"


def _changes(axes: Any, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        span, change = row.retrained or row.items, row.score - row.baseline
        color = series(0) if row.verdict == DIFFERS else series(7)
        if span is not None:
            style = ":" if row.retrained is None else "-"
            axes.plot([span.low, span.high], [place, place], style, color=color, linewidth=1.5)
        full = color if row.verdict == DIFFERS else "none"
        axes.plot([change], [place], "o", color=color, markersize=5, markerfacecolor=full)
    axes.axvline(0, linewidth=0.8, color=series(7))
    axes.set_yticks(range(len(rows)), [row.condition for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(_AXES.get(rows[0].task, "change of the score"))
