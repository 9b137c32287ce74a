"""A comparison as text: for a terminal, in Markdown, in LaTeX."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from cdgen.evaluation.statistics import Interval
from cdgen.reports.comparison import DIFFERS, Comparison, Row

HEAD = ("selection", "condition", "task", "seeds", "score", "baseline", "floor", "change", "verdict",
        "items 95 %", "p", "items and seeds 95 %", "needed")  # fmt: skip
_MANY = 1000
_OWN = [HEAD.index(name) for name in HEAD if name not in ("selection", "condition", "seeds")]


def cells(row: Row) -> tuple[str, ...]:
    """A row as text; scores of accuracies as they are, between 0 and 1."""
    return (
        row.selection, row.condition, row.task, str(row.seeds), f"{row.score:.4f}", f"{row.baseline:.4f}",
        row.floor, f"{row.score - row.baseline:+.4f}", row.verdict, _span(row.items),
        "" if row.items is None else f"{row.items.p:.3f}", _span(row.retrained) or "too few seeds",
        _count(row.needed),
    )  # fmt: skip


def own(row: Sequence[str]) -> tuple[str, ...]:
    """The cells that are not in the heading of a condition."""
    return tuple(row[i] for i in _OWN)


def by_condition(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """(heading, rows) of each selection and condition."""
    for (selection, condition, seeds), some in groupby(
        rows, key=lambda row: (row.selection, row.condition, row.seeds)
    ):
        yield f"{condition} ({seeds} seed{'s' * (seeds != 1)}, {selection})", list(some)


def _count(needed: int | None) -> str:
    """As many as tell anything: the difference of nothing needs more than there are."""
    return "" if needed is None else f"{needed:,}" if needed < _MANY else f"over {_MANY:,}"


def _span(found: Interval | None) -> str:
    return "" if found is None else f"{found.low:+.4f} to {found.high:+.4f}"


def comparison_text(found: Comparison) -> str:
    """For a terminal: a table of each condition."""
    table = [own(HEAD), *(own(cells(row)) for row in found.rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(row: Sequence[str]) -> str:
        return "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()

    lines = [f"against {found.baseline}", ""]
    for title, rows in by_condition(found.rows):
        lines += [title, line(own(HEAD)), *(line(own(cells(row))) for row in rows), ""]
    return "\n".join([*lines, *found.notes])


def comparison_markdown(found: Comparison) -> str:
    """A table and the notes."""
    rows = [HEAD, ("---",) * len(HEAD), *map(cells, found.rows)]
    table = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(
        [f"Against `{found.baseline}`:", "", *table, "", *(f"- {note}" for note in found.notes), ""]
    )


_TEX_ROWS = 48
"""Of a table, about as many as a page has room for."""
_TEX_HEAD = ("task", "score", "base", "floor", "change", "items", "items, seeds", "needed")


def comparison_latex(found: Comparison) -> str:
    """Tabulars of booktabs, each for one page; the notes are comments."""
    lines = [f"% {note}" for note in found.notes]
    lines += [
        "% change against the base with its 95 % intervals, over items and over items and seeds; * where a",
        r"% difference is found. The tables need \usepackage{booktabs}",
    ]
    for selection, rows in groupby(found.rows, key=lambda row: row.selection):
        for some in _pages(list(by_condition(list(rows)))):
            lines += ["", f"% checkpoints by {selection}", *_tabular(some)]
    return "\n".join([*lines, ""])


def _pages(groups: Sequence[tuple[str, list[Row]]]) -> Iterator[list[tuple[str, list[Row]]]]:
    """Conditions that fit one page together."""
    page: list[tuple[str, list[Row]]] = []
    for group in groups:
        if page and sum(len(rows) + 1 for _, rows in [*page, group]) > _TEX_ROWS:
            yield page
            page = []
        page.append(group)
    yield page


def _tabular(groups: Sequence[tuple[str, list[Row]]]) -> Iterator[str]:
    yield r"{\footnotesize\setlength{\tabcolsep}{3pt}%"
    yield rf"\begin{{tabular}}{{@{{}}l{'r' * (len(_TEX_HEAD) - 1)}@{{}}}}"
    yield r"\toprule"
    yield " & ".join(_TEX_HEAD) + r" \\"
    for title, rows in groups:
        yield r"\midrule"
        yield rf"\multicolumn{{{len(_TEX_HEAD)}}}{{@{{}}l}}{{\textbf{{{_tex(title)}}}}} \\"
        yield from (" & ".join(_tex_cells(row)) + r" \\" for row in rows)
    yield r"\bottomrule"
    yield r"\end{tabular}}"


def _tex_cells(row: Row) -> tuple[str, ...]:
    star = r"$^{*}$" if row.verdict == DIFFERS else ""
    return (
        _tex(row.task), f"${row.score:.3f}$", f"${row.baseline:.3f}$",
        "--".join(f"${one}$" for one in row.floor.split(" to ") if one),
        f"${row.score - row.baseline:+.3f}${star}", _tex_span(row.items), _tex_span(row.retrained) or "--",
        _count(row.needed) or "--",
    )  # fmt: skip


def _tex_span(found: Interval | None) -> str:
    return "" if found is None else f"$[{found.low:+.3f}, {found.high:+.3f}]$"


def _tex(cell: str) -> str:
    for sign in "%_&#$":
        cell = cell.replace(sign, "\\" + sign)
    return cell
