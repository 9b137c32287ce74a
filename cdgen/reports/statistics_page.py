"""The report of `cdgen stats` as a page: the terminal's tables, plots, and documents of each source side by side."""

from collections.abc import Iterator

from cdgen.reports.page import facts, page, quiet, section, side_by_side, table, text
from cdgen.reports.plots import plots
from cdgen.reports.statistics import Shown, Statistics
from cdgen.reports.statistics_text import Table, provenance, tables

_PLOTS = {"Heads and probabilities of drawn tokens": ("Heads", "Probabilities")}
"""By a table's title, up to its comma, the plots that belong to it, where they are not called the same."""


def statistics_page(found: Statistics) -> str:
    """The whole page; needs matplotlib."""
    return page(f"{found.name}: corpus report", _body(found))


def _body(found: Statistics) -> Iterator[str]:
    tokens = " and ".join(f"{one.num_tokens:,} {one.label}" for one in found.sources)
    share = "" if found.mix is None else f"; {found.mix.realised:.2%} synthetic in the mix"
    yield f"<header><h1>{text(found.name)}</h1>"
    yield quiet(f"corpus report; {tokens} train tokens{share}")
    yield f"{quiet(f'manifest {found.manifest_digest}')}</header>"
    drawn = plots(found)
    for each in tables(found):
        title, _, unit = each.title.partition(", ")
        figures = [
            f"<figure>{drawn[name]}</figure>"
            for name in _PLOTS.get(title, (title,))
            if name in drawn
        ]
        yield section(title, *_unit(unit), *_laid_out(each, figures))
    if found.samples:
        yield section(
            "Documents",
            quiet("chosen by a hash of their keys; prefixes underlined"),
            _documents(found),
        )
    yield section("Notes", *map(quiet, found.notes()))


def _unit(unit: str) -> Iterator[str]:
    if unit:
        yield quiet(unit)


def _laid_out(each: Table, figures: list[str]) -> Iterator[str]:
    numbers = table(each.head, each.rows) + (quiet(each.note) if each.note else "")
    if len(figures) == 1:
        yield side_by_side([figures[0], numbers])
    else:
        yield from ([side_by_side(figures)] if figures else [])
        yield numbers


def _documents(found: Statistics) -> str:
    labels = dict.fromkeys(shown.label for shown in found.samples)
    columns = [
        "\n".join(_document(shown) for shown in found.samples if shown.label == label)
        for label in labels
    ]
    return side_by_side(columns)


def _document(shown: Shown) -> str:
    prefix = f'<span class="prefix">{text(shown.prefix)}</span>' if shown.prefix else ""
    end = " …" if shown.is_cut else ""
    return (
        f'<article><h3>{text(shown.label)}</h3><p class="said">{prefix}{text(shown.text)}{end}</p>'
        f"{facts(provenance(shown))}</article>"
    )
